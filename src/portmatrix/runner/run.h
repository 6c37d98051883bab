/* Running a bundle: samples in, stacked outputs out, each step under the name of its stage. */
#ifndef PORTMATRIX_RUN_H
#define PORTMATRIX_RUN_H

#include <stdio.h>

#include "bundle.h"
#include "failure.h"
#include "runtime.h"
#include "tensor.h"

/* The stages that a request can end in, in their order. */
typedef enum Stage { PREPARE, LOAD, RUN, COMPARE, MEASURE, STAGES } Stage;

extern const char *const stage_names[STAGES];

/* How far a request has come. Each change is announced on `answers`, if there is such a stream. */
typedef struct Steps {
    FILE *answers;
    Stage stage;
    double since;
    double seconds[STAGES];
} Steps;

void steps_begin(Steps *steps, FILE *answers);
void steps_enter(Steps *steps, Stage stage);
void steps_end(Steps *steps);

/* Which of the reference tensors an artifact's own are: for each of its inputs the number of the reference input, for
   each reference output the number of its output. */
typedef struct Binding {
    size_t *inputs;
    size_t *outputs;
} Binding;

/* Open the runtime's library: the one named, or else the first that is found. Does nothing if one is open already. */
bool open_runtime(const char *library, Failure *failure);

/* Whether the runtime takes artifacts of a format. */
bool runtime_takes(const char *format, Failure *failure);

/* Read stacked arrays, and check that they are `calls` long, or not empty where that is 0. Returns NULL if one cannot
   be read. */
Tensor *read_samples(Arena *arena, const char *const *paths, size_t count, size_t calls, Failure *failure);

/* Pair the names: by name where both sides have the same, else by position. */
bool bind_names(Arena *arena, const Model *model, const Bundle *bundle, Binding *binding, Failure *failure);

/* Take the slice of a stacked array that belongs to one call; false if it is more than memory could hold. */
bool call_of(const Tensor *stacked, size_t call, Tensor *part);

/* Run every call of a set; returns the stacked outputs in the order of the reference, or NULL. `seconds`, if given, has
   room for every call. Leaves the stage at COMPARE where the fault is that calls cannot be stacked. */
Tensor *run_set(Arena *arena, Steps *steps, Model *model, const Bundle *bundle, const Binding *binding,
                const SampleSet *set, const Tensor *inputs, double *seconds, Failure *failure);

#endif
