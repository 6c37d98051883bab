/* LiteRT (once TensorFlow Lite) by its C interface, on its CPU accelerator.

   No package carries the headers, so the functions that are used here are declared here, after litert/c/ of
   google-ai-edge/LiteRT at version 2.3: litert_environment.h, litert_model.h, litert_options.h, litert_opaque_options.h,
   litert_compiled_model.h, litert_tensor_buffer.h, litert_layout.h. They are looked up in the library by name. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

enum { OK = 0, CPU = 1, READ = 0, WRITE = 1, MOST_AXES = 8 };

/* A model without a signature is given one by the library; of several the first is run. */
enum { SIGNATURE = 0 };

static const size_t MODEL_BYTES = (size_t)1 << 31;

typedef struct Environment Environment;
typedef struct Artifact Artifact;
typedef struct Signature Signature;
typedef struct Operand Operand;
typedef struct CompileOptions CompileOptions;
typedef struct OpaqueOptions OpaqueOptions;
typedef struct Compiled Compiled;
typedef struct Requirements Requirements;
typedef struct Buffer Buffer;

/* As the library's own builds have it on every system: both fields in the first four bytes. */
typedef struct Layout {
    unsigned int rank : 7;
    unsigned int has_strides : 1;
    int32_t shape[MOST_AXES]; /* negative where it is free */
    uint32_t strides[MOST_AXES];
} Layout;

typedef struct OperandType {
    int element_type;
    Layout layout;
} OperandType;

_Static_assert(sizeof(OperandType) == 72, "LiteRtRankedTensorType has 72 bytes");

static struct {
    int (*create_environment)(int option_count, const void *options, Environment **);
    int (*create_model)(Environment *, const void *bytes, size_t size, Artifact **);
    void (*destroy_model)(Artifact *);
    int (*get_signature)(Artifact *, size_t index, Signature **);
    int (*count_inputs)(Signature *, size_t *);
    int (*count_outputs)(Signature *, size_t *);
    int (*get_input_name)(Signature *, size_t index, const char **);
    int (*get_output_name)(Signature *, size_t index, const char **);
    int (*get_input)(Signature *, size_t index, Operand **);
    int (*get_output)(Signature *, size_t index, Operand **);
    int (*get_type)(Operand *, OperandType *);
    int (*create_options)(CompileOptions **);
    void (*destroy_options)(CompileOptions *);
    int (*set_accelerators)(CompileOptions *, int accelerators);
    int (*create_opaque)(const char *name, void *payload, void (*destroy)(void *), OpaqueOptions **);
    int (*add_opaque)(CompileOptions *, OpaqueOptions *);
    int (*compile)(Environment *, Artifact *, CompileOptions *, Compiled **);
    void (*destroy_compiled)(Compiled *);
    int (*resize_input)(Compiled *, size_t signature, size_t index, const int *shape, size_t rank);
    int (*get_output_layouts)(Compiled *, size_t signature, size_t count, Layout *, bool update);
    int (*get_input_requirements)(Compiled *, size_t signature, size_t index, Requirements **);
    int (*get_output_requirements)(Compiled *, size_t signature, size_t index, Requirements **);
    int (*create_buffer)(Environment *, const OperandType *, Requirements *, Buffer **);
    void (*destroy_buffer)(Buffer *);
    int (*get_size)(Buffer *, size_t *);
    int (*lock)(Buffer *, void **memory, int mode);
    int (*unlock)(Buffer *);
    int (*run)(Compiled *, size_t signature, size_t input_count, Buffer **inputs, size_t output_count,
               Buffer **outputs);
} lite;

