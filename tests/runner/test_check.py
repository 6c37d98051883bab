"""The runner as a person runs it: one bundle, compared and timed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spoken import Made, check, make_bundle, points, stub_bundle

# --- The same and different -----------------------------------------------------------------------------------------


def test_a_bundle_whose_outputs_are_right_passes(stub: Path, tmp_path: Path) -> None:
    ran = check(stub, stub_bundle(tmp_path / "bundle").folder)
    assert (ran.returncode, ran.stdout.splitlines()[-1], ran.stderr) == (0, "PASS", "")
    assert "torch/mlp/onnx on stub 0.1" in ran.stdout
    assert "y float32 (4, 2, 3): max abs 0, max rel 0, 0 of 24 elements differ" in ran.stdout


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("off", "1 of 24 elements differ that must be within atol 0.0001, rtol 1e-05; at [0, 0, 0]"),
        ("nan", "4 of 24 elements differ that must be within atol 0.0001, rtol 1e-05, 4 by NaN or infinity on one"),
        ("infinite", "4 by NaN or infinity on one side only; at [0, 0, 0] inf, expected "),
        ("int32", "y int32 (4, 2, 3): dtype int32, expected float32"),
        ("flat", "y float32 (4, 6): expected shape (4, 2, 3)"),
    ],
)
def test_an_output_that_is_wrong_fails(behaviour: str, said: str, stub: Path, tmp_path: Path) -> None:
    reference = points()
    if behaviour == "off":
        reference[1:, 0, 0] += 1  # In the first call only, the stub's one too many is too many.
    ran = check(stub, stub_bundle(tmp_path / "bundle", behaviour, reference).folder)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (1, "FAIL")
    assert said in ran.stdout


def test_a_reference_of_another_dtype_fails(stub: Path, tmp_path: Path) -> None:
    made = stub_bundle(tmp_path / "bundle")
    np.save(made.folder / "samples" / "b0.outputs0.npy", points().astype(np.float64))
    ran = check(stub, made.folder)
    assert ran.returncode == 1
    assert "dtype float32, expected float64" in ran.stdout


def test_calls_that_cannot_be_stacked_fail(stub: Path, tmp_path: Path) -> None:
    ran = check(stub, stub_bundle(tmp_path / "bundle", "grow").folder)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (1, "FAIL")
    assert "output y changes its dtype or shape between calls: float32 (2, 3), then float32 (1, 3)" in ran.stderr


@pytest.mark.parametrize(
    ("offset", "options", "status"),
    [
        (0.5, ("--atol", "0.4"), 1),
        (0.5, ("--atol", "0.6"), 0),
        (0.5, ("--atol", "0", "--rtol", "0.4"), 1),
        (0.5, ("--atol", "0", "--rtol", "0.6"), 0),
        (9e-5, (), 0),
        (2e-4, (), 1),
        (0.0, ("--atol", "0", "--rtol", "0"), 0),
    ],
)
def test_the_tolerance_is_that_of_numpy(
    offset: float, options: tuple[str, ...], status: int, stub: Path, tmp_path: Path
) -> None:
    x = np.ones((2, 1, 3), np.float64)
    made = make_bundle(tmp_path / "bundle", b"copy x y", [({"x": x + offset}, {"y": x})])
    assert check(stub, made.folder, *options).returncode == status


@pytest.mark.parametrize(
    ("out", "ref", "status"),
    [
        ([np.nan, np.inf, -np.inf], [np.nan, np.inf, -np.inf], 0),
        ([np.inf], [-np.inf], 1),
        ([1.0], [np.nan], 1),
        ([-1.7e308], [1.7e308], 1),
        ([1.7e308], [1.7e308], 0),
        ([5e-324], [0.0], 0),
    ],
)
def test_what_is_not_finite_must_be_the_same(
    out: list[float], ref: list[float], status: int, stub: Path, tmp_path: Path
) -> None:
    sets = [({"x": np.array([[out]])}, {"y": np.array([[ref]])})]
    assert check(stub, make_bundle(tmp_path / "bundle", b"copy x y", sets).folder).returncode == status


@pytest.mark.parametrize(
    ("dtype", "out", "ref", "status"),
    [
        ("int64", 2**62 + 1, 2**62, 1),
        ("int64", -(2**63), 2**63 - 1, 1),
        ("uint64", 2**64 - 1, 2**64 - 1, 0),
        ("uint64", 2**64 - 1, 0, 1),
        ("int8", -128, 127, 1),
        ("uint8", 255, 0, 1),
        ("bool", True, False, 1),
        ("bool", True, True, 0),
        ("float16", 0.5, 0.5, 0),
        ("float16", 6e-8, 0, 0),
        ("float16", 65504, 65472, 1),
        ("float16", np.inf, 65504, 1),
    ],
)
def test_elements_of_every_kind_are_compared_as_what_they_are(
    dtype: str, out: Any, ref: Any, status: int, stub: Path, tmp_path: Path
) -> None:
    sets = [({"x": np.array([[out]], dtype)}, {"y": np.array([[ref]], dtype)})]
    ran = check(stub, make_bundle(tmp_path / "bundle", b"copy x y", sets).folder)
    assert ran.returncode == status, ran.stdout


def test_the_sets_of_a_fixed_batch_are_those_of_the_first(stub: Path, tmp_path: Path) -> None:
    wrong = ({"x": points(2, 5)}, {"y": points(2, 5) + 1})
    right = ({"x": points()}, {"y": points()})
    assert check(stub, make_bundle(tmp_path / "a", b"copy x y", [right, wrong], batch="static").folder).returncode == 0
    assert check(stub, make_bundle(tmp_path / "b", b"copy x y", [right, wrong]).folder).returncode == 1
    assert check(stub, make_bundle(tmp_path / "c", b"copy x y", [wrong, right], batch="static").folder).returncode == 1


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8", "i1", "u1", "b1"])
def test_samples_of_any_byte_order_are_read_and_the_machines_own_is_written(
    order: str, dtype: str, stub: Path, tmp_path: Path
) -> None:
    x = np.arange(24).reshape(4, 2, 3).astype(order + dtype)
    made = make_bundle(tmp_path / "bundle", b"copy x y", [({"x": x}, {"y": x})])
    ran = check(stub, made.folder, "--outputs", tmp_path / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    written = np.load(tmp_path / "out" / "s0.out0.npy")
    assert written.dtype.isnative
    assert written.dtype == x.dtype.newbyteorder("=")
    np.testing.assert_array_equal(written, x)


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_either_order_of_axes_and_both_versions_of_the_format_are_read(
    version: tuple[int, int], stub: Path, tmp_path: Path
) -> None:
    x = np.asfortranarray(np.arange(48, dtype=np.int16).reshape(4, 2, 3, 2))
    made = make_bundle(tmp_path / "bundle", b"copy x y", [({"x": x}, {"y": x})])
    with (made.folder / "samples" / "b0.inputs0.npy").open("wb") as stream:
        np.lib.format.write_array(stream, x, version=version)
    ran = check(stub, made.folder, "--outputs", tmp_path / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "s0.out0.npy"), x)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (3, 1, 0, 2), (3,) + (1,) * 30])
def test_shapes_without_axes_or_without_elements_are_shapes(shape: tuple[int, ...], stub: Path, tmp_path: Path) -> None:
    x = np.zeros(shape, np.float32)
    made = stub_bundle(tmp_path / "bundle")
    for file in made.folder.joinpath("samples").iterdir():
        np.save(file, x)
    made.write(sets=[{**made.manifest["sets"][0], "calls": 3}])
    ran = check(stub, made.folder, "--outputs", tmp_path / "out")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert np.load(tmp_path / "out" / "s0.out0.npy").shape == shape


def test_names_are_paired_by_name_or_else_by_position(stub: Path, tmp_path: Path) -> None:
    a, b = points(seed=1), points(seed=2)
    same = [({"a": a, "b": b}, {"p": b, "q": a})]
    assert check(stub, make_bundle(tmp_path / "same", b"copy b,a p,q", same).folder).returncode == 0
    other = [({"a": a, "b": b}, {"p": a, "q": b})]
    assert check(stub, make_bundle(tmp_path / "other", b"copy in:0,in:1 out:0,out:1", other).folder).returncode == 0
    assert check(stub, make_bundle(tmp_path / "half", b"copy b,in:1 q,out:1", other).folder).returncode == 0
    swapped = [({"a": a, "b": b}, {"p": b, "q": a})]
    assert check(stub, make_bundle(tmp_path / "swapped", b"copy a,b q,p", swapped).folder).returncode == 0


def test_times_are_those_of_the_calls(stub: Path, tmp_path: Path) -> None:
    folder = stub_bundle(tmp_path / "bundle").folder
    assert "batch 2: 4 calls, first " in check(stub, folder).stdout
    assert "3 more, too few for a median" in check(stub, folder).stdout
    assert "p50 of 11 more " in check(stub, folder, "--repeat", "3").stdout


# --- What is wrong --------------------------------------------------------------------------------------------------


def damaged_manifest(made: Made, text: str) -> Made:
    (made.folder / "manifest.json").write_text(text, encoding="utf-8")
    return made


def sets_with(made: Made, **changes: Any) -> Made:
    return made.write(sets=[{**made.manifest["sets"][0], **changes}])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda made: (made.folder / "manifest.json").unlink(), "cannot open "),
        (lambda made: damaged_manifest(made, ""), "manifest.json: no JSON at byte 0: the text ends"),
        (lambda made: damaged_manifest(made, "{'a': 1}"), "no JSON at byte 1"),
        (lambda made: damaged_manifest(made, "[" * 100_000), "too deep within one another"),
        (lambda made: damaged_manifest(made, '{"a": 01}'), "a number that begins with 0"),
        (lambda made: damaged_manifest(made, '{"a": "\\ud800"}'), "without its second"),
        (lambda made: damaged_manifest(made, "{} {}"), "something follows the value"),
        (lambda made: made.write(schema_version=2), "'schema_version' is missing or no version that this runner knows"),
        (lambda made: made.write(format=None), "'format' is missing or no text"),
        (lambda made: made.write(format="onnx"), "the artifact is of format onnx; this runner is for stub"),
        (lambda made: made.write(batch="some"), "'batch' is missing or no 'static' or 'dynamic'"),
        (lambda made: made.write(entry="../model"), "'../model' is no name of a file inside the bundle"),
        (lambda made: made.write(entry="/etc/passwd"), "is no name of a file inside the bundle"),
        (lambda made: made.write(entry="c:\\model"), "is no name of a file inside the bundle"),
        (lambda made: made.write(sets=[]), "'sets' is missing or no list of at least one sample set"),
        (lambda made: made.write(signature={"inputs": [{}], "outputs": []}), "list of tensors with names"),
        (lambda made: sets_with(made, calls=0), "'sets[].calls' is missing or no whole number above 0"),
        (lambda made: sets_with(made, calls=1e3), "'sets[].calls' is missing or no whole number above 0"),
        (lambda made: sets_with(made, calls=5), "expected 5 calls, stacked along the first axis"),
        (lambda made: sets_with(made, inputs={"z": "samples/b0.inputs0.npy"}), "names no file for the tensor 'x'"),
        (lambda made: sets_with(made, inputs={"x": "samples/../../x.npy"}), "no name of a file inside the bundle"),
        (lambda made: sets_with(made, outputs={}), "'sets[].outputs' is missing or no object with one file for each"),
    ],
)
def test_a_manifest_that_is_wrong_is_refused_by_name(damage: Any, said: str, stub: Path, tmp_path: Path) -> None:
    made = stub_bundle(tmp_path / "bundle")
    damage(made)
    ran = check(stub, made.folder)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stdout == ""


def rewritten(change: Any) -> Any:
    def damage(file: Path) -> None:
        file.write_bytes(change(file.read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "cannot open "),
        (rewritten(lambda content: content[:-1]), "holds 95 bytes of elements; float32 of shape (4, 2, 3)"),
        (rewritten(lambda content: content + b"\0"), "holds 97 bytes of elements"),
        (rewritten(lambda content: content[:40]), "it ends inside its header"),
        (rewritten(lambda content: b""), "does not begin with \\x93NUMPY"),
        (rewritten(lambda content: content.replace(b"\x01\x00v", b"\x03\x00v")), "version is neither 1.0 nor 2.0"),
        (rewritten(lambda content: content.replace(b"<f4", b"|O8")), "elements of dtype |O8; expected bool, int8"),
        (rewritten(lambda content: content.replace(b"<f4", b"|f4")), "elements of dtype |f4"),
        (rewritten(lambda content: content.replace(b"(4, 2, 3)", b"(4, 2,-3)")), "no tuple of whole numbers"),
        (rewritten(lambda content: content.replace(b"(4, 2, 3)", b"(9999999)")), "no tuple of whole numbers"),
        (rewritten(lambda content: content.replace(b"'shape': (4, 2, 3)", b"'shape':(99999999,)")), "does not have so"),
        (rewritten(lambda content: content.replace(b"False", b"Maybe")), "neither True nor False"),
        (rewritten(lambda content: content.replace(b"'descr'", b"'dtype'")), "not the dictionary that numpy writes"),
        (lambda file: np.save(file, np.float32(1)), "expected 4 calls, stacked along the first axis"),
        (lambda file: np.save(file, np.zeros(4, "f4,i4")), "arrays with fields are not taken"),
    ],
)
@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_samples_that_cannot_be_read_are_refused_by_name(
    damage: Any, said: str, what: str, stub: Path, tmp_path: Path
) -> None:
    made = stub_bundle(tmp_path / "bundle")
    damage(made.folder / "samples" / f"b0.{what}0.npy")
    ran = check(stub, made.folder)
    assert ran.returncode == 2
    assert f"b0.{what}0.npy" in ran.stderr
    assert said in ran.stderr


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuse-to-load", "LOAD failed: line one line two, 1 threads, 0000"),
        ("refuse-to-run", 'RUN failed: not with "these" inputs ?'),
    ],
)
def test_a_runtime_that_refuses_is_named_by_its_stage(behaviour: str, said: str, stub: Path, tmp_path: Path) -> None:
    ran = check(stub, stub_bundle(tmp_path / "bundle", behaviour).folder)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (3, "FAIL")
    assert ran.stderr.startswith(said)


def test_another_number_of_inputs_is_refused(stub: Path, tmp_path: Path) -> None:
    made = make_bundle(tmp_path / "bundle", b"copy p,q y", [({"x": points()}, {"y": points()})])
    ran = check(stub, made.folder)
    assert (ran.returncode, ran.stderr) == (3, "RUN failed: expected input p, q, found x\n")


def test_the_library_comes_from_the_option_or_the_environment(stub: Path, tmp_path: Path) -> None:
    folder = stub_bundle(tmp_path / "bundle").folder
    for ran in (
        check(stub, folder, "--library", tmp_path / "none.so"),
        check(stub, folder, env={"PORTMATRIX_LIBRARY": str(tmp_path / "none.so")}),
    ):
        assert ran.returncode == 3
        assert ran.stderr.startswith("LOAD failed: cannot load ")
        assert "none.so" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("a", "b"),
        ("a", "--worker"),
        ("a", "--threads"),
        ("a", "--threads", "0"),
        ("a", "--threads", "1x"),
        ("a", "--repeat", "-1"),
        ("a", "--atol", "nan"),
        ("a", "--rtol", "-1"),
        ("a", "--colour", "red"),
    ],
)
def test_wrong_usage_is_answered_with_the_usage(arguments: tuple[str, ...], stub: Path) -> None:
    ran = check(stub, *arguments)
    assert ran.returncode == 2
    assert "usage: " in ran.stderr


def test_help_names_the_library(stub: Path) -> None:
    ran = check(stub, "--help")
    assert ran.returncode == 0
    assert "shared library of stub" in ran.stdout


def test_outputs_that_cannot_be_written_are_no_pass(stub: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = check(stub, stub_bundle(tmp_path / "bundle").folder, "--outputs", tmp_path / "file")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "cannot make the folder" in ran.stderr


def test_a_manifest_of_portmatrixs_own_is_read_with_all_that_is_in_it(stub: Path, tmp_path: Path) -> None:
    made = stub_bundle(tmp_path / "bündel")
    shutil.copyfile(made.folder / "samples" / "b0.inputs0.npy", made.folder / "samples" / "größe.npy")
    text = json.dumps(
        made.write(facts={"é": '\U0001f600\n\t"\\/', "n": -1.5e-7}, files={}).manifest, ensure_ascii=False
    )
    damaged_manifest(made, text.replace("samples/b0.inputs0.npy", "samples/gr\\u00f6ße.npy"))
    ran = check(stub, made.folder)
    assert (ran.returncode, ran.stderr) == (0, "")
