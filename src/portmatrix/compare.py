"""How far a runtime's output is from the framework's own, and what that means for the cell. Pure: arrays in, data out.

Floating-point arrays are compared in float64, integers in 64-bit integer arithmetic, so neither a difference of
``uint8`` values nor one of large ``int64`` values wraps around or is rounded away. Large arrays are read in blocks:
the extra memory does not grow with them.

Every number of the result is finite or None, so that a record is valid JSON. Beyond what ``types.Comparison`` says:

- all numbers are over the elements where reference and output are both finite;
- ``max_abs`` is rounded to float64; None where there is no such element, or where it exceeds the range of float64;
- ``max_rel`` is ``|out - ref| / |ref|`` over the elements whose reference is not zero; None where there is none (an
  all-zero reference), or where it exceeds the range of float64;
- ``mismatched`` is the share of all elements outside the strict tolerance, not-a-number and infinity included;
- ``snr_db`` is None where there is no noise, and where there is no signal;
- ``cosine`` is 1 where both are zero everywhere, and None where only one of them is, or no element is finite;
- ``top1`` is None unless the output is floating point with at least two axes and more than one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from portmatrix.types import Comparison, HeldOutAccuracy, Outcome, Tolerance

Array = NDArray[Any]
Floats = NDArray[np.float64]
_Rules = tuple[Tolerance, Tolerance]  # strict, loose

#: Elements that are looked at together: 32 KiB of float64, so that the dozen temporary arrays stay in the processor's
#: cache and in memory that the allocator hands out again. From 2^14 on it takes ten times as long where a page fault
#: is dear, as in a sandbox.
BLOCK = 1 << 12
#: A float64 sum of squares inside these bounds has lost nothing to overflow, and nothing that counts to underflow.
_SAFE = (1e-250, 1e250)
#: Failing outputs that a reason spells out before it only counts them.
_NAMED = 3


class _Part(NamedTuple):
    """What one block, or all blocks together, amount to; indices are flat, a negative one means none."""

    stray: int  # elements where one side is not finite and the other is not just the same
    strict: int  # elements outside the strict tolerance, strays included
    loose: int  # the same for the loose tolerance
    max_abs: float  # -1 where no element is finite
    max_rel: float  # -1 where no reference element is finite and not zero
    needed: float  # infinity where an element differs that the tolerance wants equal
    worst: int  # where the first stray is, or else the element that needs most; negative where the strict rule holds
    ref2: float
    out2: float
    cross: float
    noise2: float


def compare(name: str, batch: int, reference: Array, output: Array, strict: Tolerance, loose: Tolerance) -> Comparison:
    """Return how output ``name`` of a batch of ``batch`` rows differs from the framework's own ``reference``.

    The rule is that of ``numpy.isclose``: ``|out - ref| <= atol + rtol * |ref|`` for every element. Dtype (up to byte
    order) and shape must be equal. Complex arrays are compared by real and imaginary part, text by equality. Never
    raises on account of the arrays' values: what cannot be compared is a failed comparison that says so.
    """
    if (why := _unlike(reference, output)) or not output.size:
        return _blank(name, batch, output, strict, why)
    if output.dtype.kind in "USO":
        return _compare_text(name, batch, reference, output, strict)
    with np.errstate(all="ignore"):
        ref, out = _flat(reference), _flat(output)
        total = _merge([_block(ref, out, at, (strict, loose)) for at in range(0, ref.size, BLOCK)])
        snr, cosine = _snr_and_cosine(total, ref, out)
        word, why = _judge(total, reference, output, strict)
        return Comparison(
            output=name,
            batch=batch,
            dtype=_dtype_name(output.dtype),
            shape=output.shape,
            elements=output.size,
            max_abs=_json(total.max_abs),
            max_rel=_json(total.max_rel),
            mismatched=total.strict / ref.size,
            snr_db=snr,
            cosine=cosine,
            top1=_top1(reference, output),
            needed=None if total.stray else _json(total.needed),
            tolerance=strict,
            verdict=word,
            why=why,
        )


def verdict(comparisons: Sequence[Comparison]) -> tuple[Outcome, str]:
    """Return what a cell's comparisons amount to, and why.

    PASS (no reason) where all hold strictly, DEGRADED where some hold loosely only, FAIL where one does not hold.
    Without any comparison nothing is known of the cell: that is ERROR, never PASS.
    """
    if not comparisons:
        return Outcome.ERROR, "no output was compared"
    failed = [one for one in comparisons if one.verdict == "fail"]
    if failed:
        return Outcome.FAIL, _list(failed)
    degraded = [one for one in comparisons if one.verdict == "loose"]
    if degraded:
        return Outcome.DEGRADED, f"passed the loose tolerance only: {_list(degraded)}"
    return Outcome.PASS, ""


def set_beside(comparison: Comparison) -> Comparison:
    """Return the comparison of an artifact that is judged by its accuracy: no difference of finite values fails it."""
    if comparison.verdict == "strict" or comparison.needed is None:
        return comparison
    why = f"{comparison.why}; not judged by this but by the held-out accuracy"
    return comparison.model_copy(update={"verdict": "loose", "why": why})


def held_out_accuracy(output: Array, labels: Array) -> float:
    """Return the share of rows that are right in every position, as the worker finds it of the framework itself.

    ``output`` is stacked, calls x batch x its own axes: its argmax over the last axis answers where it is floating
    point, its own values where it is of integers. A row of another shape than its label is wrong.
    """
    answer = output.argmax(axis=-1) if output.dtype.kind == "f" else output
    if answer.size != labels.size or len(labels) == 0:
        return 0.0
    right = answer.reshape(labels.shape) == labels
    return float(right.reshape(len(labels), -1).all(axis=1).mean())


def judged_by_accuracy(found: HeldOutAccuracy) -> tuple[Outcome, str]:
    """Return outcome and reason of an artifact that is judged by its accuracy."""
    # Shares of whole rows: what is lost is compared as such, so that 0.02 allows two rows of a hundred.
    lost = round((found.framework - found.accuracy) * found.rows)
    if lost <= found.allowed * found.rows + 1e-9:
        return Outcome.PASS, ""
    return Outcome.FAIL, (
        f"held-out accuracy is {found.accuracy:.4g}, the framework's own {found.framework:.4g}: of {found.rows} rows"
        f" {lost} more are wrong, at most {found.allowed * found.rows:.3g} may be"
    )


def _list(comparisons: Sequence[Comparison]) -> str:
    said = [f"output {one.output!r} (batch {one.batch}): {one.why}" for one in comparisons[:_NAMED]]
    more = len(comparisons) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _unlike(reference: Array, output: Array) -> str:
    """Return why the two cannot be compared element by element, or an empty string."""
    ref, out = reference.dtype, output.dtype
    if (ref.kind, ref.itemsize) != (out.kind, out.itemsize) and not ref.kind == out.kind == "U":
        return f"dtype {_dtype_name(output.dtype)}, expected {_dtype_name(reference.dtype)}"
    if reference.shape != output.shape:
        return f"shape {output.shape}, expected {reference.shape}"
    if out.kind not in "biufcUSO" or (out.kind == "f" and out.itemsize > 8) or (out.kind == "c" and out.itemsize > 16):
        return f"outputs of dtype {_dtype_name(output.dtype)} cannot be compared"
    return ""


@lru_cache
def _dtype_name(dtype: np.dtype[Any]) -> str:
    """Return numpy's name of a dtype, or its code with the byte order (``>f4``) where that is not this machine's."""
    return str(dtype.name if dtype.isnative else dtype.str)


def _blank(name: str, batch: int, output: Array, strict: Tolerance, why: str) -> Comparison:
    """Return the comparison of arrays without an element to compare: it fails where there is a reason, else passes."""
    return Comparison(
        output=name,
        batch=batch,
        dtype=_dtype_name(output.dtype),
        shape=output.shape,
        elements=output.size,
        max_abs=None,
        max_rel=None,
        mismatched=None if why else 0.0,
        snr_db=None,
        cosine=None,
        top1=None,
        needed=None if why else 0.0,
        tolerance=strict,
        verdict="fail" if why else "strict",
        why=why,
    )


def _compare_text(name: str, batch: int, reference: Array, output: Array, strict: Tolerance) -> Comparison:
    """Return the comparison of arrays of text (ONNX strings arrive as objects): equal or not."""
    pairs = list(zip(reference.ravel().tolist(), output.ravel().tolist(), strict=True))
    if not all(isinstance(one, str | bytes) for pair in pairs for one in pair):
        return _blank(name, batch, output, strict, "outputs of objects that are not text cannot be compared")
    unequal = [at for at, (ref, out) in enumerate(pairs) if ref != out]
    why = ""
    if unequal:
        here = _index(np.unravel_index(unequal[0], output.shape))
        wanted, got = pairs[unequal[0]]
        why = f"{_share(len(unequal), len(pairs))} differ, but must be equal; at {here} {got!r}, expected {wanted!r}"
    share = {"mismatched": len(unequal) / len(pairs)}
    return _blank(name, batch, output, strict, why).model_copy(update=share)


def _flat(array: Array) -> Array:
    """Return the elements in C order along one axis, complex ones as pairs; a view where that is possible."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(flat.real.dtype) if flat.dtype.kind == "c" else flat


