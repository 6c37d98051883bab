/* AOTInductor by its C interface: the shared library inside an archive, on top of PyTorch's own without Python.

   This is what PyTorch's loader in C++ does (torch/csrc/inductor/aoti_package/model_package_loader.cpp and
   aoti_runner/model_container_runner.cpp at version 2.13): it takes the library out of the archive, opens it and calls
   its C functions, which in turn call those of libtorch_cpu. No package carries headers for C, so the functions that
   are used are declared here, after torch/csrc/inductor/aoti_runtime/interface.h, aoti_torch/c/shim.h and
   torch/csrc/stable/c/shim.h. They are looked up by name. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime.h"

enum { OK = 0, CPU_INDEX = 0 };

static const size_t ARCHIVE_BYTES = (size_t)1 << 31;

typedef struct Container Container;
typedef struct Value Value;

/* Of libtorch_cpu. All but the last three say whether they succeeded. */
static struct {
    int (*create_tensor)(void *data, int64_t rank, const int64_t *shape, const int64_t *strides, int64_t offset,
                         int dtype, int device_type, int device_index, Value **);
    int (*create_empty)(int64_t rank, const int64_t *shape, const int64_t *strides, int dtype, int device_type,
                        int device_index, Value **);
    int (*copy)(Value *to, Value *from, int non_blocking);
    int (*share)(Value *, Value **);
    int (*destroy)(Value *);
    int (*get_data)(Value *, void **);
    int (*get_rank)(Value *, int64_t *);
    int (*get_shape)(Value *, int64_t **);
    int (*get_dtype)(Value *, int *);
    int (*is_contiguous)(Value *, bool *);
    int (*cpu)(void);
    void (*enable_gradients)(bool);
    void (*set_threads)(int);
    const char *(*get_error)(void);
    uint64_t (*get_version)(void);
} torch;

/* Where each of them is found. The only one that has no C name is at::set_num_threads(int). */
static const struct {
    const char *name;
    void *place;
} FUNCTIONS[] = {
    {"aoti_torch_create_tensor_from_blob", &torch.create_tensor},
    {"aoti_torch_empty_strided", &torch.create_empty},
    {"aoti_torch_copy_", &torch.copy},
    {"aoti_torch_new_tensor_handle", &torch.share},
    {"aoti_torch_delete_tensor_object", &torch.destroy},
    {"aoti_torch_get_data_ptr", &torch.get_data},
    {"aoti_torch_get_dim", &torch.get_rank},
    {"aoti_torch_get_sizes", &torch.get_shape},
    {"aoti_torch_get_dtype", &torch.get_dtype},
    {"aoti_torch_is_contiguous", &torch.is_contiguous},
    {"aoti_torch_device_type_cpu", &torch.cpu},
    {"aoti_torch_grad_mode_set_enabled", &torch.enable_gradients},
    {"_ZN2at15set_num_threadsEi", &torch.set_threads},
    {"torch_exception_get_what_without_backtrace", &torch.get_error},
    {"aoti_torch_abi_version", &torch.get_version},
};

/* Of the library inside an archive. */
typedef struct Compiled {
    int (*create)(Container **, size_t models, const char *device, const char *kernel_folder);
    int (*destroy)(Container *);
    int (*count_inputs)(Container *, size_t *);
    int (*count_outputs)(Container *, size_t *);
    int (*get_input_name)(Container *, size_t index, const char **);
    int (*get_output_name)(Container *, size_t index, const char **);
    int (*run)(Container *, Value **inputs, size_t input_count, Value **outputs, size_t output_count, void *stream,
               void *proxy_executor);
    int (*get_error)(const char **);
} Compiled;

typedef struct Loaded {
    Model model;
    Compiled code;
    Container *container;
    Value **inputs;
    Value **given;
    Value **outputs;
} Loaded;

