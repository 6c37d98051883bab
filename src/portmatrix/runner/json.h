/* A strict reader of JSON (RFC 8259) into a tree, and a writer of its strings. */
#ifndef PORTMATRIX_JSON_H
#define PORTMATRIX_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "failure.h"

/* Arrays and objects within one another; deeper ones are refused. */
#define JSON_DEPTH 64

typedef enum JsonKind { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

/* One value. `text` is a string's content or a number as it was written; `key` its name if it is a member. */
typedef struct Json {
    JsonKind kind;
    const char *text;
    const char *key;
    size_t count;
    struct Json *first;
    struct Json *next;
} Json;

/* Return the value that the whole text is, or NULL and where it is no JSON. The text must have a NUL behind it. */
const Json *json_read(Arena *arena, const char *text, size_t length, Failure *failure);

/* Return the member of that name; NULL where there is none, more than one, or no object. */
const Json *json_member(const Json *value, const char *key);

/* Return a string's content, or NULL where it is none (or NULL itself). */
const char *json_string(const Json *value);

/* Whether the value is a whole number between the two; it is put into `number` then. */
bool json_integer(const Json *value, int64_t least, int64_t most, int64_t *number);

/* Whether the value is a number that a double can hold; it is put into `number` then. */
bool json_number(const Json *value, double *number);

/* Write a string with its quotation marks; what is no UTF-8 becomes U+FFFD. */
void json_write(FILE *stream, const char *text);

/* Return how many bytes the UTF-8 sequence at `text` has, 0 if it is none. Before a NUL any `length` will do. */
size_t utf8_length(const char *text, size_t length);

#endif
