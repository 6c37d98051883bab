/* .npy files: read in any byte order into the machine's own, written as numpy writes them. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "system.h"
#include "tensor.h"

static const char MAGIC[] = "\x93NUMPY";
/* No member of a bundle is larger. */
static const uint64_t LARGEST = (uint64_t)4 << 30;
/* numpy pads its headers to a multiple of this. */
enum { ALIGNMENT = 64 };

/* The header, a Python dictionary; `swapped` where the bytes are in the other order. */
typedef struct Header {
    const char *path;
    const char *at;
    const char *end;
    Tensor *tensor;
    bool swapped;
    bool fortran;
    bool seen[3];
    Failure *failure;
} Header;

static bool wrong(const Header *header, const char *what) {
    return fail(header->failure, "%s is no .npy file that is taken here: %s", header->path, what);
}

static void skip_space(Header *header) {
    while (header->at < header->end && (*header->at == ' ' || *header->at == '\n')) {
        header->at++;
    }
}

static bool next_is(Header *header, const char *word) {
    skip_space(header);
    size_t length = strlen(word);
    if ((size_t)(header->end - header->at) < length || memcmp(header->at, word, length) != 0) {
        return false;
    }
    header->at += length;
    return true;
}

/* Read a string in either kind of quotation marks, without escapes: no key and no dtype has any. */
static bool read_string(Header *header, char *text, size_t room) {
    skip_space(header);
    char mark = header->at < header->end ? *header->at : '\0';
    if (mark != '\'' && mark != '"') {
        return wrong(header, "its header has no string where one was expected (arrays with fields are not taken)");
    }
    const char *start = ++header->at;
    while (header->at < header->end && *header->at != mark) {
        header->at++;
    }
    size_t length = (size_t)(header->at - start);
    if (header->at == header->end || length >= room) {
        return wrong(header, "its header has a string that is too long");
    }
    memcpy(text, start, length);
    text[length] = '\0';
    header->at++;
    return true;
}

/* Read numpy's code of a dtype, such as <f4: byte order, letter, bytes. */
static bool read_dtype(Header *header) {
    char code[16];
    if (!read_string(header, code, sizeof code)) {
        return false;
    }
    bool ordered = strchr("<>|=", code[0]) != NULL && code[0] != '\0';
    for (DType dtype = 0; ordered && dtype < DTYPES; dtype++) {
        size_t size = dtype_size(dtype);
        if (code[1] != dtype_kind(dtype) || code[2] != (char)('0' + size) || code[3] != '\0') {
            continue;
        }
        if (code[0] == '|' && size > 1) {
            break;
        }
        header->tensor->dtype = dtype;
        header->swapped = size > 1 && code[0] != '=' && (code[0] == '<') != system_is_little_endian();
        return true;
    }
    return fail(header->failure,
                "%s holds elements of dtype %s; expected bool, int8 to int64, uint8 to uint64 or float16 to float64",
                header->path, code);
}

static bool read_length(Header *header, int64_t *length) {
    const char *start = header->at;
    int64_t value = 0;
    while (header->at < header->end && isdigit((unsigned char)*header->at)) {
        if (value > (INT64_MAX - 9) / 10) {
            return wrong(header, "an axis is longer than any memory");
        }
        value = value * 10 + (*header->at++ - '0');
    }
    *length = value;
    /* Python takes no number that begins with 0 but 0 itself. */
    bool zero = header->at > start + 1 && *start == '0';
    return (header->at > start && !zero) || wrong(header, "its shape is no tuple of whole numbers");
}

static bool read_shape(Header *header) {
    if (!next_is(header, "(")) {
        return wrong(header, "its shape is no tuple of whole numbers");
    }
    Tensor *tensor = header->tensor;
    bool comma = true;
    tensor->rank = 0;
    while (!next_is(header, ")")) {
        if (!comma || tensor->rank == TENSOR_RANK) {
            return wrong(header, comma ? "it has more axes than are taken" : "its shape is no tuple of whole numbers");
        }
        if (!read_length(header, &tensor->shape[tensor->rank])) {
            return false;
        }
        tensor->rank++;
        comma = next_is(header, ",");
    }
    return tensor->rank != 1 || comma || wrong(header, "its shape is no tuple of whole numbers");
}

/* Read one pair of the dictionary; each of the three keys may come once. */
static bool read_pair(Header *header) {
    static const char *const KEYS[] = {"descr", "fortran_order", "shape"};
    char key[16];
    if (!read_string(header, key, sizeof key)) {
        return false;
    }
    size_t number = 0;
    while (number < 3 && strcmp(key, KEYS[number]) != 0) {
        number++;
    }
    if (number == 3 || header->seen[number] || !next_is(header, ":")) {
        return wrong(header, "its header is not the dictionary that numpy writes");
    }
    header->seen[number] = true;
    skip_space(header);
    if (number == 0) {
        return read_dtype(header);
    }
    if (number == 2) {
        return read_shape(header);
    }
    header->fortran = next_is(header, "True");
    return header->fortran || next_is(header, "False") || wrong(header, "fortran_order is neither True nor False");
}