/* The dtypes' numbers are the library's own, which it has functions for. */
static const char *const DTYPE_FUNCTIONS[DTYPES] = {
    [DTYPE_BOOL] = "aoti_torch_dtype_bool",       [DTYPE_UINT8] = "aoti_torch_dtype_uint8",
    [DTYPE_UINT16] = "aoti_torch_dtype_uint16",   [DTYPE_UINT32] = "aoti_torch_dtype_uint32",
    [DTYPE_UINT64] = "aoti_torch_dtype_uint64",   [DTYPE_INT8] = "aoti_torch_dtype_int8",
    [DTYPE_INT16] = "aoti_torch_dtype_int16",     [DTYPE_INT32] = "aoti_torch_dtype_int32",
    [DTYPE_INT64] = "aoti_torch_dtype_int64",     [DTYPE_FLOAT16] = "aoti_torch_dtype_float16",
    [DTYPE_FLOAT32] = "aoti_torch_dtype_float32", [DTYPE_FLOAT64] = "aoti_torch_dtype_float64",
};
static int element_type[DTYPES];

static char version[32];

const char runtime_name[] = "torch";
const char *const runtime_formats[] = {"aotinductor", NULL};
const char *const runtime_libraries[] = {"libtorch_cpu.so", NULL};

/* --- PyTorch's library ------------------------------------------------------------------------------------------ */

static bool good(int status, const char *doing, Failure *failure) {
    return status == OK || fail(failure, "PyTorch failed when it was to %s: %s", doing, torch.get_error());
}

static bool take_function(void *library, const char *name, void *place, Failure *failure) {
    Symbol found = system_symbol(library, name);
    if (found == NULL) {
        return fail(failure, "the library is no PyTorch 2.13 or later: it has no %s", name);
    }
    memcpy(place, &found, sizeof found);
    return true;
}

bool runtime_open(void *library, Failure *failure) {
    for (size_t index = 0; index < sizeof FUNCTIONS / sizeof *FUNCTIONS; index++) {
        if (!take_function(library, FUNCTIONS[index].name, FUNCTIONS[index].place, failure)) {
            return false;
        }
    }
    for (DType dtype = 0; dtype < DTYPES; dtype++) {
        int (*number)(void) = NULL;
        if (!take_function(library, DTYPE_FUNCTIONS[dtype], &number, failure)) {
            return false;
        }
        element_type[dtype] = number();
    }
    /* A byte each for major, minor and patch, from the highest on (torch/headeronly/version.h). */
    uint64_t stated = torch.get_version();
    snprintf(version, sizeof version, "%u.%u.%u", (unsigned)(stated >> 56 & 255), (unsigned)(stated >> 48 & 255),
             (unsigned)(stated >> 40 & 255));
    torch.enable_gradients(false);
    return true;
}

const char *runtime_version(void) {
    return version;
}

const char *runtime_degraded(Model *model) {
    (void)model;
    return ""; /* What is compiled runs as compiled, or not at all. */
}

/* --- The archive ------------------------------------------------------------------------------------------------ */

/* A zip file: an entry for each member at its end, each of which says where the member begins. PyTorch compresses
   nothing. The format is PKWARE's, APPNOTE.TXT, sections 4.3.7, 4.3.12 and 4.3.16. */
enum { END_LENGTH = 22, ENTRY_LENGTH = 46, HEADER_LENGTH = 30, STORED = 0 };
static const uint32_t END_SIGN = 0x06054b50, ENTRY_SIGN = 0x02014b50, HEADER_SIGN = 0x04034b50;

typedef struct Bytes {
    const unsigned char *data;
    size_t length;
} Bytes;

/* Read a number of up to four bytes, the lowest first. */
static uint32_t number_at(Bytes bytes, size_t place, size_t width) {
    uint32_t value = 0;
    for (size_t index = width; index > 0; index--) {
        value = value << 8 | bytes.data[place + index - 1];
    }
    return value;
}

static bool holds(Bytes bytes, size_t place, size_t length) {
    return place <= bytes.length && length <= bytes.length - place;
}

static bool signed_at(Bytes bytes, size_t place, size_t length, uint32_t sign) {
    return holds(bytes, place, length) && number_at(bytes, place, 4) == sign;
}

