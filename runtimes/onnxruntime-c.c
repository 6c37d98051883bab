/* ONNX Runtime by its C interface, on its CPU provider.

   The interface is one table of functions, whose places are fixed for good: new ones are added at its end only
   (onnxruntime_c_api.h, struct OrtApi). So the few that are used here are declared here, each with its place, and no
   header of the library is needed to compile this for a system that the library's own packages are not for. */
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

/* The table as of ONNX Runtime 1.17; every later version still gives it. */
enum { API_VERSION = 17 };
static const char OLDEST[] = "1.17";

enum { LOG_WARNINGS = 2, DEVICE_ALLOCATOR = 0, DEFAULT_MEMORY = 0 };

typedef struct Status Status;
typedef struct Environment Environment;
typedef struct SessionOptions SessionOptions;
typedef struct Session Session;
typedef struct MemoryInfo MemoryInfo;
typedef struct Allocator Allocator;
typedef struct Value Value;
typedef struct TensorInfo TensorInfo;

/* A function that fails returns a status, which is to be released; one that does not returns NULL. */
static struct {
    int (*get_error_code)(const Status *);
    const char *(*get_error_message)(const Status *);
    Status *(*create_env)(int level, const char *id, Environment **);
    Status *(*disable_telemetry_events)(const Environment *);
    Status *(*create_session)(const Environment *, const PathSign *path, const SessionOptions *, Session **);
    Status *(*run)(Session *, const void *run_options, const char *const *input_names, const Value *const *inputs,
                   size_t input_count, const char *const *output_names, size_t output_count, Value **outputs);
    Status *(*create_session_options)(SessionOptions **);
    Status *(*set_intra_op_num_threads)(SessionOptions *, int);
    Status *(*set_inter_op_num_threads)(SessionOptions *, int);
    Status *(*session_get_input_count)(const Session *, size_t *);
    Status *(*session_get_output_count)(const Session *, size_t *);
    Status *(*session_get_input_name)(const Session *, size_t index, Allocator *, char **);
    Status *(*session_get_output_name)(const Session *, size_t index, Allocator *, char **);
    Status *(*create_tensor_with_data)(const MemoryInfo *, void *data, size_t bytes, const int64_t *shape, size_t rank,
                                       int element_type, Value **);
    Status *(*is_tensor)(const Value *, int *);
    Status *(*get_tensor_mutable_data)(Value *, void **);
    Status *(*get_tensor_element_type)(const TensorInfo *, int *);
    Status *(*get_dimensions_count)(const TensorInfo *, size_t *);
    Status *(*get_dimensions)(const TensorInfo *, int64_t *, size_t);
    Status *(*get_tensor_type_and_shape)(const Value *, TensorInfo **);
    Status *(*create_cpu_memory_info)(int allocator_type, int memory_type, MemoryInfo **);
    Status *(*allocator_free)(Allocator *, void *);
    Status *(*get_allocator_with_default_options)(Allocator **);
    void (*release_status)(Status *);
    void (*release_session)(Session *);
    void (*release_value)(Value *);
    void (*release_tensor_info)(TensorInfo *);
    void (*release_session_options)(SessionOptions *);
} ort;

typedef struct ApiBase {
    const Symbol *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
} ApiBase;

static const char *version;
static Environment *environment;
static MemoryInfo *memory;
static Allocator *allocator;

const char runtime_name[] = "onnxruntime";
const char *const runtime_formats[] = {"onnx", NULL};
#if defined(_WIN32)
const char *const runtime_libraries[] = {"onnxruntime.dll", NULL};
#elif defined(__APPLE__)
const char *const runtime_libraries[] = {"libonnxruntime.dylib", NULL};
#else
const char *const runtime_libraries[] = {"libonnxruntime.so.1", "libonnxruntime.so", NULL};
#endif

typedef struct Loaded {
    Model model;
    Session *session;
    Value **inputs;
    Value **outputs;
} Loaded;

/* ONNXTensorElementDataType; 0 is none of them. */
static const int ELEMENT_TYPE[DTYPES] = {
    [DTYPE_FLOAT32] = 1,  [DTYPE_UINT8] = 2,    [DTYPE_INT8] = 3,    [DTYPE_UINT16] = 4,
    [DTYPE_INT16] = 5,    [DTYPE_INT32] = 6,    [DTYPE_INT64] = 7,   [DTYPE_BOOL] = 9,
    [DTYPE_FLOAT16] = 10, [DTYPE_FLOAT64] = 11, [DTYPE_UINT32] = 12, [DTYPE_UINT64] = 13,
};

/* --- The interface ---------------------------------------------------------------------------------------------- */

