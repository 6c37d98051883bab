"""A report's worth of made-up records: every outcome, stage and reach, with all that a record can carry."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from made_history import at, compared, latency, record
from page_of import context

from portmatrix.advice import Kinship, Road
from portmatrix.site.page import Context
from portmatrix.types import Batch, Blame, HeldOutAccuracy, Lookup, Outcome, PathKind, Reach, Record, Stage

MODELS = ("alexnet", "gru", "lstm", "mlp", "transformer")
PATHS = {
    "torch": {
        "onnx-dynamo": Road(PathKind.ONNX, "onnx", Batch.STATIC),
        "onnx-dynamo-dynamic": Road(PathKind.ONNX, "onnx", Batch.DYNAMIC),
        "onnx-torchscript": Road(PathKind.ONNX, "onnx", Batch.STATIC),
        "pt2": Road(PathKind.NATIVE, "pt2", Batch.STATIC),
    },
    "caffe": {
        "native": Road(PathKind.NATIVE, "caffe", Batch.STATIC),
        "onnx": Road(PathKind.ONNX, "onnx", Batch.STATIC),
    },
}
RUNTIMES = {
    "onnx": ("onnx-reference", "onnxruntime", "onnxruntime-1.17", "opencv-dnn", "openvino"),
    "pt2": ("torch",),
    "caffe": ("caffe", "opencv-dnn"),
}
FAMILIES = {"onnxruntime": "onnxruntime.py", "onnxruntime-1.17": "onnxruntime.py"}
TARGETS = {
    "linux-arm64": Reach.EMULATED,
    "linux-x86_64": Reach.NATIVE,
    "macos-arm64": None,
    "node": Reach.CONTAINER,
    "windows-arm64": Reach.STATIC,
}
SPEC: dict[str, Any] = {
    "version": 1,
    "models": {name: {} for name in MODELS},
    "expect": [
        {
            "cells": "*/onnxruntime-1.17/*",
            "stage": "LOAD",
            "reason": "it reads no IR 10",
            "link": "https://example.org/17",
        }
    ],
}
#: A cell with a history, and one that failed its comparison.
STEADY = "torch/mlp/onnx-dynamo/onnxruntime/linux-x86_64"
WRONG = "torch/lstm/onnx-dynamo/opencv-dnn/linux-x86_64"
#: Markup, a way out of a script, control characters, marks that reorder text, a table's own characters.
HOSTILE = "</script><script>document.title='caught'</script><img src=x onerror=alert(1)>"
HOSTILE += "\x00\x1b[31m\x07\u202e`|{{7*7}}\r\n'\""


def made_records() -> list[Record]:
    """Return 250 records, always the same."""
    rng = random.Random(2016)
    return [
        _attempt(rng, f"{framework}/{model}/{path}/{runtime}/{target}")
        for framework, paths in PATHS.items()
        for model in MODELS
        for path, road in paths.items()
        for runtime in RUNTIMES[road.format]
        for target in TARGETS
    ]


def _attempt(rng: random.Random, cell: str) -> Record:
    framework, model, path, runtime, target = cell.split("/")
    reach = TARGETS[target]
    given: dict[str, Any] = {
        "archived": framework == "caffe",
        "reach": reach,
        "reason": "",
        "environment": {"python": "3.11.7", runtime: "1.32.0", "processor": "of the tests"},
        "facts": {
            "opset": 17 if path == "onnx-torchscript" else 18,
            "exporter": "torch.onnx",
            "interpreter_free": False,
        },
    }
    chance = rng.random()
    if reach is Reach.STATIC:
        return _looked_up(cell, given, possible=runtime != "openvino")
    if reach is None:
        why = "no macOS machine can be reached from here"
        return record(
            cell=cell, outcome=Outcome.NOT_RUN, **{**given, "stage": Stage.PREPARE, "reason": why, "comparisons": ()}
        )
    if cell == WRONG or chance < 0.08:
        return record(cell=cell, outcome=Outcome.FAIL, **given | _wrong())
    if runtime == "onnxruntime-1.17":
        why = {
            "stage": Stage.LOAD,
            "reason": "Unsupported model IR version: 10",
            "expected": "it reads no IR 10",
            "comparisons": (),
        }
        return record(cell=cell, outcome=Outcome.XFAIL, **given | why)
    if model == "transformer" and path == "pt2":
        why = {"stage": Stage.EXPORT, "reason": "data-dependent while", "comparisons": (), "environment": {}}
        return record(cell=cell, outcome=Outcome.FAIL, **given | why)
    if chance < 0.12:
        log = "Traceback (most recent call last):\n" + "".join(f'  File "x.py", line {n}\n' for n in range(40))
        why = {"stage": Stage.RUN, "reason": "worker killed by SIGKILL", "log_tail": log, "comparisons": ()}
        return record(cell=cell, outcome=Outcome.ERROR, **given | why)
    if chance < 0.15:
        return record(cell=cell, outcome=Outcome.XPASS, **given | {"expected": "fails on GRU", "stage": None})
    if chance < 0.18:
        why = {"stage": Stage.PLAN, "reason": "excluded in matrix.yaml", "comparisons": ()}
        return record(cell=cell, outcome=Outcome.SKIP, **given | why)
    if chance < 0.25:
        loose = compared(4e-4, 90.0).model_copy(
            update={"verdict": "loose", "needed": 4.0, "why": "outside the strict tolerance"}
        )
        return record(
            cell=cell,
            outcome=Outcome.DEGRADED,
            **given | {"comparisons": (loose,), "reason": "the loose tolerance only"},
        )
    measured = latency(1.0 + rng.random(), unstable=rng.random() < 0.2, emulated=reach is Reach.EMULATED)
    return record(cell=cell, **given | {"latency": measured if model == "mlp" else None, "reused": model == "gru"})


def _looked_up(cell: str, given: dict[str, Any], *, possible: bool) -> Record:
    asked = f"{cell.split('/')[3]}==1.0 for CPython 3.14 on windows arm64"
    lookup = Lookup(
        possible=possible,
        asked=asked,
        date="2026-11-22",
        found=("rt-1.0-win_arm64.whl",) if possible else (),
        missing=() if possible else ("openvino==1.0",),
        newest=() if possible else ("openvino 0.9 for CPython 3.12",),
    )
    why = {"stage": Stage.PREPARE, "reason": f"looked up: {asked}", "lookup": lookup, "comparisons": ()}
    return record(cell=cell, outcome=Outcome.NOT_RUN if possible else Outcome.FAIL, **given | why)


def _wrong() -> dict[str, Any]:
    bad = compared(0.31, 12.5).model_copy(
        update={
            "verdict": "fail",
            "needed": 3100.0,
            "top1": 0.75,
            "mismatched": 0.25,
            "why": "at [3, 7] 0.52, expected 0.21",
        }
    )
    shape = compared(0.0, None).model_copy(update={"verdict": "fail", "needed": None, "batch": 5, "why": "wrong shape"})
    blame = Blame(party="runtime", referee="onnx-reference", why="the reference agrees with the framework to 2e-7")
    return {
        "stage": Stage.COMPARE,
        "reason": "logits differ by 0.31, 3,100 times the tolerance",
        "blame": blame,
        "comparisons": (bad, shape),
        "held_out": HeldOutAccuracy(accuracy=0.875, framework=0.925, rows=297, allowed=0.02),
    }


def history() -> Iterator[Record]:
    """Yield the history of one cell: two processors, a failure, a step in its latency, an unstable measurement."""
    for day in range(20):
        cpu = "the first" if day % 2 else "the second"
        if day == 7:
            yield record(day, STEADY, Outcome.FAIL, stage=Stage.RUN)
        else:
            yield record(day, STEADY, latency=latency(1.1 if day < 12 else 1.4, cpu=cpu, unstable=day == 3))


def made_context(**more: Any) -> Context:
    """Return a context of the made records, with a base, a history, and what advice rests on."""
    records = made_records()
    base = [item.model_copy(update={"run": "before", "started": at(-1)}) for item in records[::2]]
    base = [_before(item) for item in base]
    kinships = {name: Kinship(roads, FAMILIES, frozenset({"onnx-reference"})) for name, roads in PATHS.items()}
    planned = frozenset(item.cell for item in records if item.reach is not Reach.STATIC)
    given: dict[str, Any] = {
        "base": base,
        "spec": SPEC,
        "kinships": kinships,
        "planned": planned,
        "trends": {STEADY: tuple(history())},
    }
    return context(records, **given | more)


def _before(item: Record) -> Record:
    """Return what a record may have been in the base: every lstm passed then, with an older package."""
    if item.id.model != "lstm" or item.outcome is not Outcome.FAIL or item.reach is Reach.STATIC:
        return item
    passed = {
        "outcome": Outcome.PASS,
        "stage": None,
        "reason": "",
        "comparisons": (compared(1e-6, 120.0),),
        "blame": None,
    }
    return item.model_copy(update={**passed, "environment": {**item.environment, "python": "3.10.1"}})


def hostile_records() -> list[Record]:
    """Return one record for each outcome whose every text is hostile, and a megabyte of it."""
    name = HOSTILE.replace("/", "\u2215")
    texts: dict[str, Any] = {
        "reason": HOSTILE + "x" * 1_000_000,
        "log_tail": HOSTILE * 1000,
        "expected": HOSTILE,
        "run": HOSTILE,
        "environment": {HOSTILE: HOSTILE},
        "facts": {HOSTILE: HOSTILE, "opset": HOSTILE},
        "blame": Blame(party="runtime", referee=HOSTILE, why=HOSTILE),
        "comparisons": (compared(0.1, 1.0).model_copy(update={"output": HOSTILE, "why": HOSTILE}),),
        "lookup": Lookup(possible=True, asked=HOSTILE, found=(HOSTILE,) * 9999, date=HOSTILE),
        "latency": latency(1.5, cpu=HOSTILE, baseline=HOSTILE),
        "stage": Stage.RUN,
    }
    long = "y" * 1_000_000
    return [
        record(cell=f"{name}/m{name}{long}/p{name}/r{name}/{name}{outcome.value}", outcome=outcome, **texts)
        for outcome in Outcome
    ]


def hostile_context() -> Context:
    """Return a context that is hostile all through: names, reasons, base and history."""
    records = hostile_records()
    trends = {item.cell: tuple(item.model_copy(update={"started": at(day)}) for day in range(3)) for item in records}
    spec = {**SPEC, "expect": [{"cells": "*", "stage": "LOAD", "reason": "<b>foretold</b>"}]}
    return context(records, base=records, spec=spec, trends=trends)._replace(title=HOSTILE)
