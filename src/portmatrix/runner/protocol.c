/* The mode for the engine: speaks the protocol of worker.py, of whose requests it answers `hello`, `run` and
   `measure`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "measure.h"
#include "run.h"
#include "worker.h"

enum { PROTOCOL = 1 };
/* A request names files and tensors: a longer one is none. */
enum { REQUEST_BYTES = 64 << 20 };
/* The most that a suite may ask for (LatencySpec in spec.py). */
enum { MOST_SAMPLES = 100000, MOST_SECONDS = 600 };
enum { MOST_THREADS = 1024 };

/* One request and the answer that it gets. `files` are the names of the output files, for each set one per output, and
   `measured` is what was timed: the one is there after `run`, the other after `measure`. */
typedef struct Request {
    Arena arena;
    const Options *options;
    const Json *json;
    Steps steps;
    Bundle bundle;
    Model *model;
    const char ***files;
    Measured measured;
    Failure failure;
} Request;

/* --- Reading ---------------------------------------------------------------------------------------------------- */

typedef enum Line { LINE, TOO_LONG, ENDED } Line;

/* Read one line into a buffer that grows; of a line that is too long the rest is passed over. */
static Line read_line(FILE *stream, char **buffer, size_t *room, size_t *length) {
    int sign;
    bool fits = true;
    *length = 0;
    while ((sign = getc(stream)) != EOF && sign != '\n') {
        if (*length + 1 >= *room && fits) {
            size_t more = *room == 0 ? 4096 : *room * 2;
            char *larger = more > REQUEST_BYTES ? NULL : realloc(*buffer, more);
            fits = larger != NULL;
            *buffer = fits ? larger : *buffer;
            *room = fits ? more : *room;
        }
        if (fits) {
            (*buffer)[(*length)++] = (char)sign;
        }
    }
    if (sign == EOF && *length == 0) {
        return ENDED;
    }
    if (!fits || *length == 0) {
        return fits ? LINE : TOO_LONG;
    }
    (*buffer)[*length] = '\0';
    return LINE;
}

/* --- hello ------------------------------------------------------------------------------------------------------ */

static void write_pair(FILE *answers, const char *key, const char *value) {
    json_write(answers, key);
    fputs(": ", answers);
    json_write(answers, value);
}

static bool say_hello(Request *request, FILE *answers) {
    if (!open_runtime(request->options->library, &request->failure)) {
        return false;
    }
    fputs("{\"environment\": {", answers);
    write_pair(answers, "runner", RUNNER_VERSION);
    fputs(", ", answers);
    write_pair(answers, "platform", system_platform);
    fputs(", ", answers);
    write_pair(answers, "byteorder", system_is_little_endian() ? "little" : "big");
    fputs(", ", answers);
    write_pair(answers, "compiler", system_compiler);
    fputs(", ", answers);
    write_pair(answers, runtime_name, runtime_version());
    fprintf(answers, "}, \"protocol\": %d, \"ok\": true", PROTOCOL);
    return true;
}

/* --- run -------------------------------------------------------------------------------------------------------- */

static Tensor **read_inputs(Request *request) {
    Bundle *bundle = &request->bundle;
    Tensor **inputs = arena_take(&request->arena, bundle->set_count, sizeof *inputs);
    for (size_t index = 0; inputs != NULL && index < bundle->set_count; index++) {
        const SampleSet *set = &bundle->sets[index];
        inputs[index] = read_samples(&request->arena, set->inputs, bundle->inputs.count, set->calls, &request->failure);
        if (inputs[index] == NULL) {
            return NULL;
        }
    }
    if (inputs == NULL) {
        fail_of_memory(&request->failure);
    }
    return inputs;
}

static Tensor **run_sets(Request *request, Tensor *const *inputs) {
    Bundle *bundle = &request->bundle;
    Binding binding;
    steps_enter(&request->steps, RUN);
    if (!bind_names(&request->arena, request->model, bundle, &binding, &request->failure)) {
        return NULL;
    }
    Tensor **outputs = arena_take(&request->arena, bundle->set_count, sizeof *outputs);
    if (outputs == NULL) {
        fail_of_memory(&request->failure);
        return NULL;
    }
    for (size_t index = 0; index < bundle->set_count; index++) {
        outputs[index] = run_set(&request->arena, &request->steps, request->model, bundle, &binding,
                                 &bundle->sets[index], inputs[index], NULL, &request->failure);
        if (outputs[index] == NULL) {
            return NULL;
        }
    }
    return outputs;
}

