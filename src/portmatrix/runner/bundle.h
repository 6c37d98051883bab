/* What is to be run: an artifact and its samples, from a bundle's manifest or from a request. */
#ifndef PORTMATRIX_BUNDLE_H
#define PORTMATRIX_BUNDLE_H

#include "failure.h"
#include "json.h"
#include "tensor.h"

/* The reference names of inputs or outputs, in the order of the signature. */
typedef struct Names {
    size_t count;
    const char **names;
} Names;

/* The samples of one batch size: paths of stacked arrays, in the order of the names. Each is `calls` long, or,
   where that is 0, of a length that nobody said. */
typedef struct SampleSet {
    int64_t batch;
    size_t calls;
    const char **inputs;
    const char **outputs;
} SampleSet;

/* `id` is framework/model/path; a request has none, and its sets no outputs. `symbolic` says of each input whether its
   leading axis is the symbolic batch, and is there where the bundle is to be measured. */
typedef struct Bundle {
    const char *id;
    const char *entry;
    const char *format;
    Names inputs;
    Names outputs;
    const bool *symbolic;
    size_t set_count;
    SampleSet *sets;
} Bundle;

/* Read the manifest in a folder; of a fixed batch, take the sets of the first one's batch only. */
bool bundle_of_folder(Arena *arena, const char *folder, Bundle *bundle, Failure *failure);

/* Take the bundle out of a request `run`. */
bool bundle_of_request(Arena *arena, const Json *request, Bundle *bundle, Failure *failure);

/* Take the bundle out of a request `measure`, whose sets say nothing of calls and outputs. */
bool bundle_to_measure(Arena *arena, const Json *request, Bundle *bundle, Failure *failure);

#endif