/* Where each of them is found. */
static const struct {
    const char *name;
    void *place;
} FUNCTIONS[] = {
    {"LiteRtCreateEnvironment", &lite.create_environment},
    {"LiteRtCreateModelFromBuffer", &lite.create_model},
    {"LiteRtDestroyModel", &lite.destroy_model},
    {"LiteRtGetModelSignature", &lite.get_signature},
    {"LiteRtGetNumSignatureInputs", &lite.count_inputs},
    {"LiteRtGetNumSignatureOutputs", &lite.count_outputs},
    {"LiteRtGetSignatureInputName", &lite.get_input_name},
    {"LiteRtGetSignatureOutputName", &lite.get_output_name},
    {"LiteRtGetSignatureInputTensorByIndex", &lite.get_input},
    {"LiteRtGetSignatureOutputTensorByIndex", &lite.get_output},
    {"LiteRtGetRankedTensorType", &lite.get_type},
    {"LiteRtCreateOptions", &lite.create_options},
    {"LiteRtDestroyOptions", &lite.destroy_options},
    {"LiteRtSetOptionsHardwareAccelerators", &lite.set_accelerators},
    {"LiteRtCreateOpaqueOptions", &lite.create_opaque},
    {"LiteRtAddOpaqueOptions", &lite.add_opaque},
    {"LiteRtCreateCompiledModel", &lite.compile},
    {"LiteRtDestroyCompiledModel", &lite.destroy_compiled},
    {"LiteRtCompiledModelResizeInputTensor", &lite.resize_input},
    {"LiteRtGetCompiledModelOutputTensorLayouts", &lite.get_output_layouts},
    {"LiteRtGetCompiledModelInputBufferRequirements", &lite.get_input_requirements},
    {"LiteRtGetCompiledModelOutputBufferRequirements", &lite.get_output_requirements},
    {"LiteRtCreateManagedTensorBufferFromRequirements", &lite.create_buffer},
    {"LiteRtDestroyTensorBuffer", &lite.destroy_buffer},
    {"LiteRtGetTensorBufferPackedSize", &lite.get_size},
    {"LiteRtLockTensorBuffer", &lite.lock},
    {"LiteRtUnlockTensorBuffer", &lite.unlock},
    {"LiteRtRunCompiledModel", &lite.run},
};

static Environment *environment;

const char runtime_name[] = "litert";
const char *const runtime_formats[] = {"tflite", NULL};
#if defined(_WIN32)
const char *const runtime_libraries[] = {"libLiteRt.dll", NULL};
#elif defined(__APPLE__)
const char *const runtime_libraries[] = {"libLiteRt.dylib", NULL};
#else
const char *const runtime_libraries[] = {"libLiteRt.so", NULL};
#endif

/* An input or output: its type as it is run now, and the buffer for it. */
typedef struct Port {
    OperandType type;
    DType dtype;
    bool is_free;
    Buffer *buffer;
    bool locked;
} Port;

typedef struct Loaded {
    Model model;
    Artifact *artifact;
    Compiled *compiled;
    Port *inputs;
    Port *outputs;
    Layout *layouts;
} Loaded;

/* TfLiteType; 0 is none of them. */
static const int ELEMENT_TYPE[DTYPES] = {
    [DTYPE_FLOAT32] = 1,  [DTYPE_INT32] = 2,   [DTYPE_UINT8] = 3,   [DTYPE_INT64] = 4,
    [DTYPE_BOOL] = 6,     [DTYPE_INT16] = 7,   [DTYPE_INT8] = 9,    [DTYPE_FLOAT16] = 10,
    [DTYPE_FLOAT64] = 11, [DTYPE_UINT64] = 13, [DTYPE_UINT32] = 16, [DTYPE_UINT16] = 17,
};

/* --- The interface ---------------------------------------------------------------------------------------------- */

/* LiteRtStatus. The library says more in its log, which goes to standard error. */
static const char *status_text(int status) {
    static const struct {
        int status;
        const char *text;
    } KNOWN[] = {
        {1, "invalid argument"},      {2, "memory could not be had"},
        {3, "failed while running"},  {4, "an input is missing"},
        {5, "not supported"},         {6, "not found"},
        {8, "wrong version"},         {500, "file error"},
        {501, "no valid flatbuffer"}, {504, "compilation failed"},
        {1000, "index out of range"}, {1001, "invalid type in the graph"},
        {1002, "invalid graph"},
    };
    for (size_t index = 0; index < sizeof KNOWN / sizeof *KNOWN; index++) {
        if (KNOWN[index].status == status) {
            return KNOWN[index].text;
        }
    }
    return "failed";
}

