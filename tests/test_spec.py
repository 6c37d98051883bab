# ruff: noqa: E501  the tables of faults have one fault and its message to a row
"""spec.py: every fault is caused in a file, and must come back as a problem with its line and key path."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from portmatrix import spec as module
from portmatrix import suite
from portmatrix.errors import SpecError
from portmatrix.spec import (
    DEFAULT_TOLERANCES,
    BundleSpec,
    Expectation,
    Known,
    Limits,
    MatrixSpec,
    ModelSpec,
    OptionSpec,
    RatingSpec,
    SurveyEntry,
    check_names,
    json_schema,
    load_spec,
)
from portmatrix.suite import known_names
from portmatrix.types import CellId, PathKind, Stage, Tolerance
from portmatrix.yaml_source import MAX_BYTES

ROOT = Path(__file__).parent.parent
MINIMAL = "version: 1\nmodels:\n  mlp: {}\n"
KNOWN = Known(
    frameworks=("torch", "tensorflow"),
    paths=("onnx-dynamo", "onnx-torchscript", "tflite"),
    runtimes=("onnxruntime", "onnxruntime-1.17", "onnx-reference", "litert"),
    targets=("linux-x86_64", "linux-arm64", "windows-x86_64"),
    data=("digits",),
    kinds={
        "ssh": {
            "host": OptionSpec(required=True, pattern=r"\S+", description="a host"),
            "port": OptionSpec(type="integer", minimum=1, maximum=65535),
            "tries": OptionSpec(type="integer", minimum=0),
            "quiet": OptionSpec(type="boolean"),
        }
    },
    files=("linux-x86_64", "linux-arm64", "windows-x86_64"),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "matrix.yaml"


def read(file: Path) -> SpecError | None:
    """Return what is wrong with a file, or None."""
    try:
        check_names(load_spec(file), KNOWN)
    except SpecError as error:
        return error
    return None


def problems(file: Path, content: str | bytes) -> list[str]:
    """Return what is found wrong with a file of this content; something must be."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    error = read(file)
    assert error is not None
    assert error.exit_code == 2
    assert error.file == str(file)
    assert error.problems
    return list(error.problems)


def loaded(file: Path, content: str) -> MatrixSpec:
    file.write_text(content, encoding="utf-8")
    return load_spec(file)


# --- What is right --------------------------------------------------------------------------------------------------


def test_a_version_and_one_model_are_enough(file: Path) -> None:
    spec = loaded(file, MINIMAL)
    assert spec.models == {"mlp": ModelSpec()}
    assert (spec.frameworks, spec.runtimes, spec.targets) == (None, None, None)
    assert (spec.bundle.rows, spec.bundle.static_batch, spec.bundle.dynamic_batches) == (16, 1, (16, 5))
    assert (spec.limits.cell_seconds, spec.limits.memory_mb) == (60, 4096)
    assert spec.referees == {"onnx": "onnx-reference"}
    check_names(spec, KNOWN)


def test_the_projects_own_matrix() -> None:
    spec = load_spec(ROOT / "matrix.yaml")
    assert len(spec.models) == 14
    assert all(model.data == "digits" and model.accuracy == 0.85 for model in spec.models.values())
    assert {name for name, model in spec.models.items() if model.target == "name"} == {"attention", "beam_search"}
    check_names(spec, known_names(suite.load(ROOT).plugins))


def test_the_projects_matrix_and_the_defaults_say_the_same() -> None:
    spec = load_spec(ROOT / "matrix.yaml")
    assert spec.tolerances == DEFAULT_TOLERANCES
    assert (spec.bundle, spec.limits) == (BundleSpec(), Limits())
    usual = RatingSpec()
    assert spec.ratings.model_copy(update={"survey": {}}) == usual


def test_the_surveys_stars_stand_in_the_projects_matrix() -> None:
    survey = load_spec(ROOT / "matrix.yaml").ratings.survey
    rated = {one.toolkit: one.deployment for one in survey.values() if not one.successor}
    assert rated == {"Caffe": 5, "CNTK": 4.5, "TensorFlow": 4.5, "Theano": 3, "Torch": 3}
    assert all(rated[one.toolkit] == one.deployment for one in survey.values())
    assert survey["torch"] == SurveyEntry(toolkit="Torch", deployment=3, successor=True)


def test_words_of_yaml_1_1_are_names(file: Path) -> None:
    spec = loaded(file, "version: 1\nmodels: {no: {}, yes: {}, on: {}, 12e3x: {}, y: {}}\n")
    assert list(spec.models) == ["no", "yes", "on", "12e3x", "y"]


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("0.5", 0.5), (".5", 0.5), ("1", 1), ("0x1", 1), ("0o1", 1), ("+1.", 1)]
)
def test_numbers_as_yaml_1_2_writes_them(file: Path, written: str, value: float) -> None:
    spec = loaded(file, f"version: 1\nmodels: {{m: {{data: d, view: v, target: t, accuracy: {written}}}}}\n")
    assert spec.models["m"].accuracy == value


