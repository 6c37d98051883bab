/* How long a model's calls take: the twin of `_measure` in worker.py, and of what that calls. */
#include "measure.h"

#include <math.h>

#include "system.h"

/* Of a sample's time, the share that reading the clock twice may take. */
static const double CLOCK_SHARE = 0.001;
/* A warm-up lasts until the mean times of so many chunks in a row, each of so many seconds, are that close together. */
enum { STABLE_CHUNKS = 4 };
static const double CHUNK_SECONDS = 0.02, STABLE = 0.05;

/* What is timed: the model, with the inputs of one set in the order of its own names. */
typedef struct Call {
    Model *model;
    Tensor *inputs;
    Tensor *outputs;
    Failure *failure;
} Call;

bool first_rows(const Bundle *bundle, const SampleSet *set, Tensor *inputs, Failure *failure) {
    for (size_t index = 0; index < bundle->inputs.count; index++) {
        Tensor first;
        if (!call_of(&inputs[index], 0, &first)) {
            return fail_of_memory(failure);
        }
        if (bundle->symbolic[index]) {
            /* With fewer rows the times would be those of another batch. */
            if (first.rank == 0 || first.shape[0] < set->batch) {
                return fail(failure, "%s has calls of shape %s; expected at least %lld rows", set->inputs[index],
                            tensor_shape_text(&first).text, (long long)set->batch);
            }
            first.shape[0] = set->batch;
        }
        inputs[index] = first;
    }
    return true;
}

/* --- Timing ----------------------------------------------------------------------------------------------------- */

/* Time a call with all that belongs to a first one: the inputs given, the model run, the outputs read. */
static bool time_whole_call(const Call *call, double *seconds) {
    double start = system_seconds();
    bool made = runtime_give(call->model, call->inputs, call->failure) && runtime_run(call->model, call->failure) &&
                runtime_read(call->model, call->outputs, call->failure);
    *seconds = system_seconds() - start;
    return made;
}

/* Run on the inputs that were given: nothing stands between the clock and the runtime. */
static bool run_once(const Call *call) {
    return runtime_run(call->model, call->failure);
}

/* Put into `seconds` how long so many calls in a row take. */
static bool time_rounds(const Call *call, int64_t rounds, double *seconds) {
    double start = system_seconds();
    for (int64_t round = 0; round < rounds; round++) {
        if (!run_once(call)) {
            return false;
        }
    }
    *seconds = system_seconds() - start;
    return true;
}

/* Return how long it takes to read the clock twice, as every sample does: the least of many times. */
static double clock_seconds(void) {
    double least = HUGE_VAL;
    for (int time = 0; time < 1000; time++) {
        double start = system_seconds();
        least = fmin(least, system_seconds() - start);
    }
    return least > 0 ? least : system_tick();
}

/* Find how many calls in a row take long enough for the clock's own share of their time. */
static bool calls_of_a_sample(const Call *call, int64_t *inner) {
    double enough = clock_seconds() / CLOCK_SHARE, taken;
    *inner = 1;
    while (time_rounds(call, *inner, &taken)) {
        if (taken >= enough) {
            return true;
        }
        /* A call can be over before a coarse clock has moved on. */
        double more = taken > 0 ? ceil(1.05 * (double)*inner * enough / taken) : 2.0 * (double)*inner;
        *inner = more > (double)*inner ? (int64_t)more : *inner + 1;
    }
    return false;
}

static bool is_stable(const double *means) {
    double least = means[0], most = means[0];
    for (size_t index = 1; index < STABLE_CHUNKS; index++) {
        least = fmin(least, means[index]);
        most = fmax(most, means[index]);
    }
    return most <= least * (1 + STABLE);
}