static bool good(int status, const char *doing, Failure *failure) {
    return status == OK || fail(failure, "LiteRT status %d (%s) when it was to %s", status, status_text(status), doing);
}

bool runtime_open(void *library, Failure *failure) {
    for (size_t index = 0; index < sizeof FUNCTIONS / sizeof *FUNCTIONS; index++) {
        Symbol found = system_symbol(library, FUNCTIONS[index].name);
        if (found == NULL) {
            return fail(failure, "the library is no LiteRT 2.3: it has no %s", FUNCTIONS[index].name);
        }
        memcpy(FUNCTIONS[index].place, &found, sizeof found);
    }
    return good(lite.create_environment(0, NULL, &environment), "create its environment", failure);
}

const char *runtime_version(void) {
    return "unstated"; /* The library has no function that tells. */
}

const char *runtime_degraded(Model *model) {
    (void)model;
    return ""; /* The CPU is the only accelerator that is asked for. */
}

/* --- Loading ---------------------------------------------------------------------------------------------------- */

static bool read_port(const char *name, Operand *operand, Port *port, Failure *failure) {
    if (!good(lite.get_type(operand, &port->type), "tell a tensor's type", failure)) {
        return false;
    }
    for (port->dtype = 0; port->dtype < DTYPES; port->dtype++) {
        if (ELEMENT_TYPE[port->dtype] == port->type.element_type) {
            break;
        }
    }
    for (size_t axis = 0; axis < port->type.layout.rank && axis < MOST_AXES; axis++) {
        port->is_free = port->is_free || port->type.layout.shape[axis] < 0;
    }
    return port->dtype < DTYPES ||
           fail(failure, "tensor %s has elements of TFLite type %d, which this runner cannot read", name,
                port->type.element_type);
}

/* Read names and types of all inputs or outputs. */
static bool read_ports(Arena *arena, Signature *signature, bool inputs, size_t *count, const char ***names,
                       Port **ports, Failure *failure) {
    if (!good((inputs ? lite.count_inputs : lite.count_outputs)(signature, count), "count its tensors", failure)) {
        return false;
    }
    *names = arena_take(arena, *count, sizeof **names);
    *ports = arena_take(arena, *count, sizeof **ports);
    if (*names == NULL || *ports == NULL) {
        return fail_of_memory(failure);
    }
    for (size_t index = 0; index < *count; index++) {
        const char *name;
        Operand *operand;
        if (!good((inputs ? lite.get_input_name : lite.get_output_name)(signature, index, &name), "name a tensor",
                  failure) ||
            !good((inputs ? lite.get_input : lite.get_output)(signature, index, &operand), "find a tensor", failure) ||
            !read_port(name, operand, &(*ports)[index], failure)) {
            return false;
        }
        (*names)[index] = arena_copy(arena, name, strlen(name));
        if ((*names)[index] == NULL) {
            return fail_of_memory(failure);
        }
    }
    return true;
}

static bool read_signature(Arena *arena, Loaded *loaded, Failure *failure) {
    Model *model = &loaded->model;
    Signature *signature;
    if (!good(lite.get_signature(loaded->artifact, SIGNATURE, &signature), "find its signature", failure) ||
        !read_ports(arena, signature, true, &model->input_count, &model->inputs, &loaded->inputs, failure) ||
        !read_ports(arena, signature, false, &model->output_count, &model->outputs, &loaded->outputs, failure)) {
        return false;
    }
    loaded->layouts = arena_take(arena, model->output_count, sizeof *loaded->layouts);
    return loaded->layouts != NULL || fail_of_memory(failure);
}

/* Set the number of threads: text in TOML under the name of the CPU's library (options/litert_cpu_options.cc). */
static bool set_threads(CompileOptions *options, int threads, Failure *failure) {
    static const char FORMAT[] = "num_threads = %d\n";
    const size_t room = sizeof FORMAT + 12;
    OpaqueOptions *opaque;
    char *text = malloc(room);
    if (text == NULL) {
        return fail_of_memory(failure);
    }
    snprintf(text, room, FORMAT, threads);
    if (!good(lite.create_opaque("xnnpack", text, free, &opaque), "take an option", failure)) {
        free(text);
        return false;
    }
    return good(lite.add_opaque(options, opaque), "take an option", failure);
}