def _block(ref: Array, out: Array, at: int, rules: _Rules) -> _Part:
    """Return what the block that starts at element ``at`` amounts to."""
    ref, out = ref[at : at + BLOCK], out[at : at + BLOCK]
    if ref.dtype.kind == "f":
        r, o = ref.astype(np.float64), out.astype(np.float64)
        gap = np.abs(o - r)
    else:
        r, o, gap = _whole_gap(ref, out)
    part = _measure(r, o, gap, 1.0, rules)
    # A finite largest difference proves that everything is finite: NaN and infinity would have come through.
    if not math.isfinite(part.max_abs):
        part = _hard_block(r, o, gap, rules)
    return part if part.worst < 0 else part._replace(worst=part.worst + at)


def _whole_gap(ref: Array, out: Array) -> tuple[Floats, Floats, Floats]:
    """Return integers or booleans and their absolute differences as float64; only the results are rounded, once.

    The difference of two 64-bit integers needs 65 bits with its sign, but only 64 without: subtracting the smaller
    from the larger modulo 2^64 is exact.
    """
    wide = np.int64 if ref.dtype.kind == "i" else np.uint64
    r, o = ref.astype(wide), out.astype(wide)
    gap = np.maximum(r, o).view(np.uint64) - np.minimum(r, o).view(np.uint64)
    return r.astype(np.float64), o.astype(np.float64), gap.astype(np.float64)


