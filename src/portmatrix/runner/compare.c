/* How far an output is from the framework's own. */
#include "compare.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* IEEE 754 binary16: one bit of sign, five of exponent, ten of fraction. */
static double from_half(uint16_t bits) {
    int exponent = bits >> 10 & 0x1F;
    double fraction = bits & 0x3FF;
    double size = exponent == 0x1F ? (fraction == 0 ? (double)INFINITY : (double)NAN)
                  : exponent == 0  ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
    return bits & 0x8000 ? -size : size;
}

static const char *element(const Tensor *tensor, size_t index) {
    return (const char *)tensor->data + index * dtype_size(tensor->dtype);
}

static double floating(const Tensor *tensor, size_t index) {
    const char *place = element(tensor, index);
    uint16_t half;
    float single;
    double value;
    switch (tensor->dtype) {
    case DTYPE_FLOAT16:
        memcpy(&half, place, sizeof half);
        return from_half(half);
    case DTYPE_FLOAT32:
        memcpy(&single, place, sizeof single);
        return (double)single;
    default:
        memcpy(&value, place, sizeof value);
        return value;
    }
}

/* Return a whole number as 64 bits, with its sign carried on if it has one. */
static uint64_t whole(const Tensor *tensor, size_t index) {
    const unsigned char *place = (const unsigned char *)element(tensor, index);
    size_t size = dtype_size(tensor->dtype);
    uint8_t u8 = place[0];
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    bool is_signed = dtype_kind(tensor->dtype) == 'i';
    switch (size) {
    case 1:
        return is_signed ? (uint64_t)(int64_t)(int8_t)u8 : u8;
    case 2:
        memcpy(&u16, place, sizeof u16);
        return is_signed ? (uint64_t)(int64_t)(int16_t)u16 : u16;
    case 4:
        memcpy(&u32, place, sizeof u32);
        return is_signed ? (uint64_t)(int64_t)(int32_t)u32 : u32;
    default:
        memcpy(&u64, place, sizeof u64);
        return u64;
    }
}

/* One element: its difference, the size of its reference, whether it is outside its tolerance and how far. */
typedef struct Gap {
    double difference;
    double size;
    double needed;
    bool finite;
    bool outside;
} Gap;

static Gap floating_gap(double ref, double out, double atol, double rtol) {
    if (!isfinite(ref) || !isfinite(out)) {
        return (Gap){.outside = !(ref == out || (isnan(ref) && isnan(out)))};
    }
    Gap gap = {.difference = fabs(out - ref), .size = fabs(ref), .finite = true};
    /* Halved, huge numbers whose difference overflows can still be compared, and nothing is lost. */
    double scale = isfinite(gap.difference) ? 1 : 0.5;
    double difference = fabs(out * scale - ref * scale);
    double limit = atol * scale + rtol * (gap.size * scale);
    gap.outside = difference > limit;
    gap.needed = difference / limit;
    return gap;
}

static Gap whole_gap(uint64_t ref, uint64_t out, bool is_signed) {
    bool larger = is_signed ? (int64_t)out > (int64_t)ref : out > ref;
    /* The smaller from the larger modulo 2^64 is exact, whatever their signs. */
    double difference = (double)(larger ? out - ref : ref - out);
    double size = is_signed ? fabs((double)(int64_t)ref) : (double)ref;
    return (Gap){.difference = difference, .size = size, .needed = difference, .finite = true, .outside = out != ref};
}

static void take(Comparison *total, const Gap *gap, size_t index, double *most) {
    if (gap->finite) {
        total->max_abs = fmax(total->max_abs, gap->difference);
        total->max_rel = gap->size > 0 ? fmax(total->max_rel, gap->difference / gap->size) : total->max_rel;
    }
    if (!gap->outside) {
        return;
    }
    bool first = total->mismatched == 0 || (!gap->finite && total->stray == 0);
    if (first || (total->stray == 0 && gap->needed > *most)) {
        total->worst = index;
        *most = gap->needed;
    }
    total->mismatched++;
    total->stray += gap->finite ? 0 : 1;
}

Comparison compare(const Tensor *reference, const Tensor *output, double atol, double rtol) {
    Comparison total = {.max_abs = -1, .max_rel = -1};
    double most = 0;
    char kind = dtype_kind(reference->dtype);
    if (!tensor_elements(reference, &total.elements)) {
        return total;
    }
    for (size_t index = 0; index < total.elements; index++) {
        Gap gap = kind == 'f' ? floating_gap(floating(reference, index), floating(output, index), atol, rtol)
                              : whole_gap(whole(reference, index), whole(output, index), kind == 'i');
        take(&total, &gap, index, &most);
    }
    return total;
}

void element_text(const Tensor *tensor, size_t index, char *text) {
    const size_t room = 32;
    switch (dtype_kind(tensor->dtype)) {
    case 'f':
        snprintf(text, room, tensor->dtype == DTYPE_FLOAT64 ? "%.17g" : "%.9g", floating(tensor, index));
        break;
    case 'i':
        snprintf(text, room, "%lld", (long long)(int64_t)whole(tensor, index));
        break;
    default:
        snprintf(text, room, "%llu", (unsigned long long)whole(tensor, index));
    }
}
