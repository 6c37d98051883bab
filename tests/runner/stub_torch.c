/* PyTorch's C functions, and a library as AOTInductor compiles one, in one file for tests: as far as aotinductor-c.c
   calls them, for arrays of two axes. The compiled model has the inputs `first` and `second` and the outputs `output0`,
   their difference, and `output1`, that difference with its axes exchanged, which is a view with gaps. It takes float32
   only. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { AXES = 2, FLOAT32 = 6, FAILED = 1 };

typedef struct Tensor {
    char *data;
    bool owned;
    int64_t rank;
    int64_t shape[AXES];
    int64_t strides[AXES];
    int dtype;
} Tensor;

static const char *torch_error = "no kernel for this dtype";
static const char *model_error = "";

/* --- PyTorch ---------------------------------------------------------------------------------------------------- */

static size_t size_of(int dtype) {
    return dtype == 7 || dtype == 4 ? 8 : dtype == FLOAT32 || dtype == 3 ? 4 : 1;
}

int aoti_torch_create_tensor_from_blob(void *data, int64_t rank, const int64_t *shape, const int64_t *strides,
                                       int64_t offset, int dtype, int device_type, int device_index, Tensor **made) {
    if (rank > AXES || device_type != 0 || device_index != 0) {
        torch_error = "too many axes";
        return FAILED;
    }
    *made = calloc(1, sizeof **made);
    **made = (Tensor){.data = (char *)data + offset, .rank = rank, .dtype = dtype};
    memcpy((*made)->shape, shape, (size_t)rank * sizeof *shape);
    memcpy((*made)->strides, strides, (size_t)rank * sizeof *strides);
    return 0;
}

int aoti_torch_empty_strided(int64_t rank, const int64_t *shape, const int64_t *strides, int dtype, int device_type,
                             int device_index, Tensor **made) {
    size_t bytes = size_of(dtype);
    for (int64_t axis = 0; axis < rank; axis++) {
        bytes *= (size_t)shape[axis];
    }
    int status = aoti_torch_create_tensor_from_blob(calloc(bytes + 1, 1), rank, shape, strides, 0, dtype, device_type,
                                                    device_index, made);
    (*made)->owned = true;
    return status;
}

static char *element(const Tensor *tensor, int64_t row, int64_t column) {
    return tensor->data + (row * tensor->strides[0] + column * tensor->strides[1]) * (int64_t)size_of(tensor->dtype);
}

int aoti_torch_copy_(Tensor *to, Tensor *from, int non_blocking) {
    for (int64_t row = 0; row < to->shape[0]; row++) {
        for (int64_t column = 0; column < to->shape[1]; column++) {
            memcpy(element(to, row, column), element(from, row, column), size_of(to->dtype));
        }
    }
    return non_blocking;
}

int aoti_torch_new_tensor_handle(Tensor *tensor, Tensor **made) {
    return aoti_torch_create_tensor_from_blob(tensor->data, tensor->rank, tensor->shape, tensor->strides, 0,
                                              tensor->dtype, 0, 0, made);
}

int aoti_torch_delete_tensor_object(Tensor *tensor) {
    if (tensor->owned) {
        free(tensor->data);
    }
    free(tensor);
    return 0;
}

int aoti_torch_get_data_ptr(Tensor *tensor, void **data) {
    *data = tensor->data;
    return 0;
}

int aoti_torch_get_dim(Tensor *tensor, int64_t *rank) {
    *rank = tensor->rank;
    return 0;
}

int aoti_torch_get_sizes(Tensor *tensor, int64_t **shape) {
    *shape = tensor->shape;
    return 0;
}

int aoti_torch_get_dtype(Tensor *tensor, int *dtype) {
    *dtype = tensor->dtype;
    return 0;
}

int aoti_torch_is_contiguous(Tensor *tensor, bool *contiguous) {
    *contiguous = tensor->strides[1] == 1;
    return 0;
}

int aoti_torch_device_type_cpu(void) {
    return 0;
}