static bool write_set(Request *request, const char *folder, size_t number, const Tensor *outputs) {
    size_t count = request->bundle.outputs.count;
    const char **files = arena_take(&request->arena, count, sizeof *files);
    if (files == NULL) {
        return fail_of_memory(&request->failure);
    }
    for (size_t index = 0; index < count; index++) {
        files[index] = arena_format(&request->arena, "s%zu.out%zu.npy", number, index);
        const char *path = files[index] == NULL ? NULL : arena_format(&request->arena, "%s/%s", folder, files[index]);
        if (path == NULL) {
            return fail_of_memory(&request->failure);
        }
        if (!npy_write(&request->arena, path, &outputs[index], &request->failure)) {
            return false;
        }
    }
    request->files[number] = files;
    return true;
}

static bool write_sets(Request *request, const char *folder, Tensor *const *outputs) {
    steps_enter(&request->steps, COMPARE);
    request->files = arena_take(&request->arena, request->bundle.set_count, sizeof *request->files);
    if (request->files == NULL) {
        return fail_of_memory(&request->failure);
    }
    for (size_t index = 0; index < request->bundle.set_count; index++) {
        if (!write_set(request, folder, index, outputs[index])) {
            return false;
        }
    }
    return true;
}

static bool run(Request *request) {
    int64_t threads;
    const char *folder = json_string(json_member(request->json, "outputs"));
    if (folder == NULL || !json_integer(json_member(request->json, "threads"), 1, MOST_THREADS, &threads)) {
        return fail(&request->failure, "the request: '%s' is missing or wrong", folder == NULL ? "outputs" : "threads");
    }
    if (!bundle_of_request(&request->arena, request->json, &request->bundle, &request->failure) ||
        !runtime_takes(request->bundle.format, &request->failure)) {
        return false;
    }
    Tensor **inputs = read_inputs(request);
    if (inputs == NULL) {
        return false;
    }
    steps_enter(&request->steps, LOAD);
    if (!open_runtime(request->options->library, &request->failure)) {
        return false;
    }
    request->model = runtime_load(&request->arena, request->bundle.entry, (int)threads, &request->failure);
    if (request->model == NULL) {
        return false;
    }
    Tensor **outputs = run_sets(request, inputs);
    return outputs != NULL && write_sets(request, folder, outputs);
}

/* --- measure ---------------------------------------------------------------------------------------------------- */

static bool read_wanted(Request *request, Wanted *wanted) {
    const char *member = NULL;
    int64_t threads = 0, samples = 0;
    if (!json_integer(json_member(request->json, "threads"), 1, MOST_THREADS, &threads)) {
        member = "threads";
    } else if (!json_integer(json_member(request->json, "samples"), 1, MOST_SAMPLES, &samples)) {
        member = "samples";
    } else if (!json_number(json_member(request->json, "seconds"), &wanted->seconds) || wanted->seconds <= 0 ||
               wanted->seconds > MOST_SECONDS) {
        member = "seconds";
    }
    wanted->threads = (int)threads;
    wanted->samples = (size_t)samples;
    return member == NULL || fail(&request->failure, "the request: '%s' is missing or wrong", member);
}

static bool measure(Request *request) {
    Bundle *bundle = &request->bundle;
    Wanted wanted;
    if (!read_wanted(request, &wanted) ||
        !bundle_to_measure(&request->arena, request->json, bundle, &request->failure) ||
        !runtime_takes(bundle->format, &request->failure)) {
        return false;
    }
    Tensor **inputs = read_inputs(request);
    for (size_t number = 0; inputs != NULL && number < bundle->set_count; number++) {
        if (!first_rows(bundle, &bundle->sets[number], inputs[number], &request->failure)) {
            return false;
        }
    }
    /* Before anything is timed: a worker in Python has its library open by then, too. */
    return inputs != NULL && open_runtime(request->options->library, &request->failure) &&
           measure_sets(&request->arena, &request->steps, bundle, inputs, &wanted, &request->model, &request->measured,
                        &request->failure);
}

/* --- Answering -------------------------------------------------------------------------------------------------- */

static void write_run(const Request *request, FILE *answers) {
    const Names *names = &request->bundle.outputs;
    fputs("{\"outputs\": [", answers);
    for (size_t number = 0; number < request->bundle.set_count; number++) {
        fputs(number == 0 ? "{" : ", {", answers);
        for (size_t index = 0; index < names->count; index++) {
            fputs(index == 0 ? "" : ", ", answers);
            write_pair(answers, names->names[index], request->files[number][index]);
        }
        fputs("}", answers);
    }
    fputs("], \"degraded\": ", answers);
    json_write(answers, runtime_degraded(request->model));
    fputs(", \"seconds\": {", answers);
    for (Stage stage = 0; stage <= COMPARE; stage++) {
        const char *comma = stage == 0 ? "" : ", ";
        fprintf(answers, "%s\"%s\": %.9f", comma, stage_names[stage], request->steps.seconds[stage]);
    }
    fprintf(answers, "}, \"protocol\": %d, \"ok\": true", PROTOCOL);
}