def _hard_block(r: Floats, o: Floats, gap: Floats, rules: _Rules) -> _Part:
    """Return what a block with NaN, infinities or differences beyond float64 amounts to.

    Not-a-number agrees with not-a-number, an infinity with the infinity of its sign. Finite elements whose difference
    overflows are halved, and their tolerance with them: that loses nothing, since they are huge.
    """
    finite = np.isfinite(r) & np.isfinite(o)
    stray = ~finite & ~((r == o) | (np.isnan(r) & np.isnan(o)))
    kept = np.flatnonzero(finite)
    r, o, gap = r[kept], o[kept], gap[kept]
    half = np.where(np.isfinite(gap), 1.0, 0.5)
    halved = np.abs(o * half - r * half)
    part = _NOTHING
    if kept.size:
        part = _measure(r * half, o * half, halved, half, rules)._replace(max_abs=float(gap.max()))
    count = int(np.count_nonzero(stray))
    worst = int(stray.argmax()) if count else int(kept[part.worst]) if part.worst >= 0 else -1
    return part._replace(
        stray=count,
        strict=part.strict + count,
        loose=part.loose + count,
        worst=worst,
    )


def _measure(r: Floats, o: Floats, gap: Floats, half: float | Floats, rules: _Rules) -> _Part:
    """Return what finite elements amount to; all of them, and ``gap``, are already scaled by ``half``.

    ``gap / limit <= 1`` holds in floating point exactly where ``gap <= limit`` does, so ``needed`` and the rule agree.
    """
    strict, loose = rules
    size = np.abs(r)
    ratio = gap / (size * strict.rtol + half * strict.atol)
    needed = float(np.maximum.reduce(ratio))
    if math.isnan(needed):  # Equal elements of which the tolerance wants just that: 0 / 0.
        ratio[gap == 0] = 0.0
        needed = float(np.maximum.reduce(ratio))
    outside_strict = outside_loose = 0
    worst = -1
    if needed > 1:
        outside_strict = int(np.count_nonzero(ratio > 1))
        outside_loose = int(np.count_nonzero(gap > size * loose.rtol + half * loose.atol))
        worst = int(ratio.argmax())
    return _Part(
        stray=0,
        strict=outside_strict,
        loose=outside_loose,
        max_abs=float(np.maximum.reduce(gap)),
        max_rel=_largest_relative(gap, size),
        needed=needed,
        worst=worst,
        ref2=float(np.dot(r, r)),
        out2=float(np.dot(o, o)),
        cross=float(np.dot(r, o)),
        noise2=float(np.dot(gap, gap)),
    )