static bool read_header(Header *header) {
    bool comma = true;
    if (!next_is(header, "{")) {
        return wrong(header, "its header is not the dictionary that numpy writes");
    }
    while (!next_is(header, "}")) {
        if (!comma) {
            return wrong(header, "its header is not the dictionary that numpy writes");
        }
        if (!read_pair(header)) {
            return false;
        }
        comma = next_is(header, ",");
    }
    skip_space(header);
    if (header->at != header->end || !header->seen[0] || !header->seen[1] || !header->seen[2]) {
        return wrong(header, "its header is not the dictionary that numpy writes");
    }
    return true;
}

static void swap_bytes(unsigned char *data, size_t bytes, size_t size) {
    for (size_t at = 0; at < bytes; at += size) {
        for (size_t low = 0, high = size - 1; low < high; low++, high--) {
            unsigned char kept = data[at + low];
            data[at + low] = data[at + high];
            data[at + high] = kept;
        }
    }
}

/* Put elements whose first axis varies fastest into C order, where the last one does. */
static bool to_c_order(Arena *arena, Tensor *tensor, size_t elements, Failure *failure) {
    size_t size = dtype_size(tensor->dtype);
    char *out = arena_take(arena, elements, size);
    if (out == NULL) {
        return fail_of_memory(failure);
    }
    const char *from = tensor->data;
    int64_t index[TENSOR_RANK] = {0};
    for (size_t source = 0; source < elements; source++) {
        size_t place = 0;
        for (size_t axis = 0; axis < tensor->rank; axis++) {
            place = place * (size_t)tensor->shape[axis] + (size_t)index[axis];
        }
        memcpy(out + place * size, from + source * size, size);
        for (size_t axis = 0; axis < tensor->rank && ++index[axis] == tensor->shape[axis]; axis++) {
            index[axis] = 0;
        }
    }
    tensor->data = out;
    return true;
}

/* Find the header behind the magic string; `size` bytes are there. */
static bool find_header(Header *header, const char *content, size_t size, size_t *begin) {
    const unsigned char *bytes = (const unsigned char *)content;
    if (size < 10 || memcmp(content, MAGIC, sizeof MAGIC - 1) != 0) {
        return wrong(header, "it does not begin with \\x93NUMPY");
    }
    if ((bytes[6] != 1 && bytes[6] != 2) || bytes[7] != 0) {
        return wrong(header, "its format version is neither 1.0 nor 2.0");
    }
    size_t width = bytes[6] == 1 ? 2 : 4;
    uint64_t length = 0;
    for (size_t index = 0; index < width && 8 + index < size; index++) {
        length |= (uint64_t)bytes[8 + index] << (8 * index);
    }
    if (size < 8 + width || length > size - 8 - width) {
        return wrong(header, "it ends inside its header");
    }
    header->at = content + 8 + width;
    header->end = header->at + length;
    *begin = 8 + width + (size_t)length;
    return true;
}

bool npy_read(Arena *arena, const char *path, Tensor *tensor, Failure *failure) {
    char *content;
    size_t size = 0, begin = 0, bytes = 0, elements = 0;
    size_t limit = LARGEST < SIZE_MAX / 2 ? (size_t)LARGEST : SIZE_MAX / 2;
    Header header = {.path = path, .tensor = tensor, .failure = failure};
    if (!system_read(arena, path, limit, &content, &size, failure) || !find_header(&header, content, size, &begin) ||
        !read_header(&header)) {
        return false;
    }
    if (!tensor_bytes(tensor, &bytes) || !tensor_elements(tensor, &elements) || bytes != size - begin) {
        return fail(failure, "%s holds %zu bytes of elements; %s of shape %s does not have so many", path, size - begin,
                    dtype_name(tensor->dtype), tensor_shape_text(tensor).text);
    }
    /* The beginning of the buffer is aligned for every dtype, what follows a header need not be. */
    memmove(content, content + begin, bytes);
    tensor->data = content;
    if (header.swapped) {
        swap_bytes(tensor->data, bytes, dtype_size(tensor->dtype));
    }
    return !header.fortran || tensor->rank < 2 || to_c_order(arena, tensor, elements, failure);
}

bool npy_write(Arena *arena, const char *path, const Tensor *tensor, Failure *failure) {
    size_t size = dtype_size(tensor->dtype), bytes;
    char order = size == 1 ? '|' : system_is_little_endian() ? '<' : '>';
    if (!tensor_bytes(tensor, &bytes)) {
        return fail_of_memory(failure);
    }
    const char *dictionary = arena_format(arena, "{'descr': '%c%c%zu', 'fortran_order': False, 'shape': %s, }", order,
                                          dtype_kind(tensor->dtype), size, tensor_shape_text(tensor).text);
    size_t length = dictionary == NULL ? 0 : strlen(dictionary);
    size_t whole = (10 + length + 1 + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *header = dictionary == NULL ? NULL : arena_take(arena, whole, 1);
    if (header == NULL) {
        return fail_of_memory(failure);
    }
    memset(header, ' ', whole);
    memcpy(header, MAGIC, sizeof MAGIC - 1);
    header[6] = 1;
    header[7] = 0;
    header[8] = (char)((whole - 10) & 0xFF);
    header[9] = (char)((whole - 10) >> 8);
    memcpy(header + 10, dictionary, length);
    header[whole - 1] = '\n';
    return system_write(path, header, whole, tensor->data, bytes, failure);
}
