"""compare.py against formulas in exact arithmetic, and against every kind of array that a runtime may hand back."""

from __future__ import annotations

import json
import math
import tracemalloc
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from portmatrix import compare as module
from portmatrix.compare import compare, verdict
from portmatrix.types import Comparison, Outcome, Tolerance

STRICT = Tolerance(atol=1e-4, rtol=1e-5)
LOOSE = Tolerance(atol=1e-2, rtol=1e-2)
EXACT = Tolerance(atol=0, rtol=0)
Array = NDArray[Any]


def against(reference: Any, output: Any, strict: Tolerance = STRICT, loose: Tolerance = LOOSE) -> Comparison:
    """Compare two arrays; the result must be JSON that reads back as itself."""
    made = compare("y", 16, np.asarray(reference), np.asarray(output), strict, loose)
    json.dumps(made.model_dump(mode="python"), allow_nan=False)
    assert Comparison.model_validate_json(made.model_dump_json()) == made
    assert all(
        value is None or math.isfinite(value) for value in made.model_dump().values() if isinstance(value, float)
    )
    return made


def floats(width: int, *, special: bool = False) -> st.SearchStrategy[float]:
    return st.floats(width=width, allow_nan=special, allow_infinity=special)  # type: ignore[arg-type]


@st.composite
def pairs(draw: st.DrawFn, *, special: bool = False) -> tuple[Array, Array]:
    """Two float arrays of one shape; the second often is the first with some elements changed."""
    width = draw(st.sampled_from([16, 32, 64]))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=4))
    arrays = hnp.arrays(f"f{width // 8}", shape, elements=floats(width, special=special))
    reference = draw(arrays)
    other = draw(arrays)
    changed = draw(hnp.arrays(bool, shape))
    return reference, np.where(changed, other, reference)


def exactly(array: Array) -> list[Fraction]:
    return [Fraction(value) for value in array.ravel().tolist()]


def close(measured: float | None, exact: Fraction | None, relative: float = 1e-12) -> bool:
    """Return whether a float is an exact value, rounded; None stands for no value and for one beyond float64."""
    largest = np.finfo("f8").max
    if exact is None or exact > Fraction(largest):
        return measured is None or (exact is not None and measured == largest)
    # The smallest subnormal is the rounding unit of everything near zero.
    return measured is not None and abs(Fraction(measured) - exact) <= Fraction(relative) * exact + Fraction(5e-324)


# --- Against exact arithmetic ---------------------------------------------------------------------------------------


@given(pairs())
def test_differences_are_those_of_exact_arithmetic(pair: tuple[Array, Array]) -> None:
    made = against(*pair)
    ref, out = exactly(pair[0]), exactly(pair[1])
    gaps = [abs(o - r) for r, o in zip(ref, out, strict=True)]
    assert close(made.max_abs, max(gaps))
    relative = max((gap / abs(r) for gap, r in zip(gaps, ref, strict=True) if r), default=None)
    assert close(made.max_rel, relative)
    assert made.elements == len(ref)


@given(pairs(), st.sampled_from([STRICT, EXACT, Tolerance(atol=0, rtol=0.5), Tolerance(atol=3, rtol=0)]))
def test_needed_is_the_smallest_factor_that_passes(pair: tuple[Array, Array], strict: Tolerance) -> None:
    made = against(*pair, strict=strict, loose=strict)
    ref, out = exactly(pair[0]), exactly(pair[1])
    gaps = [abs(o - r) for r, o in zip(ref, out, strict=True)]
    limits = [Fraction(strict.atol) + Fraction(strict.rtol) * abs(r) for r in ref]
    if any(gap and not limit for gap, limit in zip(gaps, limits, strict=True)):
        assert made.needed is None
        assert made.verdict == "fail"
        return
    factor = max((gap / limit for gap, limit in zip(gaps, limits, strict=True) if gap), default=Fraction(0))
    # Near zero a limit itself is rounded to a subnormal number, whose last place is no longer small beside it.
    tiny = any(0 < limit < Fraction(1e-290) for limit in limits)
    assert tiny or close(made.needed, factor)
    assert tiny or abs(factor - 1) < Fraction(1e-12) or (made.verdict == "strict") == (factor <= 1)


