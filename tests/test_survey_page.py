"""The page on the survey: its tables are what the records, ``matrix.yaml`` and ``survey.yaml`` say."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from portmatrix import survey
from portmatrix.spec import load_spec
from portmatrix.types import CellId, Lookup, Outcome, Reach, Record, Stage

ROOT = Path(__file__).parents[1]
SPEC = load_spec(ROOT / "matrix.yaml")
SURVEY = survey.load()


def load_script() -> ModuleType:
    """Return the script that writes the page, which is no part of the package."""
    found = importlib.util.spec_from_file_location("survey_page", ROOT / "scripts" / "survey_page.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["survey_page"] = module
    found.loader.exec_module(module)
    return module


PAGE = load_script()


def record(cell: str, outcome: Outcome, **more: object) -> Record:
    """Return a record of a cell of made-up results."""
    given: dict[str, object] = {"reach": Reach.NATIVE, "run": "r", "started": "2026", "engine": "e", **more}
    return Record.model_validate({"cell": cell, "outcome": outcome, **given})


def row(table: str, name: str) -> list[str]:
    """Return the fields of a row by its first one."""
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
    return [field.strip() for field in line.strip("|").split("|")][1:]


def test_the_page_agrees_with_the_committed_records() -> None:
    text = (ROOT / "docs" / "survey.md").read_text(encoding="utf-8")
    assert PAGE.with_tables(text, PAGE.today()) == text, "run python scripts/survey_page.py"


def test_frameworks_stand_beside_the_toolkit_that_they_are_or_follow() -> None:
    assert list(PAGE.followers(SPEC, SURVEY).items()) == [
        ("caffe", "Caffe"),
        ("cntk", "CNTK"),
        ("tensorflow1", "TensorFlow"),
        ("tensorflow", "TensorFlow"),
        ("theano", "Theano"),
        ("pytensor", "Theano"),
        ("torch7", "Torch"),
        ("torch", "Torch"),
    ]


@pytest.fixture
def made() -> dict[str, str]:
    """Tables of a few records."""
    static = Lookup(possible=True, asked="a", date="2026-01-01")
    found = [
        record("caffe/rnn/native/caffe/linux-x86_64", Outcome.PASS, accuracy=0.9),
        record("caffe/rnn/onnx/opencv-dnn/linux-x86_64", Outcome.XFAIL, stage=Stage.LOAD, accuracy=0.9),
        record("caffe/rnn/onnx/onnxruntime-c/linux-arm64", Outcome.PASS, accuracy=0.9, reach=Reach.EMULATED,
               facts={"interpreter_free": True}),
        record("caffe/rnn/onnx/onnxruntime/macos-arm64", Outcome.NOT_RUN, reach=Reach.STATIC, lookup=static),
        record("caffe/beam_search/native/caffe/linux-x86_64", Outcome.XFAIL, stage=Stage.TRAIN),
        record("torch7/rnn/native/opencv-dnn/linux-x86_64", Outcome.PASS),
        record("torch7/beam_search/native/opencv-dnn/linux-x86_64", Outcome.NOT_RUN),
        record("pytensor/transformer/native/pytensor/linux-x86_64", Outcome.SKIP),
        *(record(f"{name}/mlp/onnx/onnxruntime/linux-x86_64", Outcome.NOT_RUN)
          for name in ("cntk", "tensorflow", "tensorflow1", "theano", "torch")),
    ]  # fmt: skip
    tables: dict[str, str] = PAGE.tables(found, SPEC, SURVEY)
    return tables


def test_the_tables_of_made_up_records(made: dict[str, str]) -> None:
    caffe, torch7, pytensor = 0, 6, 5
    assert row(made["families"], "rnn")[caffe] == "90.0"
    assert row(made["families"], "rnn")[torch7] == "runs"
    assert row(made["families"], "beam_search")[caffe] == "cannot"
    assert row(made["families"], "beam_search")[torch7] == "-"
    assert row(made["families"], "transformer")[pytensor] == "left out"
    assert row(made["deployment"], "`caffe`")[-1] == "1 of 2"
    assert row(made["platforms"], "`caffe`") == ["1 of 2", "-", "looked up: 1 could", "1 of 1 (e)"]
    assert "its support for recurrent networks is poor | `caffe` | `rnn` 2/3, `lstm` not tried," in made["claims"]
    assert "`attention` not tried, `beam_search` not tried" in made["claims"]
    assert row(made["latency"], "none") == ["-", "0", "-"]


def test_what_no_network_can_express_is_said_so(made: dict[str, str]) -> None:
    claim = survey.Claim(toolkit="Caffe", says="", framework="caffe", models=("beam_search",))
    found = [record("caffe/beam_search/native/caffe/linux-x86_64", Outcome.XFAIL, stage=Stage.TRAIN)]
    told = SURVEY.model_copy(update={"claims": (claim,)})
    assert "`beam_search` cannot be expressed" in PAGE.tables([*found, *_all_others()], SPEC, told)["claims"]


def _all_others() -> list[Record]:
    names = [name for name in SPEC.ratings.survey if name != "caffe"]
    return [record(str(CellId(name, "mlp", "onnx", "onnxruntime", "linux-x86_64")), Outcome.NOT_RUN) for name in names]


def test_stars_and_claims_are_about_toolkits_models_and_frameworks_that_there_are() -> None:
    deployment = {one.toolkit: one.deployment for one in SPEC.ratings.survey.values()}
    assert SURVEY.stars["deployment"] == deployment
    for given in SURVEY.stars.values():
        assert set(given) <= set(SURVEY.toolkits)
        assert all(0 <= value <= 5 and value * 2 == int(value * 2) for value in given.values())
    for claim in SURVEY.claims:
        assert set(claim.models) <= set(SPEC.models)
        assert SPEC.ratings.survey[claim.framework].toolkit == claim.toolkit
