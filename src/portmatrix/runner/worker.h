/* The two modes of the runner. */
#ifndef PORTMATRIX_WORKER_H
#define PORTMATRIX_WORKER_H

#define RUNNER_VERSION "1.0.0"

/* What the command line asks for; `library` is NULL for the runtime's usual name. */
typedef struct Options {
    const char *bundle;
    const char *library;
    const char *outputs;
    int threads;
    int repeat;
    double atol;
    double rtol;
} Options;

/* Run one bundle, compare and time it, and say so; returns the exit status. */
int check_bundle(const Options *options);

/* Answer requests until standard input ends; returns the exit status. */
int answer_requests(const Options *options);

#endif