def _largest_relative(gap: Floats, size: Floats) -> float:
    """Return the largest ``gap / size`` over the elements of non-zero size, or -1 where there is none."""
    largest = float(np.maximum.reduce(gap / size))
    if math.isfinite(largest):
        return largest
    nonzero = size > 0  # Rare enough to be no part of the straight road: it costs as much as all the rest.
    return float((gap[nonzero] / size[nonzero]).max(initial=-1.0))


_NOTHING = _Part(0, 0, 0, -1.0, -1.0, 0.0, -1, 0.0, 0.0, 0.0, 0.0)


def _merge(parts: Sequence[_Part]) -> _Part:
    """Return what all blocks amount to; the worst element is the first stray, or else where most is needed."""
    if len(parts) == 1:
        return parts[0]
    astray = [part for part in parts if part.stray]
    worst = astray[0].worst if astray else max(parts, key=lambda part: part.needed).worst
    return _Part(
        stray=sum(part.stray for part in parts),
        strict=sum(part.strict for part in parts),
        loose=sum(part.loose for part in parts),
        max_abs=max(part.max_abs for part in parts),
        max_rel=max(part.max_rel for part in parts),
        needed=max(part.needed for part in parts),
        worst=worst,
        ref2=sum(part.ref2 for part in parts),
        out2=sum(part.out2 for part in parts),
        cross=sum(part.cross for part in parts),
        noise2=sum(part.noise2 for part in parts),
    )


def _snr_and_cosine(total: _Part, ref: Array, out: Array) -> tuple[float | None, float | None]:
    """Return ``10 log10(sum ref^2 / sum (out - ref)^2)`` and ``ref . out / (|ref| |out|)``."""
    ref2, out2, cross, noise2 = total.ref2, total.out2, total.cross, total.noise2
    if total.max_abs < 0:
        return None, None
    low, high = _SAFE
    # Only float64 can hold values whose squares leave the range of float64.
    if ref.dtype.itemsize == 8 and ref.dtype.kind == "f":
        sums = (ref2, out2) if total.max_abs == 0 else (ref2, out2, noise2)
        if not all(low < one < high for one in sums):
            return _scaled_snr_and_cosine(ref, out)
    snr = 10 * (math.log10(ref2) - math.log10(noise2)) if ref2 > 0 and noise2 > 0 else None
    if ref2 > 0 and out2 > 0:
        return snr, max(-1.0, min(1.0, cross / (math.sqrt(ref2) * math.sqrt(out2))))
    return snr, 1.0 if ref2 == out2 == 0 else None