/* Find where the list of entries begins, and how many they are. What says so is followed by a comment of any length. */
static bool find_entries(Bytes archive, size_t *place, size_t *count) {
    for (size_t back = END_LENGTH; back <= archive.length && back <= END_LENGTH + UINT16_MAX; back++) {
        size_t end = archive.length - back;
        if (number_at(archive, end, 4) == END_SIGN && number_at(archive, end + 20, 2) == back - END_LENGTH) {
            *count = number_at(archive, end + 10, 2);
            *place = number_at(archive, end + 16, 4);
            return true;
        }
    }
    return false;
}

/* Take the bytes of the member whose entry is at `place`. */
static bool take_member(Bytes archive, size_t place, Bytes *member) {
    size_t header = number_at(archive, place + 42, 4);
    bool stored = number_at(archive, place + 10, 2) == STORED;
    if (!stored || !signed_at(archive, header, HEADER_LENGTH, HEADER_SIGN)) {
        return false;
    }
    size_t start = header + HEADER_LENGTH + number_at(archive, header + 26, 2) + number_at(archive, header + 28, 2);
    member->length = number_at(archive, place + 24, 4);
    member->data = archive.data + start;
    return holds(archive, start, member->length);
}

static bool ends_in(Bytes name, const char *end) {
    size_t length = strlen(end);
    return name.length >= length && memcmp(name.data + name.length - length, end, length) == 0;
}

/* Find the one library in the archive. */
static bool find_library(Bytes archive, Bytes *library, Failure *failure) {
    size_t place, count;
    size_t found = 0;
    if (!find_entries(archive, &place, &count)) {
        return fail(failure, "the artifact is no archive of PyTorch: it is no zip file");
    }
    for (size_t index = 0; index < count; index++) {
        if (!signed_at(archive, place, ENTRY_LENGTH, ENTRY_SIGN)) {
            return fail(failure, "the archive is damaged: it has %zu of %zu entries", index, count);
        }
        Bytes name = {archive.data + place + ENTRY_LENGTH, number_at(archive, place + 28, 2)};
        size_t more = number_at(archive, place + 30, 2) + number_at(archive, place + 32, 2);
        if (!holds(archive, place + ENTRY_LENGTH, name.length + more)) {
            return fail(failure, "the archive is damaged: entry %zu is cut off", index);
        }
        if (ends_in(name, ".so")) {
            found++;
            if (!take_member(archive, place, library)) {
                return fail(failure, "the archive is damaged: its library is compressed or cut off");
            }
        }
        place += ENTRY_LENGTH + name.length + more;
    }
    return found == 1 || fail(failure, "expected one compiled library in the archive, found %zu", found);
}

/* Open a library that is in memory. Its descriptor stays open: the loader takes two libraries of one name for the same,
   and a descriptor that is free again would give the next one this one's. */
static void *open_library(Arena *arena, Bytes library, Failure *failure) {
    int descriptor = memfd_create("model.so", MFD_CLOEXEC);
    size_t written = 0;
    while (descriptor >= 0 && written < library.length) {
        ssize_t more = write(descriptor, library.data + written, library.length - written);
        if (more <= 0) {
            break;
        }
        written += (size_t)more;
    }
    if (descriptor < 0 || written < library.length) {
        fail_of_harness(failure, "there is no memory for the %zu bytes of the compiled library", library.length);
        return NULL;
    }
    const char *path = arena_format(arena, "/proc/self/fd/%d", descriptor);
    void *opened = path == NULL ? NULL : system_library(path, failure);
    if (opened == NULL) {
        failure->harness = false; /* A library that does not load here is the artifact's fault. */
        close(descriptor);
    }
    return opened;
}

/* --- Loading ---------------------------------------------------------------------------------------------------- */