@given(pairs(special=True), st.sampled_from([(1e-4, 1e-5), (0.0, 0.0), (0.0, 1e-3), (1.0, 0.0)]))
def test_mismatched_elements_are_those_of_numpy_isclose(pair: tuple[Array, Array], rule: tuple[float, float]) -> None:
    strict = Tolerance(atol=rule[0], rtol=rule[1])
    made = against(*pair, strict=strict, loose=strict)
    ref, out = pair[0].astype("f8"), pair[1].astype("f8")
    with np.errstate(all="ignore"):
        same = np.isclose(out, ref, atol=strict.atol, rtol=strict.rtol, equal_nan=True)
        if np.isinf(np.abs(out - ref)[np.isfinite(ref) & np.isfinite(out)]).any():
            return  # numpy's own difference overflows
    assert made.mismatched == np.count_nonzero(~same) / same.size
    assert (made.verdict == "strict") == bool(same.all())


@given(pairs())
def test_snr_and_cosine_are_those_of_exact_arithmetic(pair: tuple[Array, Array]) -> None:
    made = against(*pair)
    ref, out = exactly(pair[0]), exactly(pair[1])
    signal, other = sum(r * r for r in ref), sum(o * o for o in out)
    noise = sum((o - r) ** 2 for r, o in zip(ref, out, strict=True))
    cross = sum(r * o for r, o in zip(ref, out, strict=True))
    if not signal or not noise:
        assert made.snr_db is None
    else:
        assert made.snr_db == pytest.approx(10 * (_log10(signal) - _log10(noise)), rel=1e-9, abs=1e-9)
    if not signal or not other:
        assert made.cosine == (1.0 if signal == other else None)
    else:
        square = float(Fraction(cross) ** 2 / (Fraction(signal) * Fraction(other)))
        assert made.cosine == pytest.approx(math.sqrt(square) * (1 if cross > 0 else -1), abs=1e-7)
        assert -1 <= made.cosine <= 1


def _log10(value: Fraction | int) -> float:
    """Return the logarithm of a fraction that may lie far outside of float64; integers have no bounds."""
    value = Fraction(value)
    return math.log10(value.numerator) - math.log10(value.denominator)


INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]


@given(st.data(), st.sampled_from(INTEGERS))
def test_integers_are_compared_exactly(data: st.DataObject, dtype: str) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=4))
    reference, output = data.draw(hnp.arrays(dtype, shape)), data.draw(hnp.arrays(dtype, shape))
    made = against(reference, output, strict=EXACT, loose=EXACT)
    ref, out = reference.ravel().tolist(), output.ravel().tolist()
    gaps = [abs(int(o) - int(r)) for r, o in zip(ref, out, strict=True)]
    assert made.max_abs == float(max(gaps))
    assert made.mismatched == sum(gap != 0 for gap in gaps) / len(gaps)
    assert made.needed == (None if any(gaps) else 0.0)
    assert made.verdict == ("fail" if any(gaps) else "strict")
    assert made.top1 is None


@given(hnp.arrays("f4", st.tuples(st.integers(1, 6), st.integers(2, 5)), elements=st.integers(-3, 3)), st.randoms())
def test_top1_is_the_share_of_rows_with_the_same_first_largest(reference: Array, random: Any) -> None:
    output = reference.copy()
    random.shuffle(output)
    rows = list(zip(reference.tolist(), output.tolist(), strict=True))
    same = sum(ref.index(max(ref)) == out.index(max(out)) for ref, out in rows)
    assert against(reference, output).top1 == same / len(rows)


