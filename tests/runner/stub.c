/* A runtime for tests, which really does what its artifact says: the first word of it is a behaviour below, the second
   and third the names of inputs and outputs with commas between them. An output is its input. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

const char runtime_name[] = "stub";
const char *const runtime_formats[] = {"stub", NULL};
#if defined(_WIN32)
const char *const runtime_libraries[] = {"kernel32.dll", NULL};
#elif defined(__APPLE__)
const char *const runtime_libraries[] = {"libSystem.B.dylib", NULL};
#else
const char *const runtime_libraries[] = {"libno-such-thing.so.0", "libc.so.6", "libc.so", NULL};
#endif

typedef struct Stub {
    Model model;
    char behaviour[64];
    const Tensor *inputs;
    int given;
    int calls;
    int read;
    int64_t rows;
    void *kept;
} Stub;

bool runtime_open(void *library, Failure *failure) {
    return library != NULL || fail(failure, "no library was opened");
}

const char *runtime_version(void) {
    return "0.1";
}

static bool is(const Stub *stub, const char *behaviour) {
    return strcmp(stub->behaviour, behaviour) == 0;
}

const char *runtime_degraded(Model *model) {
    return is((Stub *)model, "degraded") ? "runs on \"paper\"" : "";
}

static const char **split(Arena *arena, char *text, size_t *count) {
    const char **names = arena_take(arena, strlen(text) + 1, sizeof *names);
    for (char *name = strtok(text, ","); names != NULL && name != NULL; name = strtok(NULL, ",")) {
        names[(*count)++] = name;
    }
    return names;
}

Model *runtime_load(Arena *arena, const char *entry, int threads, Failure *failure) {
    char *text, *words[3] = {NULL, NULL, NULL};
    size_t length, count = 0;
    Stub *stub = arena_take(arena, 1, sizeof *stub);
    if (stub == NULL || !system_read(arena, entry, 4096, &text, &length, failure)) {
        return NULL;
    }
    for (char *word = strtok(text, " \n"); word != NULL && count < 3; word = strtok(NULL, " \n")) {
        words[count++] = word;
    }
    if (count < 3) {
        fail(failure, "not a stub's artifact");
        return NULL;
    }
    snprintf(stub->behaviour, sizeof stub->behaviour, "%s", words[0]);
    if (is(stub, "refuse-to-load")) {
        fail(failure, "line one\n\tline two, %d threads, %0*d the end", threads, 2000, 0);
        return NULL;
    }
    stub->model.inputs = split(arena, words[1], &stub->model.input_count);
    stub->model.outputs = split(arena, words[2], &stub->model.output_count);
    return &stub->model;
}

static void misbehave(const Stub *stub) {
    if (is(stub, "segfault")) {
        raise(SIGSEGV);
    } else if (is(stub, "abort")) {
        abort();
    } else if (is(stub, "exit")) {
        exit(7);
    } else if (is(stub, "hang")) {
        for (;;) {
        }
    } else if (is(stub, "print")) {
        printf("{\"id\": 1, \"ok\": true} said on standard output\n");
        fflush(stdout);
        fprintf(stderr, "said on standard error\n");
    } else if (is(stub, "read")) {
        /* What is there to be read is the engine's, not the runtime's. */
        fprintf(stderr, "read %d\n", getchar());
    }
}

/* Say what it is given, whenever that has another number of rows than before. */
static void tell(Stub *stub, const Tensor *input) {
    if (is(stub, "tell") && input->rank > 0 && input->shape[0] != stub->rows) {
        stub->rows = input->shape[0];
        fprintf(stderr, "given %s from %.6f\n", tensor_shape_text(input).text, (double)*(const float *)input->data);
    }
}

static void change(const Stub *stub, Tensor *output) {
    if (is(stub, "nan")) {
        ((float *)output->data)[0] = NAN;
    } else if (is(stub, "infinite")) {
        ((float *)output->data)[0] = INFINITY;
    } else if (is(stub, "off")) {
        ((float *)output->data)[0] += 1;
    } else if (is(stub, "int32")) {
        output->dtype = DTYPE_INT32;
    } else if (is(stub, "flat")) {
        output->rank = 1;
        output->shape[0] *= output->shape[1];
    } else if (is(stub, "lie")) {
        output->shape[0] *= 100;
    } else if (is(stub, "grow") && stub->calls > 1) {
        output->shape[0] -= 1;
    }
}

bool runtime_give(Model *model, const Tensor *inputs, Failure *failure) {
    Stub *stub = (Stub *)model;
    (void)failure;
    stub->given++;
    stub->inputs = inputs;
    return true;
}

bool runtime_run(Model *model, Failure *failure) {
    Stub *stub = (Stub *)model;
    misbehave(stub);
    if (is(stub, "refuse-to-run")) {
        return fail(failure, "not with \"these\" inputs \xff");
    }
    if (is(stub, "tire") && stub->calls == 3) {
        return fail(failure, "not a fourth time");
    }
    stub->calls++;
    tell(stub, &stub->inputs[0]);
    return true;
}

bool runtime_read(Model *model, Tensor *outputs, Failure *failure) {
    Stub *stub = (Stub *)model;
    stub->read++;
    for (size_t index = 0; index < model->output_count; index++) {
        const Tensor *input = &stub->inputs[index % model->input_count];
        size_t bytes;
        outputs[index] = *input;
        if (index == 0 && tensor_bytes(input, &bytes)) {
            free(stub->kept);
            stub->kept = malloc(bytes + 1);
            if (stub->kept == NULL) {
                return fail_of_memory(failure);
            }
            memcpy(stub->kept, input->data, bytes);
            outputs[index].data = stub->kept;
            change(stub, &outputs[index]);
        }
    }
    return true;
}

void runtime_close(Model *model) {
    Stub *stub = (Stub *)model;
    if (is(stub, "count")) {
        fprintf(stderr, "given %d times, read %d times, called %s\n", stub->given, stub->read,
                stub->calls == stub->given ? "as often" : "more often");
    }
    free(stub->kept);
}