static bool take_code(void *library, Compiled *code, Failure *failure) {
    const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"AOTInductorModelContainerCreateWithDevice", &code->create},
        {"AOTInductorModelContainerDelete", &code->destroy},
        {"AOTInductorModelContainerGetNumInputs", &code->count_inputs},
        {"AOTInductorModelContainerGetNumOutputs", &code->count_outputs},
        {"AOTInductorModelContainerGetInputName", &code->get_input_name},
        {"AOTInductorModelContainerGetOutputName", &code->get_output_name},
        {"AOTInductorModelContainerRun", &code->run},
        {"AOTInductorGetLastError", &code->get_error},
    };
    for (size_t index = 0; index < sizeof functions / sizeof *functions; index++) {
        Symbol found = system_symbol(library, functions[index].name);
        if (found == NULL) {
            return fail(failure, "the compiled library has no %s", functions[index].name);
        }
        memcpy(functions[index].place, &found, sizeof found);
    }
    return true;
}

/* Return whether a call of the compiled library succeeded. If not, what is noted is what PyTorch said where an operator
   of its own failed, of which the compiled code knows the place only, and else what the compiled code says. */
static bool fine(const Compiled *code, int status, Failure *failure) {
    const char *said = NULL;
    if (status == OK) {
        return true;
    }
    if (code->get_error(&said) != OK || said == NULL) {
        said = "";
    }
    if (strstr(said, "API call failed") != NULL && *torch.get_error() != '\0') {
        said = torch.get_error();
    }
    return fail(failure, "RuntimeError: %s", *said == '\0' ? "no reason given" : said);
}

/* Copy the names of all inputs or outputs into the arena. */
static bool read_names(Arena *arena, const Loaded *loaded, bool inputs, size_t *count, const char ***names,
                       Failure *failure) {
    const Compiled *code = &loaded->code;
    if (!fine(code, (inputs ? code->count_inputs : code->count_outputs)(loaded->container, count), failure)) {
        return false;
    }
    *names = arena_take(arena, *count, sizeof **names);
    for (size_t index = 0; *names != NULL && index < *count; index++) {
        const char *own;
        int status = (inputs ? code->get_input_name : code->get_output_name)(loaded->container, index, &own);
        if (!fine(code, status, failure)) {
            return false;
        }
        (*names)[index] = arena_copy(arena, own, strlen(own));
        if ((*names)[index] == NULL) {
            return fail_of_memory(failure);
        }
    }
    return *names != NULL || fail_of_memory(failure);
}

static bool make_room(Arena *arena, Loaded *loaded, Failure *failure) {
    loaded->inputs = arena_take(arena, loaded->model.input_count, sizeof *loaded->inputs);
    loaded->given = arena_take(arena, loaded->model.input_count, sizeof *loaded->given);
    loaded->outputs = arena_take(arena, loaded->model.output_count, sizeof *loaded->outputs);
    return (loaded->inputs != NULL && loaded->given != NULL && loaded->outputs != NULL) || fail_of_memory(failure);
}

static bool open_archive(Arena *arena, const char *entry, Loaded *loaded, Failure *failure) {
    char *content;
    Bytes archive, library = {NULL, 0};
    if (!system_read(arena, entry, ARCHIVE_BYTES, &content, &archive.length, failure)) {
        return false;
    }
    archive.data = (const unsigned char *)content;
    if (!find_library(archive, &library, failure)) {
        return false;
    }
    void *opened = open_library(arena, library, failure);
    return opened != NULL && take_code(opened, &loaded->code, failure);
}

Model *runtime_load(Arena *arena, const char *entry, int threads, Failure *failure) {
    Loaded *loaded = arena_take(arena, 1, sizeof *loaded);
    if (loaded == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    Model *model = &loaded->model;
    torch.set_threads(threads);
    if (!open_archive(arena, entry, loaded, failure) ||
        !fine(&loaded->code, loaded->code.create(&loaded->container, 1, "cpu", NULL), failure)) {
        return NULL;
    }
    if (!read_names(arena, loaded, true, &model->input_count, &model->inputs, failure) ||
        !read_names(arena, loaded, false, &model->output_count, &model->outputs, failure) ||
        !make_room(arena, loaded, failure)) {
        loaded->code.destroy(loaded->container);
        return NULL;
    }
    return model;
}

/* --- Running ---------------------------------------------------------------------------------------------------- */

static void release(Value **values, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (values[index] != NULL) {
            torch.destroy(values[index]);
            values[index] = NULL;
        }
    }
}

