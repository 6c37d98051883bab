/* What a runtime is to the runner: one C file of the suite's runtimes/ that implements these functions.
   It opens the runtime's shared library while it runs, so that one program needs nothing but the C library to start. */
#ifndef PORTMATRIX_RUNTIME_H
#define PORTMATRIX_RUNTIME_H

#include "failure.h"
#include "system.h"
#include "tensor.h"

/* A loaded artifact. A runtime makes this the first member of a structure of its own. The names are the artifact's,
   in its order. */
typedef struct Model {
    size_t input_count;
    size_t output_count;
    const char **inputs;
    const char **outputs;
} Model;

/* The runtime's name, as records state it, and the formats of artifacts that it takes, with NULL behind the last. */
extern const char runtime_name[];
extern const char *const runtime_formats[];

/* The file names by which its library is looked for where none is given, with NULL behind the last. */
extern const char *const runtime_libraries[];

/* Set up the runtime in a library that has been opened. Called once. */
bool runtime_open(void *library, Failure *failure);

/* Return the version that the library states of itself. */
const char *runtime_version(void);

/* Load the artifact at a path, to be run by that many threads. The arena lives as long as the model. */
Model *runtime_load(Arena *arena, const char *entry, int threads, Failure *failure);

/* Take the inputs of the calls that follow, in the order of the model's names: whatever a runtime makes of them is made
   here, once. They and their data stay where they are until others are given, and are not changed. */
bool runtime_give(Model *model, const Tensor *inputs, Failure *failure);

/* Run a model on the inputs that it was given: this alone is timed, and may be called many times in a row. */
bool runtime_run(Model *model, Failure *failure);

/* Read the outputs of the last call. `outputs` has room for all of them; their data belongs to the runtime and stays
   until the next call. */
bool runtime_read(Model *model, Tensor *outputs, Failure *failure);

/* Return why the model does not run as it was asked to, or an empty string. */
const char *runtime_degraded(Model *model);

/* Give back everything that loading and running took. */
void runtime_close(Model *model);

#endif