def _scaled_snr_and_cosine(ref: Array, out: Array) -> tuple[float | None, float | None]:
    """Return the same for values so large or so small that their squares are beyond float64.

    Each vector is divided by its own largest element; the levels are put together again as logarithms.
    """
    finite = np.isfinite(ref) & np.isfinite(out)
    r, o = ref[finite].astype(np.float64), out[finite].astype(np.float64)
    noise, lift = o - r, 0.0
    if not np.isfinite(noise).all():
        noise, lift = o / 2 - r / 2, 20 * math.log10(2)
    (r, signal), (o, other), (_, rest) = _level(r), _level(o), _level(noise)
    snr = signal - rest - lift if signal is not None and rest is not None else None
    if signal is None or other is None:
        return snr, 1.0 if signal is None and other is None else None
    cosine = float(np.dot(r, o)) / math.sqrt(float(np.dot(r, r)) * float(np.dot(o, o)))
    return snr, max(-1.0, min(1.0, cosine))


def _level(vector: Floats) -> tuple[Floats, float | None]:
    """Return the vector divided by its largest magnitude, and its energy in dB (None for a zero vector)."""
    top = float(np.abs(vector).max(initial=0.0))
    if top == 0:
        return vector, None
    # Divided in two steps, since the reciprocal of a subnormal number may overflow.
    unit = vector / top
    return unit, 20 * math.log10(top) + 10 * math.log10(float(np.dot(unit, unit)))


def _top1(reference: Array, output: Array) -> float | None:
    """Return the share of rows whose largest element is at the same place (the first one, where several are equal)."""
    if output.dtype.kind != "f" or output.ndim < 2 or output.shape[-1] < 2:
        return None
    same = reference.argmax(-1) == output.argmax(-1)
    return float(np.count_nonzero(same) / same.size)


def _judge(
    total: _Part, reference: Array, output: Array, strict: Tolerance
) -> tuple[Literal["strict", "loose", "fail"], str]:
    """Return the verdict's word and, unless it is ``strict``, what is wrong, where and by how much."""
    if total.strict == 0:
        return "strict", ""
    pair = 2 if output.dtype.kind == "c" else 1
    here = np.unravel_index(total.worst // pair, output.shape)
    # !s says no more digits of a number than its dtype has; an f-string alone would.
    where = f"at {_index(here)} {output[here]!s}, expected {reference[here]!s}"
    share = _share(total.strict, output.size * pair)
    if total.stray:
        return "fail", f"{share} differ, {total.stray} of them by NaN or infinity on one side only; {where}"
    word: Literal["loose", "fail"] = "loose" if total.loose == 0 else "fail"
    if strict.atol == 0 and strict.rtol == 0:
        return word, f"{share} differ, but must be equal; {where}"
    factor = f"{total.needed:.3g} times" if math.isfinite(total.needed) else "more than any multiple of"
    tolerance = f"the strict tolerance (atol {strict.atol:g}, rtol {strict.rtol:g})"
    return word, f"{share} outside {tolerance}, which takes {factor} it; {where}"


def _share(count: int, of: int) -> str:
    return f"{count} of {of} elements ({100 * count / of:.3g}%)"


def _index(here: Sequence[Any]) -> str:
    return "[" + ", ".join(str(int(one)) for one in here) + "]"


def _json(value: float) -> float | None:
    """Return the number, or None for one that stands for nothing or is beyond float64."""
    return value if 0 <= value < math.inf else None