@given(pairs(special=True), st.integers(1, 5))
def test_blocks_change_nothing(pair: tuple[Array, Array], size: int) -> None:
    whole = against(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", size)
        parts = against(*pair)
    for key, value in whole.model_dump().items():
        other = getattr(parts, key)
        if isinstance(value, float):
            assert other == pytest.approx(value, rel=1e-9, abs=1e-9), key
        elif key != "tolerance":
            assert other == value, key


# --- Cases that have bitten somebody --------------------------------------------------------------------------------


def test_each_verdict_says_what_where_and_how_much() -> None:
    reference = np.array([[1.0, 2.0], [3.0, 4.0]], "f4")
    assert (against(reference, reference).verdict, against(reference, reference).why) == ("strict", "")
    loose = against(reference, reference + np.array([[0, 0], [2e-3, 0]], "f4"))
    assert loose.verdict == "loose"
    assert "1 of 4 elements (25%)" in loose.why
    assert "at [1, 0] 3.00" in loose.why
    assert "15.4 times" in loose.why
    failed = against(reference, reference + np.array([[0, 9], [2e-3, 0]], "f4"))
    assert failed.verdict == "fail"
    assert "2 of 4 elements" in failed.why
    assert "at [0, 1] 11.0, expected 2.0" in failed.why


@pytest.mark.parametrize("alien", [np.nan, np.inf, -np.inf])
def test_nan_or_infinity_of_its_own_fails_at_any_tolerance(alien: float) -> None:
    reference = np.ones((16, 10), "f4")
    output = reference.copy()
    output[3, 4] = alien
    made = against(reference, output, strict=Tolerance(atol=1e30, rtol=1e30), loose=Tolerance(atol=1e30, rtol=1e30))
    assert (made.verdict, made.needed, made.mismatched) == ("fail", None, 1 / 160)
    assert "NaN or infinity on one side only" in made.why
    assert "[3, 4]" in made.why
    assert made.max_abs == 0


def test_all_nan_is_a_failure_and_not_an_empty_comparison() -> None:
    """What a big-endian machine makes of a little-endian file, with exit code 0."""
    made = against(np.ones(3, "f4"), np.full(3, np.nan, "f4"))
    assert (made.verdict, made.mismatched, made.max_abs, made.cosine) == ("fail", 1.0, None, None)


@pytest.mark.parametrize(
    ("reference", "output", "passes"),
    [
        (np.nan, np.nan, True),
        (np.inf, np.inf, True),
        (-np.inf, np.inf, False),
        (np.nan, np.inf, False),
        (np.inf, np.nan, False),
        (np.nan, 1.0, False),
        (np.inf, 3e38, False),
    ],
)
def test_the_references_own_nan_and_infinity_are_expected(reference: float, output: float, passes: bool) -> None:
    made = against(np.array([1, reference], "f4"), np.array([1, output], "f4"))
    assert (made.verdict == "strict") == passes
    assert (made.needed is not None) == passes


def test_dtype_and_shape_must_be_equal() -> None:
    ones = np.ones((2, 3), "f4")
    assert against(ones, ones.astype("f8")).why == "dtype float64, expected float32"
    assert against(ones.astype("i8"), ones.astype("u8")).why == "dtype uint64, expected int64"
    turned = against(ones, ones.T)
    assert turned.why == "shape (3, 2), expected (2, 3)"
    assert (turned.verdict, turned.needed, turned.mismatched) == ("fail", None, None)
    assert against(ones, ones[:1]).verdict == "fail"
    assert against(np.ones((0, 3), "f4"), np.ones((0, 2), "f4")).verdict == "fail"


@pytest.mark.parametrize("code", ["f4", "f8", "i4", "c8"])
def test_byte_order_is_no_difference_but_is_reported(code: str) -> None:
    values = np.array([1, 2, 70000])
    for reference, output in (("<", ">"), (">", "<"), (">", ">")):
        made = against(values.astype(reference + code), values.astype(output + code), strict=EXACT)
        assert made.verdict == "strict"
        dtype = np.dtype(output + code)
        assert made.dtype == (dtype.name if dtype.isnative else dtype.str)
    swapped = values.astype("<" + code).view(">" + code)
    assert against(values.astype("<" + code), swapped).verdict == "fail"


@pytest.mark.parametrize("shape", [(0,), (0, 10), (16, 0)])
@pytest.mark.parametrize("dtype", ["f4", "i8", "U3", "O"])
def test_empty_arrays_pass(shape: tuple[int, ...], dtype: str) -> None:
    made = against(np.zeros(shape, dtype), np.zeros(shape, dtype))
    assert (made.verdict, made.needed, made.mismatched, made.elements) == ("strict", 0.0, 0.0, 0)
    assert made.max_abs is made.max_rel is made.snr_db is made.cosine is made.top1 is None


def test_arrays_without_axes() -> None:
    assert against(np.array(2.0), np.array(2.0)).shape == ()
    assert against(np.float32(2), np.float32(2.5)).why.endswith("at [] 2.5, expected 2.0")


def test_an_all_zero_reference_has_no_relative_difference() -> None:
    zeros = np.zeros((2, 2), "f4")
    both = against(zeros, zeros)
    assert (both.max_abs, both.max_rel, both.snr_db, both.cosine, both.needed) == (0, None, None, 1.0, 0)
    one = against(zeros, zeros + np.float32(1))
    assert (one.max_abs, one.max_rel, one.snr_db, one.cosine, one.verdict) == (1, None, None, None, "fail")
    assert against(zeros + np.float32(1), zeros).cosine is None


def test_exact_tolerance_wants_equality_and_no_factor_helps() -> None:
    made = against(np.float64(1), np.nextafter(1, 2), strict=EXACT, loose=EXACT)
    assert (made.needed, made.verdict) == (None, "fail")
    assert "must be equal" in made.why
    assert against(np.float64(-0.0), np.float64(0.0), strict=EXACT).verdict == "strict"
    # Within the loose tolerance it still passes, though no multiple of the strict one would do.
    loose = against(np.float32([0, 1]), np.float32([1e-3, 1]), strict=Tolerance(atol=0, rtol=1e-5))
    assert (loose.needed, loose.verdict) == (None, "loose")
    assert "more than any multiple" in loose.why


def test_integers_neither_wrap_nor_round() -> None:
    small = against(np.uint8([3]), np.uint8([5]), strict=EXACT)
    assert (small.max_abs, against(np.uint8([0]), np.uint8([255])).max_abs) == (2, 255)
    big = against(np.int64([2**53]), np.int64([2**53 + 1]), strict=EXACT, loose=EXACT)
    assert (big.max_abs, big.verdict, big.mismatched) == (1, "fail", 1.0)
    assert against(np.int64([-(2**63)]), np.int64([2**63 - 1])).max_abs == float(2**64 - 1)
    assert against(np.uint64([0]), np.uint64([2**64 - 1])).max_abs == float(2**64 - 1)
    assert against(np.int64([-(2**63)]), np.int64([-(2**63)]), strict=EXACT).needed == 0
    assert against(np.array([True, False]), np.array([True, True]), strict=EXACT, loose=EXACT).mismatched == 0.5
    assert against(np.int8([10]), np.int8([11]), strict=Tolerance(atol=1, rtol=0)).verdict == "strict"


@pytest.mark.parametrize("scale", [3e38, 1e300, 1.7e308, 1e-300, 1e-323])
def test_squares_beyond_float64_do_not_spoil_snr_and_cosine(scale: float) -> None:
    reference = np.array([1.0, -1.0]) * scale
    made = against(reference, reference / 2, strict=EXACT)
    assert made.cosine == pytest.approx(1)
    assert made.snr_db == pytest.approx(20 * math.log10(2))


def test_a_difference_beyond_float64_is_still_measured() -> None:
    huge = np.finfo("f8").max
    made = against(np.array([huge, 1.0]), np.array([-huge, 1.0]))
    assert (made.max_abs, made.max_rel, made.cosine, made.verdict) == (None, 2.0, -1.0, "fail")
    assert made.needed == pytest.approx(2e5)
    assert made.snr_db == pytest.approx(-20 * math.log10(2))
    wide = Tolerance(atol=0, rtol=3)
    assert against(np.array([huge, 0.0]), np.array([-huge, 0.0]), strict=wide).verdict == "strict"
    # Nothing is lost of small elements beside the huge ones.
    mixed = against(np.array([huge, 0.0]), np.array([-huge, 5e-324]), strict=wide, loose=wide)
    assert (mixed.mismatched, mixed.needed) == (0.5, None)


@pytest.mark.filterwarnings("error")
def test_no_warning_comes_out_of_strange_numbers() -> None:
    strange = np.array([np.nan, np.inf, -np.inf, 0, -0.0, 5e-324, 1.7e308, 1])
    for dtype in ("f8", "f4", "f2"):
        with np.errstate(all="ignore"):
            values = strange.astype(dtype)
        with np.errstate(all="warn"):
            against(values, values[::-1])
            against(values, values)


def test_float16_is_compared_in_higher_precision() -> None:
    made = against(np.float16([60000, 1]), np.float16([-60000, 1]))
    assert (made.max_abs, made.max_rel, made.cosine) == (120000, 2, pytest.approx(-1))


def test_strided_arrays_are_compared_element_by_element() -> None:
    base = np.arange(24, dtype="f4").reshape(4, 6)
    assert against(base[::2, ::-1], base[::2, ::-1].copy(), strict=EXACT).verdict == "strict"
    assert against(base.T, base.T.copy(order="F"), strict=EXACT).verdict == "strict"
    assert against(base[::-1], base, strict=EXACT, loose=EXACT).max_abs == 18


def test_complex_numbers_are_compared_by_part() -> None:
    made = against(np.complex64([1 + 1j, 2]), np.complex64([1 + 1j, 2 + 3j]))
    assert (made.max_abs, made.mismatched, made.elements, made.verdict) == (3, 0.25, 2, "fail")
    assert "at [1]" in made.why


def test_text_is_equal_or_not() -> None:
    assert against(np.array(["one", "two"]), np.array(["one", "two"])).verdict == "strict"
    for dtype in ("U5", object):
        made = against(np.array(["one", "two"], dtype), np.array(["one", "three"], dtype))
        assert (made.verdict, made.mismatched, made.needed) == ("fail", 0.5, None)
        assert made.why.endswith("at [1] 'three', expected 'two'")
    assert against(np.array(["a"]), np.array(["abc"])).verdict == "fail"


@pytest.mark.parametrize(
    "array", [np.array([{}, []], object), np.zeros(2, "M8[s]"), np.zeros(2, "V4"), np.zeros(2, "g")]
)
def test_what_cannot_be_compared_fails_and_says_so(array: Array) -> None:
    made = against(array, array)
    assert made.verdict == "fail"
    assert "cannot be compared" in made.why


def test_a_large_array_is_not_copied_as_a_whole() -> None:
    reference = np.ones((25, 1_000_000), "f4")
    output = reference + np.float32(1e-6)
    tracemalloc.start()
    try:
        assert against(reference, output).verdict == "strict"
        assert tracemalloc.get_traced_memory()[1] < reference.nbytes / 2
    finally:
        tracemalloc.stop()


# --- What a cell's comparisons amount to ----------------------------------------------------------------------------


def test_verdict_is_that_of_the_worst_output() -> None:
    ones = np.ones((2, 2), "f4")
    good, near, bad = against(ones, ones), against(ones, ones + np.float32(1e-3)), against(ones, ones * 2)
    assert verdict([good, good]) == (Outcome.PASS, "")
    outcome, why = verdict([good, near])
    assert outcome is Outcome.DEGRADED
    assert why.startswith("passed the loose tolerance only: output 'y' (batch 16): 4 of 4 elements (100%)")
    outcome, why = verdict([good, near, bad])
    assert outcome is Outcome.FAIL
    assert why == f"output 'y' (batch 16): {bad.why}"
    assert verdict([bad] * 9)[1].endswith("; and 6 more")


def test_nothing_compared_is_never_a_pass() -> None:
    assert verdict([]) == (Outcome.ERROR, "no output was compared")