static void write_timing(const Timing *timing, FILE *answers) {
    fprintf(answers, "{\"inner\": %lld, \"samples\": [", (long long)timing->inner);
    for (size_t index = 0; index < timing->sample_count; index++) {
        fprintf(answers, "%s%.9g", index == 0 ? "" : ", ", timing->samples[index]);
    }
    fprintf(answers, "], \"warm\": %lld, \"stable\": %s}", (long long)timing->warm, timing->stable ? "true" : "false");
}

static void write_measured(const Request *request, FILE *answers) {
    const Measured *measured = &request->measured;
    fprintf(answers, "{\"load_seconds\": %.9g, \"first_seconds\": %.9g, \"peak_mb\": ", measured->load_seconds,
            measured->first_seconds);
    if (measured->peak_mb < 0) {
        fputs("null", answers);
    } else {
        fprintf(answers, "%.3f", measured->peak_mb);
    }
    fputs(", \"timings\": [", answers);
    for (size_t number = 0; number < request->bundle.set_count; number++) {
        fputs(number == 0 ? "" : ", ", answers);
        write_timing(&measured->timings[number], answers);
    }
    fprintf(answers, "], \"protocol\": %d, \"ok\": true", PROTOCOL);
}

static void write_failure(const Request *request, FILE *answers) {
    bool model = !request->failure.harness && request->steps.stage != PREPARE;
    fprintf(answers,
            "{\"ok\": false, \"stage\": \"%s\", \"fault\": \"%s\", \"reason\": ", stage_names[request->steps.stage],
            model ? "model" : "harness");
    json_write(answers, request->failure.reason);
}

/* Write what is left of an answer: whose it is. */
static void write_id(const Request *request, FILE *answers) {
    const Json *id = json_member(request->json, "id");
    fputs(", \"id\": ", answers);
    if (id != NULL && id->kind == JSON_NUMBER) {
        fputs(id->text, answers);
    } else if (json_string(id) != NULL) {
        json_write(answers, id->text);
    } else {
        fputs("null", answers);
    }
    fputs("}\n", answers);
}

static void answer(Request *request, FILE *answers) {
    const char *op = json_string(json_member(request->json, "op"));
    bool done = false;
    if (request->json == NULL) {
        /* The reason is known already. */
    } else if (op != NULL && strcmp(op, "hello") == 0) {
        done = say_hello(request, answers);
    } else if (op != NULL && strcmp(op, "run") == 0) {
        done = run(request);
        steps_end(&request->steps);
        if (done) {
            write_run(request, answers);
        }
    } else if (op != NULL && strcmp(op, "measure") == 0) {
        done = measure(request);
        if (done) {
            write_measured(request, answers);
        }
    } else {
        fail(&request->failure, "unknown request '%s'; this worker answers hello, run and measure",
             op == NULL ? "" : op);
    }
    if (!done) {
        write_failure(request, answers);
        fprintf(stderr, "%s: %s\n", stage_names[request->steps.stage], request->failure.reason);
    }
    write_id(request, answers);
}

int answer_requests(const Options *options) {
    FILE *requests, *answers;
    char *line = NULL;
    size_t room = 0, length;
    Line found;
    if (!system_claim_channels(&requests, &answers)) {
        fprintf(stderr, "the standard streams cannot be taken over\n");
        return 2;
    }
    system_die_with_parent();
    /* A runtime's last words before it dies must be in the log. */
    setvbuf(stdout, NULL, _IONBF, 0);
    while ((found = read_line(requests, &line, &room, &length)) != ENDED) {
        Request request = {.options = options};
        steps_begin(&request.steps, answers);
        if (found == TOO_LONG) {
            fail(&request.failure, "a request is longer than %d bytes", REQUEST_BYTES);
        } else {
            request.json = json_read(&request.arena, length == 0 ? "" : line, length, &request.failure);
        }
        answer(&request, answers);
        if (request.model != NULL) {
            runtime_close(request.model);
        }
        arena_free(&request.arena);
        if (fflush(answers) != 0) {
            break;
        }
    }
    free(line);
    return 0;
}
