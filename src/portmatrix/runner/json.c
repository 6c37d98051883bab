/* A strict reader of JSON (RFC 8259) into a tree, and a writer of its strings. */
#include "json.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct Reader {
    Arena *arena;
    Failure *failure;
    const char *start;
    const char *at;
    const char *end;
    int depth;
} Reader;

static bool read_value(Reader *reader, Json *value);

/* Note what is wrong at the place where the reader stands. */
static bool wrong(Reader *reader, const char *what) {
    return fail(reader->failure, "no JSON at byte %zu: %s", (size_t)(reader->at - reader->start), what);
}

static void skip_space(Reader *reader) {
    while (reader->at < reader->end && memchr(" \t\n\r", *reader->at, 4) != NULL) {
        reader->at++;
    }
}

static bool next_is(Reader *reader, char sign) {
    skip_space(reader);
    if (reader->at < reader->end && *reader->at == sign) {
        reader->at++;
        return true;
    }
    return false;
}

/* RFC 3629: no overlong forms, no surrogates, nothing beyond U+10FFFF. */
size_t utf8_length(const char *text, size_t length) {
    const unsigned char *byte = (const unsigned char *)text;
    if (length == 0) {
        return 0;
    }
    if (byte[0] < 0x80) {
        return 1;
    }
    size_t wanted = byte[0] >= 0xF0 ? 4 : byte[0] >= 0xE0 ? 3 : 2;
    if (byte[0] < 0xC2 || byte[0] > 0xF4 || length < wanted) {
        return 0;
    }
    for (size_t index = 1; index < wanted; index++) {
        if ((byte[index] & 0xC0) != 0x80) {
            return 0;
        }
    }
    bool overlong = (byte[0] == 0xE0 && byte[1] < 0xA0) || (byte[0] == 0xF0 && byte[1] < 0x90);
    bool outside = (byte[0] == 0xED && byte[1] > 0x9F) || (byte[0] == 0xF4 && byte[1] > 0x8F);
    return overlong || outside ? 0 : wanted;
}

static bool read_hex(Reader *reader, uint32_t *unit) {
    *unit = 0;
    for (int digit = 0; digit < 4; digit++) {
        if (reader->at == reader->end) {
            return wrong(reader, "the text ends inside \\u");
        }
        char sign = *reader->at;
        uint32_t value;
        if (sign >= '0' && sign <= '9') {
            value = (uint32_t)(sign - '0');
        } else if (sign >= 'a' && sign <= 'f') {
            value = (uint32_t)(sign - 'a') + 10;
        } else if (sign >= 'A' && sign <= 'F') {
            value = (uint32_t)(sign - 'A') + 10;
        } else {
            return wrong(reader, "\\u wants four hexadecimal digits");
        }
        *unit = *unit << 4 | value;
        reader->at++;
    }
    return true;
}

