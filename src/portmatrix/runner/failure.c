/* What went wrong, in words, and the memory of one request. */
#include "failure.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

typedef struct Block {
    struct Block *next;
    void *memory;
} Block;

static const char GAP[] = " ... ";

/* Copy `text` with every run of white space made one space, and what is no UTF-8 made '?'; in place is fine. */
static size_t flatten(char *out, const char *text) {
    size_t length = 0;
    while (*text != '\0') {
        size_t sign = utf8_length(text, 4);
        if (sign == 0 || (sign == 1 && (unsigned char)*text < 0x20) || *text == ' ' || *text == 0x7f) {
            bool space = sign != 0;
            if (!space) {
                out[length++] = '?';
            } else if (length > 0 && out[length - 1] != ' ') {
                out[length++] = ' ';
            }
            text++;
            continue;
        }
        memmove(out + length, text, sign);
        length += sign;
        text += sign;
    }
    while (length > 0 && out[length - 1] == ' ') {
        length--;
    }
    out[length] = '\0';
    return length;
}

static bool continues(char sign) {
    return ((unsigned char)sign & 0xC0) == 0x80;
}

/* Many runtimes open with where in their source it happened and close with what is wrong: both ends are kept. */
static void keep_both_ends(char *reason, const char *text, size_t length) {
    if (length <= REASON_LENGTH) {
        memcpy(reason, text, length + 1);
        return;
    }
    size_t gap = sizeof GAP - 1;
    size_t head = (REASON_LENGTH - gap) / 2;
    size_t tail = length - (REASON_LENGTH - gap - head);
    while (head > 0 && continues(text[head])) {
        head--;
    }
    while (tail < length && continues(text[tail])) {
        tail++;
    }
    memcpy(reason, text, head);
    memcpy(reason + head, GAP, gap);
    memcpy(reason + head + gap, text + tail, length - tail + 1);
}

static void note(Failure *failure, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = length < 0 ? NULL : malloc((size_t)length + 1);
    if (text == NULL) {
        snprintf(failure->reason, sizeof failure->reason, "out of memory");
        return;
    }
    vsnprintf(text, (size_t)length + 1, format, arguments);
    size_t kept = flatten(text, text);
    keep_both_ends(failure->reason, text, kept);
    free(text);
}

bool fail(Failure *failure, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note(failure, format, arguments);
    va_end(arguments);
    return false;
}

bool fail_of_harness(Failure *failure, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    note(failure, format, arguments);
    va_end(arguments);
    failure->harness = true;
    return false;
}

bool fail_of_memory(Failure *failure) {
    return fail(failure, "out of memory");
}

void *arena_adopt(Arena *arena, void *memory) {
    Block *block = memory == NULL ? NULL : malloc(sizeof *block);
    if (block == NULL) {
        free(memory);
        return NULL;
    }
    block->memory = memory;
    block->next = arena->blocks;
    arena->blocks = block;
    return memory;
}

void *arena_take(Arena *arena, size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size) {
        return NULL;
    }
    size_t bytes = count * size;
    return arena_adopt(arena, calloc(1, bytes == 0 ? 1 : bytes));
}

char *arena_copy(Arena *arena, const char *text, size_t length) {
    char *copy = length == SIZE_MAX ? NULL : arena_take(arena, length + 1, 1);
    if (copy != NULL) {
        memcpy(copy, text, length);
    }
    return copy;
}

char *arena_format(Arena *arena, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : arena_take(arena, (size_t)length + 1, 1);
    if (text != NULL) {
        va_start(arguments, format);
        vsnprintf(text, (size_t)length + 1, format, arguments);
        va_end(arguments);
    }
    return text;
}

void arena_free(Arena *arena) {
    while (arena->blocks != NULL) {
        Block *block = arena->blocks;
        arena->blocks = block->next;
        free(block->memory);
        free(block);
    }
}
