/* How far an output is from the framework's own. */
#ifndef PORTMATRIX_COMPARE_H
#define PORTMATRIX_COMPARE_H

#include "failure.h"
#include "tensor.h"

/* `mismatched` counts the elements outside the tolerance, `stray` those of them where a NaN or an infinity is on one
   side only. `max_abs` and `max_rel` are over the elements where both sides are finite (max_rel: and the reference not
   zero), and negative where there is none. `worst` is the first stray, or else the element that is furthest outside. */
typedef struct Comparison {
    size_t elements;
    size_t mismatched;
    size_t stray;
    double max_abs;
    double max_rel;
    size_t worst;
} Comparison;

/* Compare elementwise: |out - ref| <= atol + rtol |ref|, the rule of numpy.isclose; whole numbers and truth values must
   be equal. A NaN agrees with a NaN, an infinity with one of its sign. Dtype and shape must be the same already. */
Comparison compare(const Tensor *reference, const Tensor *output, double atol, double rtol);

/* Return the element as text in `text`, whose room is 32 bytes. */
void element_text(const Tensor *tensor, size_t index, char *text);

#endif
