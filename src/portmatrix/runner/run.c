/* Running a bundle: samples in, stacked outputs out, each step under the name of its stage. */
#include "run.h"

#include <string.h>

const char *const stage_names[STAGES] = {"PREPARE", "LOAD", "RUN", "COMPARE", "MEASURE"};

void steps_begin(Steps *steps, FILE *answers) {
    *steps = (Steps){.answers = answers, .since = system_seconds()};
}

void steps_end(Steps *steps) {
    double now = system_seconds();
    steps->seconds[steps->stage] += now - steps->since;
    steps->since = now;
}

void steps_enter(Steps *steps, Stage stage) {
    steps_end(steps);
    if (stage != steps->stage && steps->answers != NULL) {
        fprintf(steps->answers, "{\"event\": \"stage\", \"stage\": \"%s\"}\n", stage_names[stage]);
        fflush(steps->answers);
    }
    steps->stage = stage;
}

/* Return the first library that is found by one of the runtime's usual names, or NULL. */
static void *usual_library(Failure *failure) {
    Failure first = {0}, other;
    void *handle = NULL;
    for (size_t index = 0; handle == NULL && runtime_libraries[index] != NULL; index++) {
        handle = system_library(runtime_libraries[index], index == 0 ? &first : &other);
    }
    if (handle == NULL) {
        fail_of_harness(failure, "%s; name the library by --library or PORTMATRIX_LIBRARY", first.reason);
    }
    return handle;
}

bool open_runtime(const char *library, Failure *failure) {
    static bool opened = false;
    if (!opened) {
        void *handle = library == NULL ? usual_library(failure) : system_library(library, failure);
        opened = handle != NULL && runtime_open(handle, failure);
        failure->harness = !opened;
    }
    return opened;
}

bool runtime_takes(const char *format, Failure *failure) {
    for (size_t index = 0; runtime_formats[index] != NULL; index++) {
        if (strcmp(runtime_formats[index], format) == 0) {
            return true;
        }
    }
    return fail(failure, "the artifact is of format %s; this runner is for %s, which takes %s", format, runtime_name,
                runtime_formats[0]);
}