static bool compile(Loaded *loaded, int threads, Failure *failure) {
    CompileOptions *options;
    if (!good(lite.create_options(&options), "create its options", failure)) {
        return false;
    }
    bool made =
        good(lite.set_accelerators(options, CPU), "take the CPU", failure) && set_threads(options, threads, failure) &&
        good(lite.compile(environment, loaded->artifact, options, &loaded->compiled), "compile the model", failure);
    lite.destroy_options(options);
    return made;
}

Model *runtime_load(Arena *arena, const char *entry, int threads, Failure *failure) {
    char *bytes;
    size_t size;
    Loaded *loaded = arena_take(arena, 1, sizeof *loaded);
    if (loaded == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    /* By way of memory: the library takes no name of a file that is UTF-8 on Windows. */
    if (!system_read(arena, entry, MODEL_BYTES, &bytes, &size, failure) ||
        !good(lite.create_model(environment, bytes, size, &loaded->artifact), "read the model", failure)) {
        return NULL;
    }
    if (!read_signature(arena, loaded, failure) || !compile(loaded, threads, failure)) {
        lite.destroy_model(loaded->artifact);
        return NULL;
    }
    return &loaded->model;
}

/* --- Running ---------------------------------------------------------------------------------------------------- */

static void unlock(Port *ports, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (ports[index].locked) {
            lite.unlock(ports[index].buffer);
            ports[index].locked = false;
        }
    }
}

static void release(Port *ports, size_t count) {
    unlock(ports, count);
    for (size_t index = 0; index < count; index++) {
        if (ports[index].buffer != NULL) {
            lite.destroy_buffer(ports[index].buffer);
            ports[index].buffer = NULL;
        }
    }
}

/* Check an input against its type, and note its shape; `changed` where a free one is another than it was. */
static bool fit(const char *name, const Tensor *input, Port *port, bool *changed, Failure *failure) {
    Layout *layout = &port->type.layout;
    *changed = false;
    if (input->dtype != port->dtype) {
        return fail(failure, "InvalidArgument: input %s is %s; the model wants %s", name, dtype_name(input->dtype),
                    dtype_name(port->dtype));
    }
    if (input->rank != layout->rank) {
        return fail(failure, "InvalidArgument: input %s has %zu axes; the model wants %u", name, input->rank,
                    (unsigned)layout->rank);
    }
    for (size_t axis = 0; axis < input->rank; axis++) {
        if (input->shape[axis] == layout->shape[axis]) {
            continue;
        }
        if (!port->is_free || input->shape[axis] > INT32_MAX) {
            return fail(failure, "InvalidArgument: axis %zu of input %s is %lld long; the model wants %d", axis, name,
                        (long long)input->shape[axis], (int)layout->shape[axis]);
        }
        layout->shape[axis] = (int32_t)input->shape[axis];
        *changed = true;
    }
    return true;
}

static bool shape_inputs(Loaded *loaded, const Tensor *inputs, bool *changed, Failure *failure) {
    *changed = false;
    for (size_t index = 0; index < loaded->model.input_count; index++) {
        Port *port = &loaded->inputs[index];
        bool this_one;
        if (!fit(loaded->model.inputs[index], &inputs[index], port, &this_one, failure)) {
            return false;
        }
        if (this_one && !good(lite.resize_input(loaded->compiled, SIGNATURE, index, port->type.layout.shape,
                                                port->type.layout.rank),
                              "take an input's shape", failure)) {
            return false;
        }
        *changed = *changed || this_one;
    }
    return true;
}

static bool make_buffer(Port *port, int status, Requirements *wanted, Failure *failure) {
    return good(status, "say what memory it needs", failure) &&
           good(lite.create_buffer(environment, &port->type, wanted, &port->buffer), "make room for a tensor", failure);
}

