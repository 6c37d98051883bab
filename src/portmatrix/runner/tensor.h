/* Arrays in the machine's own byte order, and the .npy files that they travel in. */
#ifndef PORTMATRIX_TENSOR_H
#define PORTMATRIX_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "failure.h"

/* Axes of a stacked array: numpy's own limit before its version 2. */
#define TENSOR_RANK 32

/* `kind` is numpy's letter: b, u, i or f. */
typedef enum DType {
    DTYPE_BOOL,
    DTYPE_UINT8,
    DTYPE_UINT16,
    DTYPE_UINT32,
    DTYPE_UINT64,
    DTYPE_INT8,
    DTYPE_INT16,
    DTYPE_INT32,
    DTYPE_INT64,
    DTYPE_FLOAT16,
    DTYPE_FLOAT32,
    DTYPE_FLOAT64,
    DTYPES
} DType;

typedef struct Tensor {
    DType dtype;
    size_t rank;
    int64_t shape[TENSOR_RANK];
    void *data;
} Tensor;

/* numpy's name of a dtype, its letter, and the bytes of one element. */
const char *dtype_name(DType dtype);
char dtype_kind(DType dtype);
size_t dtype_size(DType dtype);

/* Put the number of elements, or of bytes, into `count`; false if it is more than memory could hold. */
bool tensor_elements(const Tensor *tensor, size_t *count);
bool tensor_bytes(const Tensor *tensor, size_t *count);

bool tensor_same_shape(const Tensor *left, const Tensor *right);

/* A shape as Python writes a tuple of it. */
typedef struct ShapeText {
    char text[TENSOR_RANK * 22 + 4];
} ShapeText;

ShapeText tensor_shape_text(const Tensor *tensor);

/* Read an array of format version 1 or 2, of either byte order and either order of axes, into C order and the
   machine's own byte order: a runtime handed foreign bytes computes nonsense without a word.
   The format is numpy's: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
bool npy_read(Arena *arena, const char *path, Tensor *tensor, Failure *failure);

/* Write an array as numpy.save does: version 1, C order, the machine's own byte order. */
bool npy_write(Arena *arena, const char *path, const Tensor *tensor, Failure *failure);

#endif
