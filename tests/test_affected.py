"""What a changed file can affect: its own cells where that is known, nothing where it is harmless, else everything."""

from __future__ import annotations

import pytest

from portmatrix.affected import EVERYTHING, NOTHING, Uses, affected, globs_of

USES = Uses(
    files={
        "exporters/torch.py": ["torch/*/*/*/*"],
        "runtimes/onnx-reference.py": ["*/*/*/onnx-reference/*", "torch/*/onnx/*/*"],
        "data/digits.npz": ["*/mlp/*/*/*"],
        "docs/read-by-a-plug-in.md": ["*/lstm/*/*/*"],
    },
    derived={("caffe", "native"): ["onnx", "onnx-dynamic"]},
    elsewhere=frozenset({"large"}),
)


@pytest.mark.parametrize(
    ("file", "globs"),
    [
        ("exporters/torch.py", ("torch/*/*/*/*",)),
        ("runtimes/onnx-reference.py", ("*/*/*/onnx-reference/*", "torch/*/onnx/*/*")),
        ("data/digits.npz", ("*/mlp/*/*/*",)),
        ("docs/read-by-a-plug-in.md", ("*/lstm/*/*/*",)),
        ("archive/torch7/mlp/native/artifact/model.t7", ("torch7/mlp/native/*/*",)),
        (
            "archive/caffe/mlp/native/manifest.json",
            ("caffe/mlp/native/*/*", "caffe/mlp/onnx/*/*", "caffe/mlp/onnx-dynamic/*/*"),
        ),
        ("archive/README", EVERYTHING),
        ("docs/method.md", NOTHING),
        ("README.md", NOTHING),
        ("data/LICENSE.md", NOTHING),
        ("tests/test_plan.py", NOTHING),
        ("results/reference.jsonl", NOTHING),
        (".github/workflows/ci.yml", NOTHING),
        (".github/workflows/matrix.yml", EVERYTHING),
        ("large/exporters/torch.py", NOTHING),
        ("matrix.yaml", EVERYTHING),
        ("src/portmatrix/compare.py", EVERYTHING),
        ("pyproject.toml", EVERYTHING),
        ("scripts/setup-linux-targets", EVERYTHING),
        ("exporters/gone.py", EVERYTHING),
        ("what-is-this", EVERYTHING),
    ],
)
def test_what_a_file_can_affect(file: str, globs: tuple[str, ...]) -> None:
    assert affected([file], USES) == {file: globs}


def test_in_a_suite_below_tests_not_every_file_is_harmless() -> None:
    uses = Uses(
        files={"tests/tiny/runtimes/plain.py": ["*/*/*/plain/*"]}, folder="tests/tiny", archive="tests/tiny/archive"
    )
    found = affected(
        ["tests/tiny/runtimes/plain.py", "tests/tiny/matrix.yaml", "tests/tiny/docs/a.md", "tests/test_a.py"], uses
    )
    assert list(found.values()) == [("*/*/*/plain/*",), EVERYTHING, NOTHING, NOTHING]


def test_the_globs_of_several_files_are_those_of_each_once() -> None:
    found = affected(["docs/a.md", "exporters/torch.py", "data/digits.npz"], USES)
    assert globs_of(found) == ("torch/*/*/*/*", "*/mlp/*/*/*")
    assert globs_of({**found, "again": ("torch/*/*/*/*",)}) == globs_of(found)
    assert globs_of(affected(["exporters/torch.py", "matrix.yaml"], USES)) == EVERYTHING
    assert globs_of(affected(["docs/a.md"], USES)) == NOTHING
    assert globs_of({}) == NOTHING
