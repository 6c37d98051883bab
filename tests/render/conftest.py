"""A realistic sample of about 700 records, and hostile ones, for every renderer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from portmatrix.rate import Rating, rate
from portmatrix.spec import RatingSpec, SurveyEntry
from portmatrix.types import Blame, Comparison, Lookup, Outcome, Reach, Record, Stage, Tolerance

MODELS = [
    "mlp",
    "alexnet",
    "vgg",
    "googlenet",
    "resnet",
    "lstm",
    "gru",
    "seq2seq",
    "transformer",
    "conv3d",
    "while-loop",
]
PATHS = {"torch": ["onnx-dynamo", "onnx-torchscript"], "keras": ["onnx", "tflite", "savedmodel"], "caffe": ["native"]}
RUNTIMES = {
    "onnx-dynamo": ["onnxruntime", "openvino", "opencv-dnn", "onnxruntime-1.17"],
    "onnx-torchscript": ["onnxruntime", "openvino"],
    "onnx": ["onnxruntime", "openvino"],
    "tflite": ["litert"],
    "savedmodel": ["keras"],
    "native": ["opencv-dnn", "mnn"],
}
TARGETS = {
    "linux-x86_64": Reach.NATIVE,
    "linux-arm64": Reach.EMULATED,
    "windows-x86_64": Reach.EMULATED,
    "linux-s390x": Reach.CONTAINER,
    "macos-arm64": None,
    "windows-arm64": Reach.STATIC,
}
#: Markup, a way out of the script element, control characters, marks that reorder text, a table's own characters.
HOSTILE = (
    "</script><script>alert(1)</script>\x00\x1b[31m\x07\ud800\u202e`|*[x](javascript:y) &amp; {{ 7*7 }}\r\n\u2028'\""
)

MakeRecord = Callable[..., Record]


def comparison(verdict: str = "strict", **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "output": "logits", "batch": 16, "dtype": "float32", "shape": (16, 10), "elements": 160, "max_abs": 3.1e-7,
        "max_rel": 2.4e-6, "mismatched": 0.0, "snr_db": 131.2, "cosine": 1.0, "top1": 1.0, "needed": 0.03,
        "tolerance": Tolerance(atol=1e-5, rtol=1e-4), "verdict": verdict,
    }  # fmt: skip
    return Comparison(**{**values, **changes})


def record(cell: str, outcome: Outcome = Outcome.PASS, **changes: Any) -> Record:
    values: dict[str, Any] = {"run": "run-1", "started": "2026-11-22T20:00:00+00:00", "engine": "0.1.0"}
    return Record.model_construct(
        **{**Record(cell="a/b/c/d/e", outcome=outcome, **values).__dict__, **changes, "cell": cell}
    )


def looked_up(cell: str, *, possible: bool = True, outcome: Outcome | None = None, **changes: Any) -> Record:
    """Return the record of a static look-up as the engine makes it."""
    asked = f"{cell.split('/')[3]}==1.0 for CPython 3.13 on windows arm64"
    if possible:
        lookup = Lookup(possible=True, asked=asked, found=("rt-1.0-cp313-cp313-win_arm64.whl",), date="2026-11-22")
    else:
        missing, newest = (f"{cell.split('/')[3]}==1.0",), ("rt 0.9 for CPython 3.12",)
        lookup = Lookup(possible=False, asked=asked, date="2026-11-22", missing=missing, newest=newest)
    ended = outcome or (Outcome.NOT_RUN if possible else Outcome.FAIL)
    values = {"stage": Stage.PREPARE, "reason": f"looked up: {asked}", "reach": Reach.STATIC, "lookup": lookup}
    return record(cell, ended, **{**values, **changes})


def _attempt(rng: random.Random, cell: str, reach: Reach | None) -> Record:
    framework, model, path, runtime, _target = cell.split("/")
    common: dict[str, Any] = {
        "reach": reach,
        "archived": framework == "caffe",
        "facts": {"opset": 18, "trained_on": "linux-x86_64", "network": "closed by unshare"},
        "environment": {"python": "3.11.2", runtime: "1.32.0", "cpu": "AMD EPYC 9V74"},
        "seconds": {"export": rng.random() * 4, "run": rng.random()},
        "bundle": f"sha256:{rng.randrange(16**12):012x}",
    }
    if reach is Reach.STATIC:
        return looked_up(cell, possible=runtime != "openvino", bundle=common["bundle"], facts=common["facts"])
    if reach is None:
        return record(cell, Outcome.NOT_RUN, stage=Stage.PREPARE, reason="no macOS machine can be reached from here")
    if runtime == "onnxruntime-1.17":
        why = "Unsupported model IR version: 10, max supported IR version: 9"
        return record(cell, Outcome.XFAIL, stage=Stage.LOAD, reason=why, expected="writes IR 10", **common)
    if model == "while-loop":
        return record(cell, Outcome.FAIL, stage=Stage.EXPORT, reason=f"{path}: data-dependent while", **common)
    chance = rng.random()
    if chance < 0.05:
        blame = Blame(party="runtime", referee="onnx.reference", why="the reference agrees with the framework to 2e-7")
        bad = comparison("fail", max_abs=0.31, needed=3.1e4, top1=0.75, why="element (3, 7): 0.52, expected 0.21")
        reason = "logits differ by 0.31, 31,000 times the tolerance"
        return record(cell, Outcome.FAIL, stage=Stage.COMPARE, reason=reason, blame=blame, comparisons=(bad,), **common)
    if chance < 0.08:
        log = "Traceback (most recent call last):\n" + "".join(f'  File "x.py", line {n}\n' for n in range(30))
        return record(cell, Outcome.ERROR, stage=Stage.RUN, reason="worker killed by SIGKILL", log_tail=log, **common)
    if chance < 0.1:
        return record(cell, Outcome.XPASS, stage=Stage.COMPARE, expected="fails on GRU", reason="passes now", **common)
    if chance < 0.13:
        return record(cell, Outcome.SKIP, stage=Stage.PLAN, reason="excluded in matrix.yaml", **common)
    if chance < 0.2:
        loose = comparison("loose", max_abs=4e-4, needed=4.0)
        why = "within the loose tolerance only"
        return record(cell, Outcome.DEGRADED, stage=Stage.COMPARE, reason=why, comparisons=(loose,), **common)
    return record(cell, stage=Stage.COMPARE, accuracy=0.97, comparisons=(comparison(),), **common)


def sample_records() -> list[Record]:
    rng = random.Random(2016)
    cells = [
        f"{framework}{variant}/{model}/{path}/{runtime}/{target}"
        for framework, paths in PATHS.items()
        for variant in ("", "-nightly")
        for model in MODELS
        for path in paths
        for runtime in RUNTIMES[path]
        for target in TARGETS
        if not variant or framework == "torch"
    ]
    cells = [cell for cell in cells if not (cell.startswith("torch-nightly") and "torchscript" in cell)]
    return [_attempt(rng, cell, TARGETS[cell.split("/")[4]]) for cell in cells]


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return sample_records()


@pytest.fixture(scope="session")
def ratings(records: list[Record]) -> tuple[Rating, ...]:
    return rate(records, RatingSpec())


@pytest.fixture(scope="session")
def surer(ratings: tuple[Rating, ...]) -> tuple[Rating, ...]:
    """The ratings, as sure of themselves as ratings can be: in turn rated, provisional, and not rated."""
    standings = ("rated", "provisional", "not rated")
    return tuple(
        rating.model_copy(
            update={"deployment": rating.deployment.model_copy(update={"standing": standings[number % 3]})}
        )
        for number, rating in enumerate(ratings)
    )


@pytest.fixture(scope="session")
def survey() -> dict[str, SurveyEntry]:
    return {
        "caffe": SurveyEntry(toolkit="Caffe", deployment=5, cross_platform=None),
        "torch": SurveyEntry(toolkit="Torch", deployment=3, cross_platform=4, successor=True),
    }


@pytest.fixture(scope="session")
def make() -> MakeRecord:
    return record


@pytest.fixture(scope="session")
def look() -> MakeRecord:
    return looked_up


@pytest.fixture(scope="session")
def hostile_text() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def hostile() -> list[Record]:
    """One record per outcome whose every text is hostile, and a megabyte of reason."""
    name = HOSTILE.replace("/", "\u2215")
    texts: dict[str, Any] = {
        "reason": HOSTILE + "x" * 1_000_000, "log_tail": HOSTILE * 1000, "expected": HOSTILE, "run": HOSTILE,
        "environment": {HOSTILE: HOSTILE}, "facts": {HOSTILE: HOSTILE}, "accuracy": float("nan"), "stage": Stage.RUN,
        "blame": Blame.model_construct(party="runtime", referee=HOSTILE, why=HOSTILE),
        "comparisons": (comparison("fail").model_copy(update={"output": HOSTILE, "max_abs": float("nan")}),),
        "lookup": Lookup.model_construct(possible=True, asked=HOSTILE, found=(HOSTILE,) * 9999, date=HOSTILE),
    }  # fmt: skip
    return [record(f"{name}/m{name}/p/r/{name}{outcome.value}", outcome, **texts) for outcome in Outcome]
