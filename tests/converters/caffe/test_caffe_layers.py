"""Every layer type against what Caffe itself computed, for the declared batch and another one."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
from caffe_cases import CASES
from caffe_running import Converted, assert_close, fixture_files, recorded, run

from portmatrix.converters import caffe
from portmatrix.converters.caffe import plan


@pytest.mark.parametrize("name", CASES)
def test_the_outputs_are_those_of_caffe(name: str, tmp_path: Path) -> None:
    caffe.convert(fixture_files(name), tmp_path / "net.onnx")
    for inputs, outputs in recorded(name):
        assert_close(run(tmp_path / "net.onnx", inputs), outputs)


@pytest.mark.parametrize("name", CASES)
def test_every_network_can_be_written_in_the_newest_operator_set(name: str, tmp_path: Path) -> None:
    newest = onnx.defs.onnx_opset_version()
    written = caffe.convert(fixture_files(name), tmp_path / "net.onnx", opset=newest)
    model = onnx.load(tmp_path / "net.onnx")
    assert written.opset == newest == model.opset_import[0].version
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("name", CASES)
def test_the_batch_is_a_symbol(name: str, tmp_path: Path) -> None:
    caffe.convert(fixture_files(name), tmp_path / "net.onnx")
    inputs = Converted(tmp_path / "net.onnx").inputs
    timed = name.startswith(("lstm", "rnn")) and name not in {"lstm_batch_first", "lstm_unit"}
    assert inputs["index" if name == "embed" else next(iter(inputs))][1 if timed else 0] == "batch"


def test_a_fixed_batch_is_written_as_its_number(tmp_path: Path) -> None:
    caffe.convert(fixture_files("in_place"), tmp_path / "net.onnx", batch=3)
    converted = Converted(tmp_path / "net.onnx")
    assert converted.inputs == {"data": [3, 4, 6, 6]}
    assert converted.outputs == {"sum": [3, 4, 6, 6]}
    inputs, outputs = recorded("in_place")[1]
    assert_close(converted.run(**inputs), outputs)


def test_the_fixtures_cover_every_translation() -> None:
    types = {word for text in CASES.values() for word in caffe.TRANSLATIONS if f'type: "{word}"' in text}
    elsewhere = {"ConvolutionDepthwise", "DepthwiseConvolution", "Permute", "ReLU6"}  # layers that Caffe 1.0 lacks
    losses = {"InfogainLoss", "SigmoidCrossEntropyLoss", "SoftmaxWithLoss"}
    assert set(caffe.TRANSLATIONS) - types == elsewhere | losses | plan.DATA


def test_a_plain_network_has_plain_operators(tmp_path: Path) -> None:
    caffe.convert(fixture_files("in_place"), tmp_path / "net.onnx")
    assert Converted(tmp_path / "net.onnx").operators == ["Conv", "BatchNormalization", "Relu", "Add", "Relu"]
    caffe.convert(fixture_files("lstm_whole"), tmp_path / "net.onnx")
    assert Converted(tmp_path / "net.onnx").operators == ["LSTM", "Squeeze"]


def test_the_documentation_lists_every_layer() -> None:
    page = Path(__file__).parents[3] / "docs" / "converters" / "caffe.md"
    rows = [line.split("|")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted([*caffe.TRANSLATIONS, *plan.SINKS])