def test_a_byte_order_mark_and_crlf_are_read(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())
    assert load_spec(file).models == {"mlp": ModelSpec()}
    assert problems(file, "version: 1\r\nmodels:\r\n  a: 3\r\n") == ["line 3, models.a: expected a mapping, got 3"]


def test_block_style_quotes_and_comments_are_yaml_as_ever(file: Path) -> None:
    spec = loaded(
        file,
        "# comment\n--- \nversion: 1   # one\nmodels: {'mlp': {}}\nexclude:\n"
        "- cells: 'mlp*'\n  reason: >\n    two\n    lines\n",
    )
    assert spec.exclude[0].reason == "two lines\n"


def test_specs_cannot_be_changed(file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        loaded(file, MINIMAL).bundle.rows = 3  # type: ignore[misc]


def test_dynamic_batches_follow_the_rows(file: Path) -> None:
    assert loaded(file, MINIMAL + "bundle: {rows: 30}\n").bundle.dynamic_batches == (30, 10)
    assert loaded(file, MINIMAL + "bundle: {rows: 2}\n").bundle.dynamic_batches == (2, 1)


# --- Tolerances -----------------------------------------------------------------------------------------------------


def test_the_first_rule_that_fits_decides_and_a_models_own_come_first(file: Path) -> None:
    spec = loaded(
        file,
        """\
version: 1
models:
  plain: {}
  own:
    tolerance:
      - {kind: "*", dtype: "float*", strict: {atol: 7, rtol: 0}}
tolerances:
  - {kind: onnx, dtype: float32, strict: {atol: 1, rtol: 0}, loose: {atol: 2, rtol: 0}}
  - {kind: "*", dtype: float32, strict: {atol: 3, rtol: 0}}
""",
    )
    assert [one.atol for one in spec.tolerance(PathKind.ONNX, "float32", "plain")] == [1, 2]
    assert [one.atol for one in spec.tolerance(PathKind.NATIVE, "float32", "plain")] == [3, 3]
    assert [one.atol for one in spec.tolerance(PathKind.ONNX, "float32", "own")] == [7, 7]
    assert spec.tolerance(PathKind.ONNX, "int64", "own") == (Tolerance(atol=0, rtol=0),) * 2
    with pytest.raises(KeyError):
        spec.tolerance(PathKind.ONNX, "float32", "other")


@pytest.mark.parametrize("kind", PathKind)
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "str96", "object"])
def test_what_is_no_fraction_must_be_equal(file: Path, kind: PathKind, dtype: str) -> None:
    assert loaded(file, MINIMAL).tolerance(kind, dtype, "mlp") == (Tolerance(atol=0, rtol=0),) * 2


# --- What is wrong with the file as a whole -------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["", "\n\n", "# nothing\n"])
def test_an_empty_file(file: Path, empty: str) -> None:
    assert problems(file, empty) == ["line 1: is empty; expected a mapping with at least the keys version and models"]


@pytest.mark.parametrize(
    ("content", "got"),
    [("- a\n- b\n", "a list"), ("\nword\n", "'word'"), ("---\n", "nothing"), ("3", "3"), ("null", "nothing")],
)
def test_a_file_that_is_no_mapping(file: Path, content: str, got: str) -> None:
    (problem,) = problems(file, content)
    assert problem.endswith(f"expected a mapping, got {got}")
    assert problem.startswith("line ")


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, why in (
        (tmp_path / "none.yaml", "No such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "a\0b", "null"),
        (tmp_path / ("x" * 5000), "name too long"),
    ):
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        assert why in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="expected an ordinary file"):
        load_spec(tmp_path / "pipe")


def test_bytes_that_are_no_utf_8(file: Path) -> None:
    assert problems(file, b"version: 1\nmodels: {\xff: {}}\n") == [
        "line 2: byte 0xff is not UTF-8; save the file as UTF-8"
    ]
    assert "UTF-8" in problems(file, MINIMAL.encode("utf-16"))[0]


@pytest.mark.parametrize("code", [0x00, 0x01, 0x08, 0x7F, 0x85, 0x2028, 0xFEFF, 0xFFFE])
def test_characters_that_have_no_place_in_yaml(file: Path, code: int) -> None:
    found = problems(file, f"version: 1\nmodels: {{a{chr(code)}: {{}}}}\nx: {chr(code)}\n")
    assert found == [f"line {line}: character U+{code:04X} is not allowed in YAML; remove it" for line in (2, 3)]


