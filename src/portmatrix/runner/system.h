/* What differs between operating systems: files, libraries, the clock, memory, and the channels of a worker. */
#ifndef PORTMATRIX_SYSTEM_H
#define PORTMATRIX_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "failure.h"

/* What this program was built for, in the words of a target's PLATFORM: linux-arm64 and the like. */
extern const char system_platform[];
extern const char system_compiler[];

bool system_is_little_endian(void);

/* A function of a library before it is given its type. */
typedef void (*Symbol)(void);

/* Return the arguments in UTF-8, `count` of them, or NULL. */
char **system_arguments(Arena *arena, int *count, char **given);

/* Return a variable of the environment in UTF-8, or NULL. */
const char *system_variable(Arena *arena, const char *name);

/* Crash without a dialogue that waits for somebody to click. */
void system_crash_silently(void);

/* A path as the system's own functions take it: UTF-16 on Windows. */
#if defined(_WIN32)
typedef wchar_t PathSign;
#else
typedef char PathSign;
#endif

/* Return a path as the system takes it, or NULL if it is none. */
const PathSign *system_path(Arena *arena, const char *path);

/* Open a file whose name is UTF-8, as fopen does. */
FILE *system_open(const char *path, const char *mode);

/* Make a folder unless it is there. */
bool system_make_folder(const char *path, Failure *failure);

/* Read a whole file of at most `limit` bytes; a NUL follows what was read. */
bool system_read(Arena *arena, const char *path, size_t limit, char **content, size_t *size, Failure *failure);

/* Write a file from two parts. A full disk is named as such, and is no fault of the model. */
bool system_write(const char *path, const void *head, size_t head_size, const void *body, size_t body_size,
                  Failure *failure);

/* Open a shared library by its path or name, or return NULL. It stays open. */
void *system_library(const char *path, Failure *failure);

/* Return a symbol of a library, or NULL. */
Symbol system_symbol(void *library, const char *name);

/* Seconds on a clock that only goes forward, and by how many it goes forward at least. */
double system_seconds(void);
double system_tick(void);

/* Put into `megabytes` how many MiB of this process are in memory, and what is the most that there have been since that
   was last asked. Return false where the system does not tell. */
bool system_resident(double *megabytes);
bool system_peak(double *megabytes);

/* Give the standard streams to this program alone, and let what anybody prints go to the log: standard input becomes
   nothing, standard output standard error. */
bool system_claim_channels(FILE **requests, FILE **answers);

/* Ask to be killed when the parent dies, where the system can do that. */
void system_die_with_parent(void);

#endif