static bool give_inputs(Loaded *loaded, const Tensor *inputs, Failure *failure) {
    for (size_t index = 0; index < loaded->model.input_count; index++) {
        Port *port = &loaded->inputs[index];
        Requirements *wanted = NULL;
        size_t bytes, room;
        void *memory;
        int status = lite.get_input_requirements(loaded->compiled, SIGNATURE, index, &wanted);
        if (!make_buffer(port, status, wanted, failure) || !tensor_bytes(&inputs[index], &bytes) ||
            !good(lite.get_size(port->buffer, &room), "tell a tensor's size", failure)) {
            return false;
        }
        if (bytes != room) {
            return fail(failure, "input %s has %zu bytes; LiteRT has room for %zu", loaded->model.inputs[index], bytes,
                        room);
        }
        if (!good(lite.lock(port->buffer, &memory, WRITE), "open a tensor", failure)) {
            return false;
        }
        memcpy(memory, inputs[index].data, bytes);
        if (!good(lite.unlock(port->buffer), "close a tensor", failure)) {
            return false;
        }
    }
    return true;
}

static bool prepare_outputs(Loaded *loaded, bool changed, Failure *failure) {
    size_t count = loaded->model.output_count;
    if (!good(lite.get_output_layouts(loaded->compiled, SIGNATURE, count, loaded->layouts, changed),
              "tell the outputs' shapes", failure)) {
        return false;
    }
    for (size_t index = 0; index < count; index++) {
        Port *port = &loaded->outputs[index];
        Requirements *wanted = NULL;
        port->type.layout = loaded->layouts[index];
        int status = lite.get_output_requirements(loaded->compiled, SIGNATURE, index, &wanted);
        if (!make_buffer(port, status, wanted, failure)) {
            return false;
        }
    }
    return true;
}

bool runtime_give(Model *model, const Tensor *inputs, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    bool changed;
    release(loaded->inputs, model->input_count);
    release(loaded->outputs, model->output_count);
    return shape_inputs(loaded, inputs, &changed, failure) && give_inputs(loaded, inputs, failure) &&
           prepare_outputs(loaded, changed, failure);
}

bool runtime_read(Model *model, Tensor *outputs, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    for (size_t index = 0; index < model->output_count; index++) {
        Port *port = &loaded->outputs[index];
        Tensor *output = &outputs[index];
        size_t bytes, room;
        output->dtype = port->dtype;
        output->rank = port->type.layout.rank;
        for (size_t axis = 0; axis < output->rank && axis < MOST_AXES; axis++) {
            output->shape[axis] = port->type.layout.shape[axis];
        }
        if (!good(lite.get_size(port->buffer, &room), "tell a tensor's size", failure)) {
            return false;
        }
        if (!tensor_bytes(output, &bytes) || bytes > room) {
            return fail(failure, "output %s has no room for its shape", model->outputs[index]);
        }
        if (!good(lite.lock(port->buffer, &output->data, READ), "open a tensor", failure)) {
            return false;
        }
        port->locked = true;
    }
    return true;
}

bool runtime_run(Model *model, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    Buffer *inputs[256], *outputs[256];
    if (model->input_count > 256 || model->output_count > 256) {
        return fail(failure, "the model has more than 256 inputs or outputs");
    }
    unlock(loaded->outputs, model->output_count);
    for (size_t index = 0; index < model->input_count; index++) {
        inputs[index] = loaded->inputs[index].buffer;
    }
    for (size_t index = 0; index < model->output_count; index++) {
        outputs[index] = loaded->outputs[index].buffer;
    }
    return good(lite.run(loaded->compiled, SIGNATURE, model->input_count, inputs, model->output_count, outputs),
                "run the model", failure);
}

void runtime_close(Model *model) {
    Loaded *loaded = (Loaded *)model;
    release(loaded->inputs, model->input_count);
    release(loaded->outputs, model->output_count);
    lite.destroy_compiled(loaded->compiled);
    lite.destroy_model(loaded->artifact);
}