def test_tabs_for_indentation(file: Path) -> None:
    assert problems(file, "version: 1\nmodels:\n\tmlp: {}\n  \tb: {}\n") == [
        "line 3: indented by a tab; YAML wants spaces",
        "line 4: indented by a tab; YAML wants spaces",
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 10_000_000,
        b"a:\n" * 3_000_000,
        b"- " * (MAX_BYTES // 2 + 1),
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_huge_file_is_refused_unread(file: Path, content: bytes) -> None:
    assert problems(file, content) == ["line 1: larger than 128 KiB; no matrix needs that"]


@pytest.mark.parametrize("content", ["[" * 50_000, "- " * 50_000, "[\n" * 50_000, "a: " + "{b: " * 10_000])
def test_deep_nesting_ends_early(file: Path, content: str) -> None:
    (problem,) = problems(file, content)
    assert "nested deeper than 12 levels" in problem


@pytest.mark.parametrize("content", ["{" * 50_000, "? " * 50_000, "{[a]: b}", "? {a: b}\n: c\n"])
def test_keys_that_are_no_words(file: Path, content: str) -> None:
    assert problems(file, content)[-1].endswith("expected a word as key")


@pytest.mark.parametrize("content", ["a: [" + "b," * 60_000 + "]", "a: 1\n" * 20_000])
def test_a_flood_of_values_ends_early(file: Path, content: str) -> None:
    assert "more than 10000 keys and values" in " ".join(problems(file, content))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("version: 1\nmodels: {mlp: {}\nlimits: {}\n", 3),
        ('version: 1\nmodels: "mlp\n', 3),
        ("version: 1\n models: 2\n", 2),
        ("a: b: c\n", 1),
        ("a: @x\n", 1),
        ("a: `x\n", 1),
        ("%YAML 9.9.9\n---\na: 1\n", 1),
        ('a: "\\q"\n', 1),
        ('version: 1\na: "\\Uffffffff"\n', 2),
        ("]\n", 1),
        ("a: 1\nb\n", 3),
        ("version: 1\nx: &\n", 2),
        ("x: *\n", 1),
    ],
)
def test_wrong_syntax_is_told_with_its_line(file: Path, content: str, line: int) -> None:
    (problem,) = problems(file, content)
    assert problem.startswith(f"line {line}")
    assert "not valid YAML" in problem


def test_what_was_wrong_before_wrong_syntax_is_told_too(file: Path) -> None:
    found = problems(file, "version: 1\nversion: 1\nmodels: }\n")
    assert [problem.partition(":")[0] for problem in found] == ["line 2, version", "line 3, models"]


def test_a_second_document(file: Path) -> None:
    assert problems(file, MINIMAL + "---\n" + MINIMAL) == ["line 4: a second document starts here; expected one only"]


def test_directives(file: Path) -> None:
    assert "YAML directives" in problems(file, "%YAML 1.1\n---\n" + MINIMAL)[0]


# --- What is wrong with a place in it -------------------------------------------------------------------------------

ANCHORED = """\
version: 1
models:
  a: &one {}
  b: *one
  c:
    <<: {data: digits}
  d: !!python/object:os.system {}
  e: !mine x
"""


def test_anchors_aliases_merge_keys_and_tags(file: Path) -> None:
    assert problems(file, ANCHORED) == [
        "line 3, models.a: anchors (&one) are not read; remove it",
        "line 4, models.b: aliases (*one) are not read; write the value out",
        "line 6, models.c.<<: merge keys (<<) are not read; write the keys out",
        "line 7, models.d: tags (!!python/object:os.system) are not read; remove it",
        "line 8, models.e: tags (!mine) are not read; remove it",
    ]