#define TAKE(name, place) memcpy(&ort.name, &table[place], sizeof ort.name)

static void take_functions(const Symbol *table) {
    TAKE(get_error_code, 1);
    TAKE(get_error_message, 2);
    TAKE(create_env, 3);
    TAKE(disable_telemetry_events, 6);
    TAKE(create_session, 7);
    TAKE(run, 9);
    TAKE(create_session_options, 10);
    TAKE(set_intra_op_num_threads, 24);
    TAKE(set_inter_op_num_threads, 25);
    TAKE(session_get_input_count, 30);
    TAKE(session_get_output_count, 31);
    TAKE(session_get_input_name, 36);
    TAKE(session_get_output_name, 37);
    TAKE(create_tensor_with_data, 49);
    TAKE(is_tensor, 50);
    TAKE(get_tensor_mutable_data, 51);
    TAKE(get_tensor_element_type, 60);
    TAKE(get_dimensions_count, 61);
    TAKE(get_dimensions, 62);
    TAKE(get_tensor_type_and_shape, 65);
    TAKE(create_cpu_memory_info, 69);
    TAKE(allocator_free, 76);
    TAKE(get_allocator_with_default_options, 78);
    TAKE(release_status, 93);
    TAKE(release_session, 95);
    TAKE(release_value, 96);
    TAKE(release_tensor_info, 99);
    TAKE(release_session_options, 100);
}

/* Return whether a call succeeded; what it said if it did not is noted, under the name that Python gives it. */
static bool good(Status *status, Failure *failure) {
    static const char *const CODES[] = {"OK",          "Fail",           "InvalidArgument",  "NoSuchFile",
                                        "NoModel",     "EngineError",    "RuntimeException", "InvalidProtobuf",
                                        "ModelLoaded", "NotImplemented", "InvalidGraph",     "EPFail"};
    if (status == NULL) {
        return true;
    }
    size_t code = (size_t)ort.get_error_code(status);
    const char *name = code < sizeof CODES / sizeof *CODES ? CODES[code] : "Fail";
    fail(failure, "%s: %s", name, ort.get_error_message(status));
    ort.release_status(status);
    return false;
}

bool runtime_open(void *library, Failure *failure) {
    Symbol found = system_symbol(library, "OrtGetApiBase");
    if (found == NULL) {
        return fail(failure, "the library is no ONNX Runtime: it has no OrtGetApiBase");
    }
    const ApiBase *base = ((const ApiBase *(*)(void))found)();
    version = base->get_version();
    const Symbol *table = base->get_api(API_VERSION);
    if (table == NULL) {
        return fail(failure, "ONNX Runtime %s is too old; %s or later is needed", version, OLDEST);
    }
    take_functions(table);
    /* The Windows builds send usage events unless told not to. */
    return good(ort.create_env(LOG_WARNINGS, "portmatrix", &environment), failure) &&
           good(ort.disable_telemetry_events(environment), failure) &&
           good(ort.create_cpu_memory_info(DEVICE_ALLOCATOR, DEFAULT_MEMORY, &memory), failure) &&
           good(ort.get_allocator_with_default_options(&allocator), failure);
}

const char *runtime_version(void) {
    return version;
}

const char *runtime_degraded(Model *model) {
    (void)model;
    return ""; /* The CPU provider is the only one that is asked for. */
}

/* --- Loading ---------------------------------------------------------------------------------------------------- */

static bool open_session(Arena *arena, const char *entry, int threads, Session **session, Failure *failure) {
    SessionOptions *options;
    const PathSign *path = system_path(arena, entry);
    if (path == NULL) {
        return fail(failure, "%s is no path", entry);
    }
    if (!good(ort.create_session_options(&options), failure)) {
        return false;
    }
    bool made = good(ort.set_intra_op_num_threads(options, threads), failure) &&
                good(ort.set_inter_op_num_threads(options, 1), failure) &&
                good(ort.create_session(environment, path, options, session), failure);
    ort.release_session_options(options);
    return made;
}

/* Copy the names of all inputs or outputs into the arena. */
static bool read_names(Arena *arena, const Session *session, bool inputs, size_t *count, const char ***names,
                       Failure *failure) {
    if (!good((inputs ? ort.session_get_input_count : ort.session_get_output_count)(session, count), failure)) {
        return false;
    }
    *names = arena_take(arena, *count, sizeof **names);
    for (size_t index = 0; *names != NULL && index < *count; index++) {
        char *own;
        if (!good((inputs ? ort.session_get_input_name : ort.session_get_output_name)(session, index, allocator, &own),
                  failure)) {
            return false;
        }
        (*names)[index] = arena_copy(arena, own, strlen(own));
        if (!good(ort.allocator_free(allocator, own), failure)) {
            return false;
        }
        if ((*names)[index] == NULL) {
            return fail_of_memory(failure);
        }
    }
    return *names != NULL || fail_of_memory(failure);
}