/* Call for as long as one chunk lasts, once at least. */
static bool call_chunk(const Call *call, int64_t *count, double *mean) {
    double start = system_seconds();
    *count = 0;
    do {
        if (!run_once(call)) {
            return false;
        }
        (*count)++;
    } while (system_seconds() - start < CHUNK_SECONDS);
    *mean = (system_seconds() - start) / (double)*count;
    return true;
}

/* Call until times are stable or `seconds` are over. */
static bool warm_up(const Call *call, double seconds, Timing *timing) {
    double deadline = system_seconds() + seconds;
    double last[STABLE_CHUNKS];
    for (size_t chunks = 1;; chunks++) {
        int64_t count;
        if (!call_chunk(call, &count, &last[chunks % STABLE_CHUNKS])) {
            return false;
        }
        timing->warm += count;
        timing->stable = chunks >= STABLE_CHUNKS && is_stable(last);
        if (timing->stable || system_seconds() > deadline) {
            return true;
        }
    }
}

/* Take up to as many samples as are wanted: fewer where the seconds do not suffice, but one at least. */
static bool time_calls(Arena *arena, const Call *call, const Wanted *wanted, Timing *timing) {
    *timing = (Timing){.samples = arena_take(arena, wanted->samples, sizeof *timing->samples)};
    if (timing->samples == NULL) {
        return fail_of_memory(call->failure);
    }
    if (!warm_up(call, wanted->seconds, timing) || !calls_of_a_sample(call, &timing->inner)) {
        return false;
    }
    double deadline = system_seconds() + wanted->seconds;
    do {
        double taken;
        if (!time_rounds(call, timing->inner, &taken)) {
            return false;
        }
        timing->samples[timing->sample_count++] = taken / (double)timing->inner;
    } while (timing->sample_count < wanted->samples && system_seconds() < deadline);
    return true;
}

/* --- Measuring -------------------------------------------------------------------------------------------------- */

static bool make_call(Arena *arena, Model *model, Failure *failure, Call *call) {
    call->model = model;
    call->inputs = arena_take(arena, model->input_count, sizeof *call->inputs);
    call->outputs = arena_take(arena, model->output_count, sizeof *call->outputs);
    call->failure = failure;
    return (call->inputs != NULL && call->outputs != NULL) || fail_of_memory(failure);
}

static bool time_sets(Arena *arena, const Bundle *bundle, const Binding *binding, Tensor *const *inputs,
                      const Wanted *wanted, Call *call, Measured *measured) {
    for (size_t number = 0; number < bundle->set_count; number++) {
        double first;
        for (size_t index = 0; index < call->model->input_count; index++) {
            call->inputs[index] = inputs[number][binding->inputs[index]];
        }
        if (!time_whole_call(call, &first)) {
            return false;
        }
        if (number == 0) {
            measured->first_seconds = first;
        }
        if (!time_calls(arena, call, wanted, &measured->timings[number])) {
            return false;
        }
    }
    return true;
}

bool measure_sets(Arena *arena, Steps *steps, const Bundle *bundle, Tensor *const *inputs, const Wanted *wanted,
                  Model **model, Measured *measured, Failure *failure) {
    Binding binding;
    Call call;
    double idle, peak;
    measured->timings = arena_take(arena, bundle->set_count, sizeof *measured->timings);
    if (measured->timings == NULL) {
        return fail_of_memory(failure);
    }
    bool told = system_resident(&idle);
    steps_enter(steps, LOAD);
    double start = system_seconds();
    *model = runtime_load(arena, bundle->entry, wanted->threads, failure);
    measured->load_seconds = system_seconds() - start;
    if (*model == NULL || !bind_names(arena, *model, bundle, &binding, failure) ||
        !make_call(arena, *model, failure, &call)) {
        return false;
    }
    steps_enter(steps, MEASURE);
    if (!time_sets(arena, bundle, &binding, inputs, wanted, &call, measured)) {
        return false;
    }
    told = told && system_peak(&peak);
    measured->peak_mb = told ? fmax(0, peak - idle) : -1;
    return true;
}