/* Put the strides of an array without gaps into `strides`, in elements. */
static void close_strides(size_t rank, const int64_t *shape, int64_t *strides) {
    int64_t stride = 1;
    for (size_t axis = rank; axis > 0; axis--) {
        strides[axis - 1] = stride;
        stride *= shape[axis - 1] > 0 ? shape[axis - 1] : 1;
    }
}

bool runtime_give(Model *model, const Tensor *inputs, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    release(loaded->inputs, model->input_count);
    for (size_t index = 0; index < model->input_count; index++) {
        const Tensor *input = &inputs[index];
        int64_t strides[TENSOR_RANK];
        close_strides(input->rank, input->shape, strides);
        int status = torch.create_tensor(input->data, (int64_t)input->rank, input->shape, strides, 0,
                                         element_type[input->dtype], torch.cpu(), CPU_INDEX, &loaded->inputs[index]);
        if (!good(status, "take an input", failure)) {
            return false;
        }
    }
    return true;
}

bool runtime_run(Model *model, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    release(loaded->outputs, model->output_count);
    /* A call takes its inputs over, and gives them back to nobody. */
    for (size_t index = 0; index < model->input_count; index++) {
        if (!good(torch.share(loaded->inputs[index], &loaded->given[index]), "hand on an input", failure)) {
            return false;
        }
    }
    int status = loaded->code.run(loaded->container, loaded->given, model->input_count, loaded->outputs,
                                  model->output_count, NULL, NULL);
    return fine(&loaded->code, status, failure);
}

/* Put a copy without gaps in the place of an output that has some. */
static bool close_gaps(Value **value, size_t rank, const int64_t *shape, int dtype, Failure *failure) {
    int64_t strides[TENSOR_RANK];
    Value *closed;
    close_strides(rank, shape, strides);
    if (!good(torch.create_empty((int64_t)rank, shape, strides, dtype, torch.cpu(), CPU_INDEX, &closed),
              "make room for an output", failure)) {
        return false;
    }
    if (!good(torch.copy(closed, *value, false), "copy an output", failure)) {
        torch.destroy(closed);
        return false;
    }
    torch.destroy(*value);
    *value = closed;
    return true;
}

static bool read_type_and_shape(const char *name, Value *value, int *dtype, Tensor *output, Failure *failure) {
    int64_t rank = 0;
    int64_t *shape;
    if (!good(torch.get_dtype(value, dtype), "tell an output's dtype", failure) ||
        !good(torch.get_rank(value, &rank), "tell an output's axes", failure) ||
        !good(torch.get_shape(value, &shape), "tell an output's shape", failure)) {
        return false;
    }
    for (output->dtype = 0; output->dtype < DTYPES && element_type[output->dtype] != *dtype;) {
        output->dtype++;
    }
    if (output->dtype == DTYPES || rank < 0 || rank > TENSOR_RANK) {
        return fail(failure, "output %s has elements of PyTorch's type %d and %lld axes, which this runner cannot read",
                    name, *dtype, (long long)rank);
    }
    output->rank = (size_t)rank;
    memcpy(output->shape, shape, output->rank * sizeof *shape);
    return true;
}

bool runtime_read(Model *model, Tensor *outputs, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    for (size_t index = 0; index < model->output_count; index++) {
        Tensor *output = &outputs[index];
        Value **value = &loaded->outputs[index];
        int dtype;
        bool contiguous;
        if (!read_type_and_shape(model->outputs[index], *value, &dtype, output, failure) ||
            !good(torch.is_contiguous(*value, &contiguous), "tell an output's layout", failure) ||
            (!contiguous && !close_gaps(value, output->rank, output->shape, dtype, failure)) ||
            !good(torch.get_data(*value, &output->data), "show an output", failure)) {
            return false;
        }
    }
    return true;
}

void runtime_close(Model *model) {
    Loaded *loaded = (Loaded *)model;
    release(loaded->inputs, model->input_count);
    release(loaded->outputs, model->output_count);
    /* The library stays: what of it is unique in a process cannot be unloaded. */
    loaded->code.destroy(loaded->container);
}
