/* The runner: runs a model's bundle without an interpreter. Two modes, one for people and one for the engine; the
   runtime is one C file of the suite's runtimes/, compiled into it (see runtime.h). */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"
#include "worker.h"

static const char USAGE[] =
    "usage: %s BUNDLE [--library FILE] [--threads N] [--atol A] [--rtol R] [--repeat N] [--outputs DIR]\n"
    "       %s --worker [--library FILE]\n"
    "\n"
    "Runs every sample of the bundle in the folder BUNDLE, compares the outputs with the framework's own, and says "
    "PASS\n"
    "or FAIL in its last line. With --worker it answers portmatrix's requests on standard input instead.\n"
    "\n"
    "  --library FILE  shared library of %s (default: $PORTMATRIX_LIBRARY, else %s)\n"
    "  --threads N     threads that one call may use (default: 1)\n"
    "  --atol A        floating-point elements may differ by A + R x |expected| (default: %g)\n"
    "  --rtol R        (default: %g); all other elements must be equal\n"
    "  --repeat N      run everything N times, for steadier times (default: 1)\n"
    "  --outputs DIR   write the outputs there, as .npy files\n"
    "\n"
    "Exit status: 0 the same, 1 different, 2 wrong usage or an unreadable bundle, 3 it does not load or run.\n";

static const Options DEFAULTS = {.threads = 1, .repeat = 1, .atol = 1e-4, .rtol = 1e-5};

static int show_usage(FILE *stream, int status) {
    const char *name = "portmatrix-runner";
    fprintf(stream, USAGE, name, name, runtime_name, runtime_libraries[0], DEFAULTS.atol, DEFAULTS.rtol);
    return status;
}

static bool read_count(const char *text, int *number) {
    char *end;
    errno = 0;
    long read = strtol(text, &end, 10);
    *number = (int)read;
    return *text != '\0' && *end == '\0' && errno == 0 && read >= 1 && read <= 1000000;
}

static bool read_tolerance(const char *text, double *number) {
    char *end;
    *number = strtod(text, &end);
    return *text != '\0' && *end == '\0' && isfinite(*number) && *number >= 0;
}

/* Take one option with its value; says what is wrong with it. */
static bool take_option(Options *options, const char *name, const char *value) {
    const char *expected = NULL;
    if (value == NULL) {
        expected = "a value";
    } else if (strcmp(name, "--library") == 0) {
        options->library = value;
    } else if (strcmp(name, "--outputs") == 0) {
        options->outputs = value;
    } else if (strcmp(name, "--threads") == 0) {
        expected = read_count(value, &options->threads) ? NULL : "a whole number above 0";
    } else if (strcmp(name, "--repeat") == 0) {
        expected = read_count(value, &options->repeat) ? NULL : "a whole number above 0";
    } else if (strcmp(name, "--atol") == 0) {
        expected = read_tolerance(value, &options->atol) ? NULL : "a number, 0 or above";
    } else if (strcmp(name, "--rtol") == 0) {
        expected = read_tolerance(value, &options->rtol) ? NULL : "a number, 0 or above";
    } else {
        fprintf(stderr, "unknown option %s\n", name);
        return false;
    }
    if (expected != NULL) {
        fprintf(stderr, "%s wants %s\n", name, expected);
    }
    return expected == NULL;
}

static int run_mode(int count, char **words) {
    Options options = DEFAULTS;
    bool worker = false;
    for (int index = 1; index < count; index++) {
        if (strcmp(words[index], "--help") == 0) {
            return show_usage(stdout, 0);
        }
        if (strcmp(words[index], "--worker") == 0) {
            worker = true;
        } else if (strncmp(words[index], "--", 2) == 0) {
            if (!take_option(&options, words[index], index + 1 < count ? words[index + 1] : NULL)) {
                return show_usage(stderr, 2);
            }
            index++;
        } else if (options.bundle == NULL) {
            options.bundle = words[index];
        } else {
            fprintf(stderr, "one bundle at a time: %s\n", words[index]);
            return show_usage(stderr, 2);
        }
    }
    if (worker == (options.bundle != NULL)) {
        fprintf(stderr, "either BUNDLE or --worker is wanted\n");
        return show_usage(stderr, 2);
    }
    Arena arena = {NULL};
    if (options.library == NULL) {
        options.library = system_variable(&arena, "PORTMATRIX_LIBRARY");
    }
    int status = worker ? answer_requests(&options) : check_bundle(&options);
    arena_free(&arena);
    return status;
}

int main(int count, char **given) {
    Arena arena = {NULL};
    system_crash_silently();
    char **words = system_arguments(&arena, &count, given);
    int status = 3;
    if (words == NULL) {
        fprintf(stderr, "the command line cannot be read\n");
    } else {
        status = run_mode(count, words);
    }
    arena_free(&arena);
    return status;
}