void aoti_torch_grad_mode_set_enabled(bool enabled) {
    fprintf(stderr, "gradients %s\n", enabled ? "on" : "off");
}

/* As the name of at::set_num_threads(int) is spelled in a library. */
void _ZN2at15set_num_threadsEi(int count) {
    fprintf(stderr, "%d threads\n", count);
}

const char *torch_exception_get_what_without_backtrace(void) {
    return torch_error;
}

uint64_t aoti_torch_abi_version(void) {
    return (uint64_t)2 << 56 | (uint64_t)13 << 48 | (uint64_t)7 << 40;
}

#define DTYPE(name, number)                                                                                            \
    int aoti_torch_dtype_##name(void) {                                                                                \
        return number;                                                                                                 \
    }
DTYPE(bool, 11)
DTYPE(uint8, 0)
DTYPE(uint16, 27)
DTYPE(uint32, 28)
DTYPE(uint64, 29)
DTYPE(int8, 1)
DTYPE(int16, 2)
DTYPE(int32, 3)
DTYPE(int64, 4)
DTYPE(float16, 5)
DTYPE(float32, FLOAT32)
DTYPE(float64, 7)

/* --- The compiled model ------------------------------------------------------------------------------------------ */

int AOTInductorModelContainerCreateWithDevice(void **container, size_t models, const char *device,
                                              const char *kernel_folder) {
#if defined(NO_CONSTANTS)
    model_error = "the constants are missing";
    return FAILED;
#else
    static int one;
    *container = &one;
    return models == 1 && strcmp(device, "cpu") == 0 && kernel_folder == NULL ? 0 : FAILED;
#endif
}

int AOTInductorModelContainerDelete(void *container) {
    return container == NULL;
}

int AOTInductorModelContainerGetNumInputs(void *container, size_t *count) {
    *count = 2;
    return container == NULL;
}

int AOTInductorModelContainerGetNumOutputs(void *container, size_t *count) {
    *count = 2;
    return container == NULL;
}

int AOTInductorModelContainerGetInputName(void *container, size_t index, const char **name) {
    *name = index == 0 ? "first" : "second";
    return container == NULL;
}

int AOTInductorModelContainerGetOutputName(void *container, size_t index, const char **name) {
    *name = index == 0 ? "output0" : "output1";
    return container == NULL;
}

int AOTInductorGetLastError(const char **text) {
    *text = model_error;
    return 0;
}

static Tensor *difference_of(Tensor *left, Tensor *right) {
    Tensor *made;
    int64_t strides[AXES] = {left->shape[1], 1};
    aoti_torch_empty_strided(AXES, left->shape, strides, FLOAT32, 0, 0, &made);
    for (int64_t index = 0; index < left->shape[0] * left->shape[1]; index++) {
        ((float *)made->data)[index] = ((float *)left->data)[index] - ((float *)right->data)[index];
    }
    return made;
}

/* It owns its inputs, as a real one does. */
int AOTInductorModelContainerRun(void *container, Tensor **inputs, size_t input_count, Tensor **outputs,
                                 size_t output_count, void *stream, void *proxy_executor) {
    int status = FAILED;
    model_error = "";
    if (container == NULL || input_count != 2 || output_count != 2 || stream != NULL || proxy_executor != NULL) {
        model_error = "called otherwise";
    } else if (inputs[0]->dtype != FLOAT32) {
        model_error = "aoti_torch_cpu_sub(arg0, arg1) API call failed at line 7";
    } else if (inputs[0]->shape[0] > 8) {
        model_error = "the batch is larger than 8";
    } else {
        outputs[0] = difference_of(inputs[0], inputs[1]);
        outputs[1] = difference_of(inputs[0], inputs[1]);
        outputs[1]->shape[0] = outputs[0]->shape[1];
        outputs[1]->shape[1] = outputs[0]->shape[0];
        outputs[1]->strides[0] = 1;
        outputs[1]->strides[1] = outputs[0]->shape[1];
        status = 0;
    }
    for (size_t index = 0; index < input_count; index++) {
        aoti_torch_delete_tensor_object(inputs[index]);
    }
    return status;
}
