/* What went wrong, in words, and the memory of one request. */
#ifndef PORTMATRIX_FAILURE_H
#define PORTMATRIX_FAILURE_H

#include <stdbool.h>
#include <stddef.h>

/* Bytes of a reason, on one line; of a longer one the beginning and the end are kept. */
#define REASON_LENGTH 500

#if defined(__MINGW32__)
#define PRINTF_LIKE(text, first) __attribute__((__format__(__gnu_printf__, text, first)))
#elif defined(__GNUC__)
#define PRINTF_LIKE(text, first) __attribute__((__format__(__printf__, text, first)))
#else
#define PRINTF_LIKE(text, first)
#endif

/* `harness` where the cause lies with this program, the disk or the machine, whatever the stage. */
typedef struct Failure {
    bool harness;
    char reason[REASON_LENGTH + 1];
} Failure;

/* Note why something failed: one line, valid UTF-8, at most REASON_LENGTH bytes. Returns false, to be returned. */
bool fail(Failure *failure, const char *format, ...) PRINTF_LIKE(2, 3);

/* The same for what is no fault of the model or its runtime. */
bool fail_of_harness(Failure *failure, const char *format, ...) PRINTF_LIKE(2, 3);

/* Note that memory ran out. Returns false. */
bool fail_of_memory(Failure *failure);

/* Everything that one request allocates; given back at once by arena_free. Starts as {NULL}. */
typedef struct Arena {
    struct Block *blocks;
} Arena;

/* Return `count` x `size` zeroed bytes, or NULL if there are not so many (0 bytes are some). */
void *arena_take(Arena *arena, size_t count, size_t size);

/* Return a copy of `length` bytes with a NUL behind them, or NULL. */
char *arena_copy(Arena *arena, const char *text, size_t length);

/* Return the formatted text, or NULL. */
char *arena_format(Arena *arena, const char *format, ...) PRINTF_LIKE(2, 3);

/* Take over memory that malloc gave: returns it, or frees it and returns NULL. */
void *arena_adopt(Arena *arena, void *memory);

void arena_free(Arena *arena);

#endif