Tensor *read_samples(Arena *arena, const char *const *paths, size_t count, size_t calls, Failure *failure) {
    Tensor *tensors = arena_take(arena, count, sizeof *tensors);
    if (tensors == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    for (size_t index = 0; index < count; index++) {
        Tensor *tensor = &tensors[index];
        if (!npy_read(arena, paths[index], tensor, failure)) {
            return NULL;
        }
        uint64_t length = tensor->rank == 0 ? 0 : (uint64_t)tensor->shape[0];
        if (length == 0 || (calls > 0 && length != calls)) {
            fail(failure, "%s has shape %s; expected %s%zu calls, stacked along the first axis", paths[index],
                 tensor_shape_text(tensor).text, calls > 0 ? "" : "at least ", calls > 0 ? calls : 1);
            return NULL;
        }
    }
    return tensors;
}

/* --- Names ------------------------------------------------------------------------------------------------------ */

static bool find(const Names *names, const char *name, size_t *number) {
    for (size_t index = 0; index < names->count; index++) {
        if (strcmp(names->names[index], name) == 0) {
            *number = index;
            return true;
        }
    }
    return false;
}

static const char *list(Arena *arena, const Names *names) {
    const char *text = names->count == 0 ? "none" : names->names[0];
    for (size_t index = 1; text != NULL && index < names->count; index++) {
        text = arena_format(arena, "%s, %s", text, names->names[index]);
    }
    return text == NULL ? "?" : text;
}

/* Put the partner of each name on the left into `partner`; the twin of `pair` in worker.py. */
static bool pair(Arena *arena, const Names *left, const Names *right, const char *what, size_t **partner,
                 Failure *failure) {
    size_t ignored;
    if (left->count != right->count) {
        return fail(failure, "expected %s %s, found %s", what, list(arena, left), list(arena, right));
    }
    *partner = arena_take(arena, left->count, sizeof **partner);
    if (*partner == NULL) {
        return fail_of_memory(failure);
    }
    bool same = true;
    for (size_t index = 0; index < left->count; index++) {
        same = same && find(right, left->names[index], &(*partner)[index]) && find(left, right->names[index], &ignored);
    }
    for (size_t index = 0; !same && index < left->count; index++) {
        (*partner)[index] = index;
    }
    return true;
}

bool bind_names(Arena *arena, const Model *model, const Bundle *bundle, Binding *binding, Failure *failure) {
    Names inputs = {model->input_count, model->inputs};
    Names outputs = {model->output_count, model->outputs};
    return pair(arena, &inputs, &bundle->inputs, "input", &binding->inputs, failure) &&
           pair(arena, &bundle->outputs, &outputs, "output", &binding->outputs, failure);
}

/* --- Calls ------------------------------------------------------------------------------------------------------ */

bool call_of(const Tensor *stacked, size_t call, Tensor *part) {
    size_t bytes;
    *part = *stacked;
    part->rank--;
    memmove(part->shape, part->shape + 1, part->rank * sizeof *part->shape);
    if (!tensor_bytes(part, &bytes)) {
        return false;
    }
    part->data = (char *)stacked->data + call * bytes;
    return true;
}

/* Make room for `calls` outputs like the first one. */
static bool begin_stack(Arena *arena, const Tensor *output, size_t calls, Tensor *stacked, Failure *failure) {
    size_t bytes;
    if (output->rank >= TENSOR_RANK) {
        return fail(failure, "an output has %zu axes; at most %d are taken", output->rank, TENSOR_RANK - 1);
    }
    stacked->dtype = output->dtype;
    stacked->rank = output->rank + 1;
    stacked->shape[0] = (int64_t)calls;
    memcpy(stacked->shape + 1, output->shape, output->rank * sizeof *output->shape);
    stacked->data = tensor_bytes(stacked, &bytes) ? arena_take(arena, bytes, 1) : NULL;
    return stacked->data != NULL || fail_of_memory(failure);
}

static bool stack(Arena *arena, Steps *steps, const Tensor *output, size_t call, size_t calls, const char *name,
                  Tensor *stacked, Failure *failure) {
    Tensor place;
    size_t bytes;
    if (call == 0 && !begin_stack(arena, output, calls, stacked, failure)) {
        return false;
    }
    if (!call_of(stacked, call, &place) || !tensor_bytes(&place, &bytes)) {
        return fail_of_memory(failure);
    }
    if (output->dtype != place.dtype || !tensor_same_shape(output, &place)) {
        steps_enter(steps, COMPARE);
        return fail(failure, "output %s changes its dtype or shape between calls: %s %s, then %s %s", name,
                    dtype_name(place.dtype), tensor_shape_text(&place).text, dtype_name(output->dtype),
                    tensor_shape_text(output).text);
    }
    if (bytes > 0) {
        memcpy(place.data, output->data, bytes);
    }
    return true;
}

/* Cut the inputs of one call and run it; the outputs are the artifact's own, in its order. */
static bool run_call(Model *model, const Binding *binding, const Tensor *stacked, size_t call, Tensor *inputs,
                     Tensor *outputs, double *seconds, Failure *failure) {
    for (size_t index = 0; index < model->input_count; index++) {
        if (!call_of(&stacked[binding->inputs[index]], call, &inputs[index])) {
            return fail_of_memory(failure);
        }
    }
    if (!runtime_give(model, inputs, failure)) {
        return false;
    }
    double start = system_seconds();
    bool ran = runtime_run(model, failure);
    if (seconds != NULL) {
        seconds[call] = system_seconds() - start;
    }
    return ran && runtime_read(model, outputs, failure);
}

Tensor *run_set(Arena *arena, Steps *steps, Model *model, const Bundle *bundle, const Binding *binding,
                const SampleSet *set, const Tensor *inputs, double *seconds, Failure *failure) {
    Tensor *given = arena_take(arena, model->input_count, sizeof *given);
    Tensor *made = arena_take(arena, model->output_count, sizeof *made);
    Tensor *stacked = arena_take(arena, bundle->outputs.count, sizeof *stacked);
    if (given == NULL || made == NULL || stacked == NULL) {
        fail_of_memory(failure);
        return NULL;
    }
    for (size_t call = 0; call < set->calls; call++) {
        if (!run_call(model, binding, inputs, call, given, made, seconds, failure)) {
            return NULL;
        }
        for (size_t index = 0; index < bundle->outputs.count; index++) {
            const Tensor *output = &made[binding->outputs[index]];
            const char *name = bundle->outputs.names[index];
            if (!stack(arena, steps, output, call, set->calls, name, &stacked[index], failure)) {
                return NULL;
            }
        }
    }
    return stacked;
}