def test_a_thousand_million_laughs(file: Path) -> None:
    lines = ["a0: &a0 [ha, ho]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    found = problems(file, "\n".join(lines))
    assert sum("aliases" in problem for problem in found) == 81


def test_unknown_and_missing_keys(file: Path) -> None:
    found = problems(file, "verson: 1\nmodles: {}\nbundle: {row: 4}\n")
    assert found[:2] == ["line 1: missing key 'version'", "line 1: missing key 'models'"]
    assert found[2].startswith("line 1, verson: unknown key 'verson'; expected one of version, models, frameworks, ")
    assert found[2].endswith(" (did you mean 'version'?)")
    assert found[3].startswith("line 2, modles: unknown key 'modles'")
    assert found[3].endswith("(did you mean 'models'?)")
    assert found[4] == (
        "line 3, bundle.row: unknown key 'row'; expected one of seed, rows, static_batch, dynamic_batches"
        " (did you mean 'rows'?)"
    )


def test_duplicate_keys_and_entries(file: Path) -> None:
    content = """\
version: 1
models:
  a: {}
  b: {}
  a: {data: [}]}
"""
    assert any("duplicate key 'a' (first on line 3)" in one for one in problems(file, content))
    content = """\
version: 1
models: {a: {}}
frameworks:
  - torch
  - tensorflow
  - "torch"
bundle: {dynamic_batches: [3, 3, 2]}
exclude:
  - {cells: "a*", reason: x}
  - {reason: x, cells: "a*"}
"""
    assert problems(file, content) == [
        "line 6, frameworks[2]: duplicate entry 'torch' (first on line 4)",
        "line 7, bundle.dynamic_batches[1]: duplicate entry 3 (first on line 7)",
        "line 10, exclude[1]: duplicate entry a mapping (first on line 9)",
    ]


def test_keys_that_are_numbers_or_nothing(file: Path) -> None:
    assert problems(file, "version: 1\nmodels:\n  1: {}\n  true: {}\n  : {}\n  '2': {}\n") == [
        "line 3, models.1: keys are text: write '1' in quotes",
        "line 4, models.true: keys are text: write 'true' in quotes",
        "line 5, models.'': keys are text: write '' in quotes",
    ]


WRONG_VALUES = [
    ("models: {m: {data: d, view: v, target: t, accuracy: high}}", "models.m.accuracy: expected a number from 0 to 1, got 'high'"),
    ("models: {m: {data: d, view: v, target: t, accuracy: true}}", "models.m.accuracy: expected a number from 0 to 1, got true"),
    ("models: {m: {data: d, view: v, target: t, accuracy: -1}}", "models.m.accuracy: expected a number from 0 to 1, got -1"),
    ("models: {m: {data: d, view: v, target: t, accuracy: '1'}}", "models.m.accuracy: expected a number from 0 to 1, got '1'"),
    ("models: {m: {data: d}}", "models.m: missing key 'view', which data needs"),
    ("models: {m: {view: v}}", "models.m.view: view means nothing without data"),
    ("models: {m: }", "models.m: expected a mapping, got nothing"),
    ("models: {'a b': {}}", "models.a b: expected a name of letters, digits and . _ + - (64 characters at most), got 'a b'"),
    ("models: {../../etc: {}}", "models.../../etc: expected a name of letters,"),
    ("models: {}", "models: is empty; expected at least one entry"),
    ("models: [m]", "models: expected a mapping, got a list"),
    ("frameworks: torch", "frameworks: expected a list, got 'torch'"),
    ("frameworks: []", "frameworks: is empty; expected at least one entry"),
    ("runtimes: [1.17]", "runtimes[0]: expected a name, or a glob over names, got 1.17; if it is meant as text, write it in quotes"),
    ("version: 2", "version: expected 1, got 2"),
    ("version: true", "version: expected 1, got true"),
    ("version: '1'", "version: expected 1, got '1'"),
    ("bundle: {rows: 1}", "bundle.rows: expected a whole number from 2 to 65536, got 1"),
    ("bundle: {rows: 16.5}", "bundle.rows: expected a whole number from 2 to 65536, got 16.5"),
    ("bundle: {rows: true}", "bundle.rows: expected a whole number from 2 to 65536, got true"),
    ("bundle: {dynamic_batches: [4]}", "bundle.dynamic_batches: expected at least two different batch sizes"),
    ("bundle: {rows: 4, dynamic_batches: [4, 5]}", "bundle.dynamic_batches[1]: expected at most rows (4), got 5"),
    ("bundle: {static_batch: 17}", "bundle.static_batch: expected at most rows (16), got 17"),
    ("limits: {cell_seconds: 0}", "limits.cell_seconds: expected a number above 0, got 0"),
    ("limits: {cell_seconds: .inf}", "limits.cell_seconds: expected a finite number of ordinary size, got '.inf'"),
    ("limits: {cell_seconds: 1e999}", "limits.cell_seconds: expected a finite number of ordinary size, got '1e999'"),
    (f"limits: {{memory_mb: {'9' * 9000}}}", "limits.memory_mb: expected a finite number of ordinary size, got '999"),
    ("limits: {memory_mb: 0}", "limits.memory_mb: expected a whole number of at least 1, got 0"),
    ("tolerances: [{kind: onnx, dtype: '*', strict: {atol: -1, rtol: 0}}]", "tolerances[0].strict.atol: expected a number of at least 0, got -1"),
    ("tolerances: [{kind: onnx, dtype: '*', strict: {atol: .nan, rtol: 0}}]", "tolerances[0].strict.atol: expected a finite number of ordinary size, got '.nan'"),
    ("tolerances: [{kind: onnx, dtype: '*', strict: {atol: 0, rtol: -.Inf}}]", "tolerances[0].strict.rtol: expected a finite number of ordinary size, got '-.Inf'"),
    ("tolerances: [{kind: onnx, dtype: '*', strict: {atol: true, rtol: 0}}]", "tolerances[0].strict.atol: expected a number of at least 0, got true"),
    ("tolerances: [{kind: onnx, dtype: '*', strict: {atol: 0}}]", "tolerances[0].strict: missing key 'rtol'"),
    ("tolerances: [{kind: onxx, dtype: '*', strict: {atol: 0, rtol: 0}}]", "tolerances[0].kind: expected one of native, onnx, *, got 'onxx' (did you mean 'onnx'?)"),
    ("tolerances: [{kind: onnx, dtype: flaot32, strict: {atol: 0, rtol: 0}}]", "tolerances[0].dtype: unknown dtype 'flaot32'; expected one of bool, "),
    ("tolerances: [{kind: onnx, dtype: int8, strict: {atol: 1, rtol: 0}, loose: {atol: 0, rtol: 1}}]", "tolerances[0].loose: expected at least the strict tolerance in both atol and rtol"),
    ("expect: [{cells: '*', stage: EXPROT, reason: r}]", "expect[0].stage: expected one of PLAN, PREPARE, TRAIN, EXPORT, LOAD, RUN, COMPARE, MEASURE, got 'EXPROT' (did you mean 'EXPORT'?)"),
    ("expect: [{cells: '*', stage: LOAD, reason: ' '}]", "expect[0].reason: expected some text, got ' '"),
    ("expect: [{cells: '*', stage: LOAD, reason: r, link: 'javascript:x'}]", "expect[0].link: expected a link (http:// or https://), got 'javascript:x'"),
    ("exclude: [{cells: torch/mlp, reason: r}]", "exclude[0].cells: expected 5 parts, framework/model/path/runtime/target, got 2 in 'torch/mlp' (fewer parts need a *"),
    ("exclude: [{cells: '*/*/*/*/*/*', reason: r}]", "exclude[0].cells: expected 5 parts, framework/model/path/runtime/target, got 6 in '*/*/*/*/*/*'"),
    ("exclude: [{cells: 'torch//*', reason: r}]", "exclude[0].cells: expected framework/model/path/runtime/target, got 'torch//*', which has an empty part"),
    (f"exclude: [{{cells: '{'*a' * 100}', reason: r}}]", "exclude[0].cells: expected at most 8 * and ? and no [] in a glob of fewer than 5 parts"),
    ("exclude: [{cells: '[!a]*', reason: r}]", "exclude[0].cells: expected at most 8 * and ? and no [] in a glob of fewer than 5 parts"),
    ("expect:", "expect: expected a list, got nothing"),
    ("expect: [{cells: '*', stage: LOAD, reason: r, says: '('}]", "expect[0].says: '(' is no regular expression: missing ), unterminated subpattern at position 0"),
    ("ratings: {deployment: {reach: 0.9}}", "ratings.deployment: expected weights that sum to 1, got 1.5"),
    ("ratings: {cross_platform: {install: -0.5, run: 1.5}}", "ratings.cross_platform.install: expected a number from 0 to 1, got -0.5"),
    ("ratings: {version: 1}", "ratings.version: expected 2, got 1: version 1 did not measure latency and interpreters; take over the weights as they are, or new ones"),
    ("ratings: {version: 3}", "ratings.version: expected 2, got 3"),
    ("ratings: {version: true}", "ratings.version: expected 2, got true"),
    ("ratings: {platforms: {linux: []}}", "ratings.platforms.linux: is empty; expected at least one entry"),
    ("ratings: {survey: {caffe: {toolkit: Caffe, deployment: 4.7}}}", "ratings.survey.caffe.deployment: expected stars from 0 to 5 in steps of 0.5, got 4.7"),
    ("ratings: {survey: {caffe: {toolkit: Caffe, deployment: 5.5}}}", "ratings.survey.caffe.deployment: expected stars from 0 to 5 in steps of 0.5, got 5.5"),
    ('referees: {"\\ud800": x}', "referees.?: half of a surrogate pair is no character"),
    ('referees: {onnx: "\\ud800"}', "referees.onnx: half of a surrogate pair is no character"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem"), WRONG_VALUES)
def test_a_wrong_value_is_told_with_line_and_key_path(file: Path, line: str, problem: str) -> None:
    key = line.partition(":")[0]
    rest = {"version": "version: 1", "models": "models: {mlp: {}}"}
    content = "\n".join([*(text for name, text in rest.items() if name != key), "", line, ""])
    found = problems(file, content)
    number = content.split("\n").index(line) + 1
    assert any(one.startswith(f"line {number}, ") and problem in one for one in found), found
    assert all(one.startswith(f"line {number}, {key}") for one in found), found


def test_all_problems_come_at_once_and_in_the_order_of_lines(file: Path) -> None:
    found = problems(
        file,
        """\
version: 1
models:
  mlp: {accuracy: high}
  b: *b
exclude:
  - {cells: x, reason: y}
limits:
  cell_seconds: -1
  memory_mb: many
  speed: 3
ratings:
  deployment: {reach: 0}
bundle:
  rows: 0
""",
    )
    lines = [int(problem.split(",")[0].removeprefix("line ")) for problem in found]
    assert lines == [3, 4, 6, 8, 9, 10, 12, 14]


# --- Names ----------------------------------------------------------------------------------------------------------

WRONG_NAMES = [
    ("frameworks: [torhc]", "frameworks[0]: unknown framework 'torhc'; expected one of torch, tensorflow (did you mean 'torch'?)"),
    ("runtimes: ['openvino*']", "runtimes[0]: 'openvino*' matches no runtime; expected one of onnxruntime, "),
    ("targets: [linux-x86_64, linux-amr64]", "targets[1]: unknown target 'linux-amr64'; expected one of linux-x86_64, linux-arm64, windows-x86_64 (did you mean 'linux-arm64'?)"),
    ("models: {mlp: {data: digit, view: v, target: t}}", "models.mlp.data: unknown data set 'digit'; expected one of digits (did you mean 'digits'?)"),
    ("referees: {onnx: onnx-referee}", "referees.onnx: unknown runtime 'onnx-referee'; expected one of"),
    ("ratings: {platforms: {linux: [linux-x68_64]}}", "ratings.platforms.linux[0]: unknown target 'linux-x68_64'"),
    ("exclude: [{cells: tensorflw/mlp/*/*/*, reason: r}]", "exclude[0].cells: unknown framework 'tensorflw'; expected one of torch, tensorflow (did you mean 'tensorflow'?) in 'tensorflw/mlp/*/*/*'"),
    ("exclude: [{cells: '*/mpl/*/*/*', reason: r}]", "exclude[0].cells: unknown model 'mpl'; expected one of mlp (did you mean 'mlp'?)"),
    ("exclude: [{cells: '*/*/onnx-dynmo/*/*', reason: r}]", "exclude[0].cells: unknown path 'onnx-dynmo'"),
    ("exclude: [{cells: '*/*/*/onnxruntime-9*/*', reason: r}]", "exclude[0].cells: 'onnxruntime-9*' matches no runtime"),
    ("exclude: [{cells: '*/*/*/*/linux-ARM64', reason: r}]", "exclude[0].cells: unknown target 'linux-ARM64'"),
    ("expect: [{cells: 'tensorflw/*', stage: LOAD, reason: r}]", "expect[0].cells: unknown name 'tensorflw' in 'tensorflw/*' (did you mean 'tensorflow'?)"),
    ("expect: [{cells: '*/onnxruntime/torch', stage: LOAD, reason: r}]", "expect[0].cells: '*/onnxruntime/torch' matches no cell that these models and plug-ins could make"),
    ("expect: [{cells: 'torhc*', stage: LOAD, reason: r}]", "expect[0].cells: 'torhc*' matches no cell"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "problem"), WRONG_NAMES)
def test_a_name_that_nothing_has_is_told_with_the_nearest_that_something_has(
    file: Path, line: str, problem: str
) -> None:
    models = "" if line.startswith("models") else "models: {mlp: {}}"
    (found,) = problems(file, f"version: 1\n{models}\n{line}\n")
    assert found.startswith(f"line 3, {problem}")


@pytest.mark.parametrize(
    "glob",
    [
        "*",
        "torch/*",
        "*/linux-arm64",
        "torch/mlp/*",
        "*mlp*",
        "t*/linux-*",
        "*/onnx-*/onnxruntime-1.17/*",
        "torch/mlp/onnx-dynamo/onnxruntime/linux-arm64",
        "to?ch/mlp/onnx-[dt]*/*/*",
        "*torch*windows*",
        "*/*/*/*/*",
        "**/linux-arm64",
    ],
)
def test_globs_that_match_a_cell_pass(file: Path, glob: str) -> None:
    check_names(loaded(file, MINIMAL + f"exclude: [{{cells: '{glob}', reason: r}}]\n"), KNOWN)


def names(alphabet: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.text(alphabet, min_size=1, max_size=2), min_size=1, max_size=2, unique=True).map(tuple)


@given(
    axes=st.tuples(*[names("ab")] * 5),
    glob=st.text("ab*?/", min_size=1, max_size=9),
)
def test_a_glob_is_dead_exactly_if_no_cell_matches_it(axes: tuple[tuple[str, ...], ...], glob: str) -> None:
    try:
        module._cell_glob(glob)
    except ValueError:
        return
    sorts = list(zip(("framework", "model", "path", "runtime", "target"), axes, strict=True))
    entry = Expectation(cells=glob, stage=Stage.LOAD, reason="r")
    cells = [CellId(a, b, c, d, e) for a in axes[0] for b in axes[1] for c in axes[2] for d in axes[3] for e in axes[4]]
    assert bool(list(module._dead_parts(glob, sorts))) != any(entry.covers(cell) for cell in cells)


def test_all_unknown_names_come_at_once(file: Path) -> None:
    found = problems(file, MINIMAL + "targets: [a, b]\nruntimes: [c]\nexclude: [{cells: x/y/*/*/*, reason: r}]\n")
    assert [problem.partition(":")[0] for problem in found] == [
        "line 4, targets[0]",
        "line 4, targets[1]",
        "line 5, runtimes[0]",
        "line 6, exclude[0].cells",
        "line 6, exclude[0].cells",
    ]


def test_names_of_the_survey_and_defaults_may_be_unknown(file: Path) -> None:
    content = MINIMAL + "ratings: {survey: {marvin: {toolkit: Marvin, deployment: 1}}, platforms: {mac: ['macos-*']}}\n"
    check_names(loaded(file, content), Known())


def test_a_spec_that_comes_from_no_file_has_no_lines() -> None:
    spec = MatrixSpec(version=1, models={"mlp": ModelSpec()}, frameworks=("torhc",))
    with pytest.raises(SpecError) as caught:
        check_names(spec, KNOWN)
    assert caught.value.problems[0].startswith("frameworks[0]: unknown framework 'torhc'")


# --- Whatever comes -------------------------------------------------------------------------------------------------

FRAGMENTS = ["version: 1", "models:", "  mlp: {}", "{", "}", "[", "]", "- ", ": ", "? ", "&a ", "*a", "<<", "!!str ", "|\n", ">\n",
             "'", '"', "\\", "%YAML 1.1\n", "---", "...", "\n", "\n  ", "\t", "#", "~", ".nan", "1e9", "\\ud800", "\ud7ff", "@", "`", ","]  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.one_of(st.lists(st.sampled_from(FRAGMENTS)).map("".join).map(str.encode), st.binary()))
def test_any_bytes_are_a_spec_or_a_spec_error(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    error = read(file)
    assert error is None or error.problems
    assert error is None or all(one.startswith("line ") for one in error.problems)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.sampled_from(sorted(MatrixSpec.model_fields)), value=PLAIN)
def test_any_value_at_any_key_is_a_spec_or_a_spec_error(file: Path, place: str, value: Any) -> None:
    """JSON is YAML, so any data can be put there."""
    file.write_text(json.dumps({"version": 1, "models": {"mlp": {}}, place: value}), encoding="utf-8")
    error = read(file)
    assert error is None or error.problems


# --- Targets of one's own -------------------------------------------------------------------------------------------

PI = "name: pi, kind: ssh, platform: {os: linux, arch: arm64, libc: glibc}"
WRONG_TARGETS = [
    ("{name: pi, kind: ssh, platform: {os: Linux, arch: arm64}}", "platform.os: expected one of linux, macos, windows, browser, node, got 'Linux' (did you mean 'linux'?)"),
    ("{name: pi, kind: ssh, platform: {os: linux, arhc: arm64, arch: arm64}}", "platform.arhc: unknown key 'arhc'; expected one of os, arch, libc, endian, bits (did you mean 'arch'?)"),
    ("{name: pi, kind: ssh, platform: {os: linux, arch: arm64, bits: 33}}", "platform.bits: expected one of 32, 64, got 33"),
    ("{name: pi, kind: ssh, platform: linux}", "platform: expected a mapping, got 'linux'"),
    ("{name: pi, kind: ssh, platform: {os: linux, arch: aarch64}}", "platform.arch: aarch64 is called arm64 here"),
    ("{name: pi, kind: ssh, platform: {os: linux, arch: armhf}}", "platform.bits: armhf needs bits: 32"),
    ("{name: pi, kind: ssh, platform: {os: linux, arch: s390x}}", "platform.endian: s390x needs endian: big"),
    ("{name: pi, kind: ssh, platform: {os: linux, arch: arm64, libc: gnu}}", "platform.libc: expected glibc or musl, got 'gnu'"),
    ("{name: pi, kind: ssh, platform: {os: macos, arch: arm64, libc: glibc}}", "platform.libc: expected none, got 'glibc'"),
    ("{name: p/i, kind: ssh, platform: {os: linux, arch: arm64}}", "name: expected a name of letters, digits and . _ + -"),
    ("{name: pi, platform: {os: linux, arch: arm64}}", "missing key 'kind'"),
    (f"{{{PI}, option: {{host: h}}}}", "option: unknown key 'option'; expected one of name, kind, platform, options (did you mean 'options'?)"),
    (f"{{{PI.replace('ssh', 'shh')}, options: {{host: h}}}}", "kind: unknown kind of target 'shh'; expected one of ssh (did you mean 'ssh'?)"),
    (f"{{{PI.replace('pi', 'linux-arm64')}, options: {{host: h}}}}", "name: there is another target 'linux-arm64'; give this one its own name"),
    (f"{{{PI}}}", "options: missing option 'host'; ssh takes host, port, tries, quiet"),
    (f"{{{PI}, options: {{host: h, prot: 22}}}}", "options.prot: unknown option 'prot'; ssh takes host, port, tries, quiet (did you mean 'port'?)"),
    (f"{{{PI}, options: {{host: h i}}}}", "options.host: expected a host, got 'h i'"),
    (f"{{{PI}, options: {{host: 5}}}}", "options.host: expected a host, got 5; if it is meant as text, write it in quotes"),
    (f"{{{PI}, options: {{host: [h]}}}}", "options.host: expected some text, a whole number, true or false, got a list"),
    (f"{{{PI}, options: {{host: }}}}", "options.host: expected some text, a whole number, true or false, got nothing"),
    (f"{{{PI}, options: {{host: h, port: 65536}}}}", "options.port: expected a whole number from 1 to 65535, got 65536"),
    (f"{{{PI}, options: {{host: h, port: '22'}}}}", "options.port: expected a whole number from 1 to 65535, got '22'"),
    (f"{{{PI}, options: {{host: h, port: true}}}}", "options.port: expected a whole number from 1 to 65535, got true"),
    (f"{{{PI}, options: {{host: h, tries: -1}}}}", "options.tries: expected a whole number of at least 0, got -1"),
    (f"{{{PI}, options: {{host: h, quiet: 1}}}}", "options.quiet: expected true or false, got 1"),
    ("5", "expected a name, or a glob over names, got 5"),
]  # fmt: skip


@pytest.mark.parametrize(("entry", "problem"), WRONG_TARGETS)
def test_a_mistake_in_a_target_of_ones_own_is_told_with_line_and_key(file: Path, entry: str, problem: str) -> None:
    (found,) = problems(file, f"{MINIMAL}targets:\n  - linux-x86_64\n  - {entry}\n")
    assert re.match(r"line 6, targets\[1\][.:] ?", found)
    assert re.sub(r"^line 6, targets\[1\][.:] ?", "", found).startswith(problem)


def test_two_targets_of_ones_own_have_two_names(file: Path) -> None:
    entries = "".join(f"  - {{{PI}, options: {{host: {host}}}}}\n" for host in "ab")
    (found,) = problems(file, f"{MINIMAL}targets:\n{entries}")
    assert found.startswith("line 6, targets[1].name: there is another target 'pi'")


def test_a_target_of_ones_own_is_read_with_its_options(file: Path) -> None:
    content = (
        f"{MINIMAL}targets:\n  - linux-*\n  - {{{PI}, options: {{host: me@pi, port: 22, tries: 0, quiet: true}}}}\n"
    )
    spec = loaded(file, content)
    check_names(spec, KNOWN)
    (pi,) = spec.definitions
    assert (pi.name, pi.kind, pi.platform.arch) == ("pi", "ssh", "arm64")
    assert pi.options == {"host": "me@pi", "port": 22, "tries": 0, "quiet": True}
    assert spec.target_globs == ("linux-*", "pi")


def test_targets_of_ones_own_alone_take_none_away(file: Path) -> None:
    assert loaded(file, f"{MINIMAL}targets:\n  - {{{PI}, options: {{host: h}}}}\n").target_globs is None


# --- The schema -----------------------------------------------------------------------------------------------------


def test_the_schema_is_json_and_describes_every_key() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == list(MatrixSpec.model_fields)
    assert schema["required"] == ["version", "models"]
    assert schema["additionalProperties"] is False
    assert set(schema["$defs"]["Expectation"]["properties"]) == {
        "cells",
        "stage",
        "reason",
        "link",
        "finding",
        "rate",
        "says",
        "outcome",
    }