static size_t put_utf8(char *out, uint32_t point) {
    if (point < 0x80) {
        out[0] = (char)point;
        return 1;
    }
    if (point < 0x800) {
        out[0] = (char)(0xC0 | point >> 6);
        out[1] = (char)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        out[0] = (char)(0xE0 | point >> 12);
        out[1] = (char)(0x80 | (point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | point >> 18);
    out[1] = (char)(0x80 | (point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (point & 0x3F));
    return 4;
}

static bool read_unicode_escape(Reader *reader, char *out, size_t *length) {
    uint32_t point;
    if (!read_hex(reader, &point)) {
        return false;
    }
    if (point == 0) {
        return wrong(reader, "a string with a NUL character is not taken here");
    }
    if (point >= 0xDC00 && point <= 0xDFFF) {
        return wrong(reader, "the second half of a surrogate pair without its first");
    }
    if (point >= 0xD800 && point <= 0xDBFF) {
        uint32_t low = 0;
        bool paired = reader->end - reader->at >= 2 && memcmp(reader->at, "\\u", 2) == 0;
        if (paired) {
            reader->at += 2;
            if (!read_hex(reader, &low)) {
                return false;
            }
        }
        if (!paired || low < 0xDC00 || low > 0xDFFF) {
            return wrong(reader, "the first half of a surrogate pair without its second");
        }
        point = 0x10000 + ((point - 0xD800) << 10) + (low - 0xDC00);
    }
    *length += put_utf8(out + *length, point);
    return true;
}

static bool read_escape(Reader *reader, char *out, size_t *length) {
    static const char LETTERS[] = "\"\\/bfnrt";
    static const char MEANT[] = "\"\\/\b\f\n\r\t";
    reader->at++;
    if (reader->at == reader->end) {
        return wrong(reader, "the text ends inside a string");
    }
    char letter = *reader->at;
    const char *found = letter == '\0' ? NULL : strchr(LETTERS, letter);
    if (found != NULL) {
        reader->at++;
        out[(*length)++] = MEANT[found - LETTERS];
        return true;
    }
    if (letter != 'u') {
        return wrong(reader, "unknown escape");
    }
    reader->at++;
    return read_unicode_escape(reader, out, length);
}

/* Read a string whose opening mark has just been passed. No escape is shorter than what it stands for; the byte behind
   the end of the text is there to be pointed at. */
static bool read_string(Reader *reader, const char **text) {
    const char *close = reader->at;
    while (close < reader->end && *close != '"') {
        close += *close == '\\' ? 2 : 1;
    }
    if (close >= reader->end) {
        return wrong(reader, "a string without its closing mark");
    }
    char *out = arena_take(reader->arena, (size_t)(close - reader->at) + 1, 1);
    if (out == NULL) {
        return fail_of_memory(reader->failure);
    }
    size_t length = 0;
    while (*reader->at != '"') {
        if (*reader->at == '\\') {
            if (!read_escape(reader, out, &length)) {
                return false;
            }
            continue;
        }
        size_t sign = utf8_length(reader->at, (size_t)(reader->end - reader->at));
        if (sign == 0 || (unsigned char)*reader->at < 0x20) {
            return wrong(reader, sign == 0 ? "a string that is no UTF-8" : "a control character inside a string");
        }
        memcpy(out + length, reader->at, sign);
        length += sign;
        reader->at += sign;
    }
    reader->at++;
    *text = out;
    return true;
}

static bool is_digit(const Reader *reader) {
    return reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9';
}

static bool read_digits(Reader *reader) {
    if (!is_digit(reader)) {
        return wrong(reader, "a digit is missing");
    }
    while (is_digit(reader)) {
        reader->at++;
    }
    return true;
}

static bool read_number(Reader *reader, Json *value) {
    const char *start = reader->at;
    if (*reader->at == '-') {
        reader->at++;
    }
    bool zero = reader->at < reader->end && *reader->at == '0';
    if (!read_digits(reader)) {
        return false;
    }
    if (zero && reader->at - start > (*start == '-' ? 2 : 1)) {
        return wrong(reader, "a number that begins with 0");
    }
    if (reader->at < reader->end && *reader->at == '.') {
        reader->at++;
        if (!read_digits(reader)) {
            return false;
        }
    }
    if (reader->at < reader->end && (*reader->at == 'e' || *reader->at == 'E')) {
        reader->at++;
        if (reader->at < reader->end && (*reader->at == '+' || *reader->at == '-')) {
            reader->at++;
        }
        if (!read_digits(reader)) {
            return false;
        }
    }
    value->kind = JSON_NUMBER;
    value->text = arena_copy(reader->arena, start, (size_t)(reader->at - start));
    return value->text != NULL || fail_of_memory(reader->failure);
}

static bool read_word(Reader *reader, Json *value, const char *word, JsonKind kind) {
    size_t length = strlen(word);
    if ((size_t)(reader->end - reader->at) < length || memcmp(reader->at, word, length) != 0) {
        return wrong(reader, "expected a value");
    }
    reader->at += length;
    value->kind = kind;
    return true;
}

/* Read the name of a member and the colon behind it. */
static bool read_key(Reader *reader, const char **key) {
    if (!next_is(reader, '"')) {
        return wrong(reader, "expected a member's name in quotation marks");
    }
    if (!read_string(reader, key)) {
        return false;
    }
    return next_is(reader, ':') || wrong(reader, "expected ':' behind a member's name");
}

/* Read what follows '[' or '{', up to and with its closing sign. */
static bool read_items(Reader *reader, Json *value, char close) {
    Json **place = &value->first;
    if (next_is(reader, close)) {
        return true;
    }
    do {
        Json *item = arena_take(reader->arena, 1, sizeof *item);
        if (item == NULL) {
            return fail_of_memory(reader->failure);
        }
        if ((close == '}' && !read_key(reader, &item->key)) || !read_value(reader, item)) {
            return false;
        }
        *place = item;
        place = &item->next;
        value->count++;
    } while (next_is(reader, ','));
    return next_is(reader, close) || wrong(reader, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
}

static bool read_value(Reader *reader, Json *value) {
    skip_space(reader);
    if (reader->at == reader->end) {
        return wrong(reader, "the text ends where a value was expected");
    }
    switch (*reader->at) {
    case '{':
    case '[': {
        if (++reader->depth > JSON_DEPTH) {
            return wrong(reader, "arrays and objects too deep within one another");
        }
        bool object = *reader->at++ == '{';
        value->kind = object ? JSON_OBJECT : JSON_ARRAY;
        bool read = read_items(reader, value, object ? '}' : ']');
        reader->depth--;
        return read;
    }
    case '"':
        reader->at++;
        value->kind = JSON_STRING;
        return read_string(reader, &value->text);
    case 't':
        return read_word(reader, value, "true", JSON_TRUE);
    case 'f':
        return read_word(reader, value, "false", JSON_FALSE);
    case 'n':
        return read_word(reader, value, "null", JSON_NULL);
    case '-':
        return read_number(reader, value);
    default:
        return is_digit(reader) ? read_number(reader, value) : wrong(reader, "expected a value");
    }
}

const Json *json_read(Arena *arena, const char *text, size_t length, Failure *failure) {
    Reader reader = {.arena = arena, .failure = failure, .start = text, .at = text, .end = text + length};
    Json *value = arena_take(arena, 1, sizeof *value);
    if (value == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    if (!read_value(&reader, value)) {
        return NULL;
    }
    skip_space(&reader);
    if (reader.at != reader.end) {
        wrong(&reader, "something follows the value");
        return NULL;
    }
    return value;
}

const Json *json_member(const Json *value, const char *key) {
    const Json *found = NULL;
    if (value == NULL || value->kind != JSON_OBJECT) {
        return NULL;
    }
    for (const Json *item = value->first; item != NULL; item = item->next) {
        if (strcmp(item->key, key) == 0) {
            if (found != NULL) {
                return NULL;
            }
            found = item;
        }
    }
    return found;
}

const char *json_string(const Json *value) {
    return value != NULL && value->kind == JSON_STRING ? value->text : NULL;
}

bool json_integer(const Json *value, int64_t least, int64_t most, int64_t *number) {
    if (value == NULL || value->kind != JSON_NUMBER || strpbrk(value->text, ".eE") != NULL) {
        return false;
    }
    errno = 0;
    long long read = strtoll(value->text, NULL, 10);
    if (errno != 0 || read < least || read > most) {
        return false;
    }
    *number = read;
    return true;
}

bool json_number(const Json *value, double *number) {
    if (value == NULL || value->kind != JSON_NUMBER) {
        return false;
    }
    *number = strtod(value->text, NULL);
    return isfinite(*number);
}

void json_write(FILE *stream, const char *text) {
    fputc('"', stream);
    while (*text != '\0') {
        size_t sign = utf8_length(text, 4);
        unsigned char first = (unsigned char)*text;
        if (sign == 0) {
            fputs("\\ufffd", stream);
            sign = 1;
        } else if (first == '"' || first == '\\') {
            fprintf(stream, "\\%c", first);
        } else if (first < 0x20) {
            fprintf(stream, "\\u%04x", first);
        } else {
            fwrite(text, 1, sign, stream);
        }
        text += sign;
    }
    fputc('"', stream);
}
