/* Arrays in the machine's own byte order: what they are made of. */
#include "tensor.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    char kind;
    size_t size;
} KNOWN[DTYPES] = {
    [DTYPE_BOOL] = {"bool", 'b', 1},       [DTYPE_UINT8] = {"uint8", 'u', 1},     [DTYPE_UINT16] = {"uint16", 'u', 2},
    [DTYPE_UINT32] = {"uint32", 'u', 4},   [DTYPE_UINT64] = {"uint64", 'u', 8},   [DTYPE_INT8] = {"int8", 'i', 1},
    [DTYPE_INT16] = {"int16", 'i', 2},     [DTYPE_INT32] = {"int32", 'i', 4},     [DTYPE_INT64] = {"int64", 'i', 8},
    [DTYPE_FLOAT16] = {"float16", 'f', 2}, [DTYPE_FLOAT32] = {"float32", 'f', 4}, [DTYPE_FLOAT64] = {"float64", 'f', 8},
};

const char *dtype_name(DType dtype) {
    return KNOWN[dtype].name;
}

char dtype_kind(DType dtype) {
    return KNOWN[dtype].kind;
}

size_t dtype_size(DType dtype) {
    return KNOWN[dtype].size;
}

static bool product(const Tensor *tensor, size_t total, size_t *count) {
    bool fits = true;
    for (size_t axis = 0; axis < tensor->rank; axis++) {
        int64_t length = tensor->shape[axis];
        if (length == 0) {
            *count = 0;
            return true;
        }
        if (length < 0 || (uint64_t)length > PTRDIFF_MAX / total) {
            fits = false;
        } else {
            total *= (size_t)length;
        }
    }
    *count = total;
    return fits;
}

bool tensor_elements(const Tensor *tensor, size_t *count) {
    return product(tensor, 1, count);
}

bool tensor_bytes(const Tensor *tensor, size_t *count) {
    return product(tensor, dtype_size(tensor->dtype), count);
}

bool tensor_same_shape(const Tensor *left, const Tensor *right) {
    return left->rank == right->rank && memcmp(left->shape, right->shape, left->rank * sizeof *left->shape) == 0;
}

ShapeText tensor_shape_text(const Tensor *tensor) {
    ShapeText shape;
    size_t at = 0, room = sizeof shape.text;
    shape.text[at++] = '(';
    for (size_t axis = 0; axis < tensor->rank; axis++) {
        at +=
            (size_t)snprintf(shape.text + at, room - at, axis == 0 ? "%lld" : ", %lld", (long long)tensor->shape[axis]);
    }
    snprintf(shape.text + at, room - at, tensor->rank == 1 ? ",)" : ")");
    return shape;
}
