/* The mode for people: runs one bundle, compares its outputs with the framework's own, and times it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compare.h"
#include "run.h"
#include "worker.h"

enum { PASSED = 0, DIFFERS = 1, UNREADABLE = 2, BROKEN = 3 };
/* A median of fewer times than this says too little. */
enum { LEAST_TIMES = 11 };

/* One bundle at work: what it is, the samples of each of its sets, what it is run by, and how far that has come. */
typedef struct Check {
    Arena arena;
    const Options *options;
    Bundle bundle;
    Tensor **inputs;
    Tensor **references;
    Binding binding;
    Steps steps;
    Model *model;
    Failure failure;
} Check;

/* Say what went wrong, and return the exit status that it means. */
static int ended(Check *check) {
    fflush(stdout);
    if (check->steps.stage == PREPARE) {
        fprintf(stderr, "%s\n", check->failure.reason);
        return UNREADABLE;
    }
    fprintf(stderr, "%s failed: %s\n", stage_names[check->steps.stage], check->failure.reason);
    printf("FAIL\n");
    return check->steps.stage == COMPARE ? DIFFERS : BROKEN;
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static void print_times(const SampleSet *set, double *seconds, size_t count) {
    printf("batch %lld: %zu calls, first %.3f ms, ", (long long)set->batch, count, seconds[0] * 1e3);
    double *rest = seconds + 1;
    size_t times = count - 1;
    if (times < LEAST_TIMES) {
        printf("%zu more, too few for a median (--repeat)\n", times);
        return;
    }
    qsort(rest, times, sizeof *rest, by_size);
    double middle = times % 2 == 1 ? rest[times / 2] : (rest[times / 2 - 1] + rest[times / 2]) / 2;
    printf("p50 of %zu more %.4f ms\n", times, middle * 1e3);
}

/* Print where an element lies, as an index of its array. */
static void print_place(const Tensor *tensor, size_t element) {
    size_t index[TENSOR_RANK];
    for (size_t axis = tensor->rank; axis-- > 0;) {
        size_t length = (size_t)tensor->shape[axis];
        index[axis] = element % length;
        element /= length;
    }
    printf("[");
    for (size_t axis = 0; axis < tensor->rank; axis++) {
        printf(axis == 0 ? "%zu" : ", %zu", index[axis]);
    }
    printf("]");
}

static bool print_numbers(const Check *check, const Tensor *reference, const Tensor *output) {
    double atol = check->options->atol, rtol = check->options->rtol;
    Comparison found = compare(reference, output, atol, rtol);
    char limit[64] = "be equal";
    if (dtype_kind(output->dtype) == 'f') {
        snprintf(limit, sizeof limit, "be within atol %g, rtol %g", atol, rtol);
    }
    if (found.max_abs >= 0) {
        printf("max abs %.3g, ", found.max_abs);
    }
    if (found.max_rel >= 0) {
        printf("max rel %.3g, ", found.max_rel);
    }
    printf("%zu of %zu elements differ that must %s", found.mismatched, found.elements, limit);
    if (found.mismatched > 0) {
        char made[32], wanted[32];
        element_text(output, found.worst, made);
        element_text(reference, found.worst, wanted);
        printf(found.stray > 0 ? ", %zu by NaN or infinity on one side only; at " : "; at ", found.stray);
        print_place(output, found.worst);
        printf(" %s, expected %s", made, wanted);
    }
    printf("\n");
    return found.mismatched == 0;
}

static bool print_comparison(const Check *check, const char *name, const Tensor *reference, const Tensor *output) {
    printf("  %s %s %s: ", name, dtype_name(output->dtype), tensor_shape_text(output).text);
    if (output->dtype != reference->dtype) {
        printf("dtype %s, expected %s\n", dtype_name(output->dtype), dtype_name(reference->dtype));
        return false;
    }
    if (!tensor_same_shape(output, reference)) {
        printf("expected shape %s\n", tensor_shape_text(reference).text);
        return false;
    }
    return print_numbers(check, reference, output);
}

/* Run a set as often as asked; the outputs of the first time count. */
static Tensor *run_repeated(Check *check, const SampleSet *set, const Tensor *inputs, double *seconds) {
    Tensor *first = NULL;
    for (int round = 0; round < check->options->repeat; round++) {
        Arena passing = {NULL};
        Tensor *made = run_set(round == 0 ? &check->arena : &passing, &check->steps, check->model, &check->bundle,
                               &check->binding, set, inputs, seconds + (size_t)round * set->calls, &check->failure);
        arena_free(&passing);
        if (made == NULL) {
            return NULL;
        }
        first = round == 0 ? made : first;
    }
    return first;
}

static bool write_outputs(Check *check, size_t number, const Tensor *outputs) {
    for (size_t index = 0; index < check->bundle.outputs.count; index++) {
        const char *path = arena_format(&check->arena, "%s/s%zu.out%zu.npy", check->options->outputs, number, index);
        if (path == NULL || !npy_write(&check->arena, path, &outputs[index], &check->failure)) {
            return false;
        }
    }
    return true;
}

/* Run and compare one set; `status` becomes DIFFERS if it does. Returns false where it could not be done. */
static bool check_set(Check *check, size_t number, int *status) {
    const SampleSet *set = &check->bundle.sets[number];
    const Names *names = &check->bundle.outputs;
    size_t repeat = (size_t)check->options->repeat, count = repeat * set->calls;
    double *seconds = set->calls > SIZE_MAX / repeat ? NULL : arena_take(&check->arena, count, sizeof *seconds);
    if (seconds == NULL) {
        return fail_of_memory(&check->failure);
    }
    steps_enter(&check->steps, RUN);
    const Tensor *outputs = run_repeated(check, set, check->inputs[number], seconds);
    if (outputs == NULL) {
        return false;
    }
    print_times(set, seconds, count);
    for (size_t index = 0; index < names->count; index++) {
        if (!print_comparison(check, names->names[index], &check->references[number][index], &outputs[index])) {
            *status = DIFFERS;
        }
    }
    /* What is known shall be seen, should the runtime die of the next set. */
    fflush(stdout);
    steps_enter(&check->steps, PREPARE);
    return check->options->outputs == NULL || write_outputs(check, number, outputs);
}

/* Read the samples of all sets, before anything is run. */
static bool read_all(Check *check) {
    const Bundle *bundle = &check->bundle;
    Arena *arena = &check->arena;
    check->inputs = arena_take(arena, bundle->set_count, sizeof *check->inputs);
    check->references = arena_take(arena, bundle->set_count, sizeof *check->references);
    if (check->inputs == NULL || check->references == NULL) {
        return fail_of_memory(&check->failure);
    }
    for (size_t index = 0; index < bundle->set_count; index++) {
        const SampleSet *set = &bundle->sets[index];
        check->inputs[index] = read_samples(arena, set->inputs, bundle->inputs.count, set->calls, &check->failure);
        if (check->inputs[index] == NULL) {
            return false;
        }
        check->references[index] =
            read_samples(arena, set->outputs, bundle->outputs.count, set->calls, &check->failure);
        if (check->references[index] == NULL) {
            return false;
        }
    }
    return true;
}

static bool load(Check *check) {
    steps_enter(&check->steps, LOAD);
    if (!open_runtime(check->options->library, &check->failure)) {
        return false;
    }
    check->model = runtime_load(&check->arena, check->bundle.entry, check->options->threads, &check->failure);
    if (check->model == NULL) {
        return false;
    }
    printf("%s on %s %s, %s, %d thread%s\n", check->bundle.id, runtime_name, runtime_version(), system_platform,
           check->options->threads, check->options->threads == 1 ? "" : "s");
    if (*runtime_degraded(check->model) != '\0') {
        printf("not as asked for: %s\n", runtime_degraded(check->model));
    }
    fflush(stdout);
    steps_enter(&check->steps, RUN);
    return bind_names(&check->arena, check->model, &check->bundle, &check->binding, &check->failure);
}

static bool prepare(Check *check) {
    const char *outputs = check->options->outputs;
    return bundle_of_folder(&check->arena, check->options->bundle, &check->bundle, &check->failure) &&
           runtime_takes(check->bundle.format, &check->failure) && read_all(check) &&
           (outputs == NULL || system_make_folder(outputs, &check->failure));
}

int check_bundle(const Options *options) {
    Check check = {.options = options};
    int status = PASSED;
    steps_begin(&check.steps, NULL);
    bool whole = prepare(&check) && load(&check);
    for (size_t number = 0; whole && number < check.bundle.set_count; number++) {
        whole = check_set(&check, number, &status);
    }
    if (!whole) {
        status = ended(&check);
    } else {
        printf(status == PASSED ? "PASS\n" : "FAIL\n");
    }
    if (check.model != NULL) {
        runtime_close(check.model);
    }
    arena_free(&check.arena);
    return status;
}
