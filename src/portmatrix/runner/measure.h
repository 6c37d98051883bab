/* How long a model's calls take, by the rules of worker.py: what is compared with one another is measured alike. */
#ifndef PORTMATRIX_MEASURE_H
#define PORTMATRIX_MEASURE_H

#include <stdint.h>

#include "bundle.h"
#include "failure.h"
#include "run.h"
#include "runtime.h"
#include "tensor.h"

/* What a request asks for: up to so many samples in so many seconds for each set, and the threads of the runtime. */
typedef struct Wanted {
    double seconds;
    size_t samples;
    int threads;
} Wanted;

/* Raw samples of one set's call in seconds, each the mean of `inner` calls. `warm` says how many calls the warm-up took
   and `stable` whether times had settled by its end. */
typedef struct Timing {
    int64_t inner;
    size_t sample_count;
    double *samples;
    int64_t warm;
    bool stable;
} Timing;

/* `peak_mb` is by how many MiB the process has grown at most from before the model was loaded, and negative where the
   system does not tell. The timings are in the order of the sets. */
typedef struct Measured {
    double load_seconds;
    double first_seconds;
    double peak_mb;
    Timing *timings;
} Measured;

/* Cut stacked inputs, in the order of the signature, down to the first call, and of that to the set's batch where the
   leading axis is symbolic. */
bool first_rows(const Bundle *bundle, const SampleSet *set, Tensor *inputs, Failure *failure);

/* Load the bundle's artifact, and time a call of it with the inputs of each set. `model` becomes what was loaded, which
   the caller closes, whether or not this returns true. */
bool measure_sets(Arena *arena, Steps *steps, const Bundle *bundle, Tensor *const *inputs, const Wanted *wanted,
                  Model **model, Measured *measured, Failure *failure);

#endif