Model *runtime_load(Arena *arena, const char *entry, int threads, Failure *failure) {
    Loaded *loaded = arena_take(arena, 1, sizeof *loaded);
    if (loaded == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    Model *model = &loaded->model;
    if (!open_session(arena, entry, threads, &loaded->session, failure)) {
        return NULL;
    }
    bool named = read_names(arena, loaded->session, true, &model->input_count, &model->inputs, failure) &&
                 read_names(arena, loaded->session, false, &model->output_count, &model->outputs, failure);
    loaded->inputs = named ? arena_take(arena, model->input_count, sizeof *loaded->inputs) : NULL;
    loaded->outputs = named ? arena_take(arena, model->output_count, sizeof *loaded->outputs) : NULL;
    if (loaded->inputs == NULL || loaded->outputs == NULL) {
        if (named) {
            fail_of_memory(failure);
        }
        ort.release_session(loaded->session);
        return NULL;
    }
    return model;
}

/* --- Running ---------------------------------------------------------------------------------------------------- */

static void release_values(Value **values, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (values[index] != NULL) {
            ort.release_value(values[index]);
            values[index] = NULL;
        }
    }
}

bool runtime_give(Model *model, const Tensor *inputs, Failure *failure) {
    static char nothing[1]; /* The library refuses a NULL, even for no bytes. */
    Loaded *loaded = (Loaded *)model;
    release_values(loaded->inputs, model->input_count);
    for (size_t index = 0; index < model->input_count; index++) {
        const Tensor *input = &inputs[index];
        size_t bytes;
        if (!tensor_bytes(input, &bytes)) {
            return fail_of_memory(failure);
        }
        void *data = bytes == 0 ? nothing : input->data;
        Status *status = ort.create_tensor_with_data(memory, data, bytes, input->shape, input->rank,
                                                     ELEMENT_TYPE[input->dtype], &loaded->inputs[index]);
        if (!good(status, failure)) {
            return false;
        }
    }
    return true;
}

static bool read_element_type(const char *name, int element_type, DType *dtype, Failure *failure) {
    for (*dtype = 0; *dtype < DTYPES; (*dtype)++) {
        if (ELEMENT_TYPE[*dtype] == element_type) {
            return true;
        }
    }
    return fail(failure, "output %s has elements of ONNX type %d, which this runner cannot read", name, element_type);
}

static bool read_type_and_shape(const char *name, const TensorInfo *info, Tensor *output, Failure *failure) {
    int element_type;
    return good(ort.get_tensor_element_type(info, &element_type), failure) &&
           read_element_type(name, element_type, &output->dtype, failure) &&
           good(ort.get_dimensions_count(info, &output->rank), failure) &&
           (output->rank <= TENSOR_RANK || fail(failure, "output %s has %zu axes", name, output->rank)) &&
           good(ort.get_dimensions(info, output->shape, output->rank), failure);
}

static bool read_output(const char *name, Value *value, Tensor *output, Failure *failure) {
    int tensor = 0;
    TensorInfo *info;
    if (value == NULL || !good(ort.is_tensor(value, &tensor), failure) || !tensor) {
        return fail(failure, "output %s is no tensor", name);
    }
    if (!good(ort.get_tensor_type_and_shape(value, &info), failure)) {
        return false;
    }
    bool read = read_type_and_shape(name, info, output, failure);
    ort.release_tensor_info(info);
    return read && good(ort.get_tensor_mutable_data(value, &output->data), failure);
}

bool runtime_run(Model *model, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    /* An output that is there already would be written into, where its shape may be another one now. */
    release_values(loaded->outputs, model->output_count);
    return good(ort.run(loaded->session, NULL, model->inputs, (const Value *const *)loaded->inputs, model->input_count,
                        model->outputs, model->output_count, loaded->outputs),
                failure);
}

bool runtime_read(Model *model, Tensor *outputs, Failure *failure) {
    Loaded *loaded = (Loaded *)model;
    for (size_t index = 0; index < model->output_count; index++) {
        if (!read_output(model->outputs[index], loaded->outputs[index], &outputs[index], failure)) {
            return false;
        }
    }
    return true;
}

void runtime_close(Model *model) {
    Loaded *loaded = (Loaded *)model;
    release_values(loaded->inputs, model->input_count);
    release_values(loaded->outputs, model->output_count);
    ort.release_session(loaded->session);
}
