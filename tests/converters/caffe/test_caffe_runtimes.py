"""The same fixtures in two further runtimes: ONNX's own reference, and OpenVINO."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from caffe_cases import CASES
from caffe_running import assert_close, fixture_files, recorded
from onnx.reference import ReferenceEvaluator

from portmatrix.converters import caffe

#: onnx.reference normalizes as many channels as the batch has items, and leaves the others as they are.
WRONG_IN_REFERENCE = {"LRN"}


@pytest.mark.parametrize("name", CASES)
def test_the_reference_computes_the_same(name: str, tmp_path: Path) -> None:
    written = caffe.convert(fixture_files(name), tmp_path / "net.onnx")
    if WRONG_IN_REFERENCE & set(written.operators):
        pytest.skip("onnx.reference computes LRN wrongly when there are fewer items than channels")
    evaluator = ReferenceEvaluator(onnx.load(tmp_path / "net.onnx"))
    for inputs, outputs in recorded(name):
        feed = {key: inputs[key] for key in evaluator.input_names}
        found = dict(zip(evaluator.output_names, evaluator.run(None, feed), strict=True))
        assert_close(found, outputs)


@pytest.mark.parametrize("name", CASES)
def test_openvino_computes_the_same(name: str, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    caffe.convert(fixture_files(name), tmp_path / "net.onnx")
    hints = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.compile_model(openvino.Core().read_model(tmp_path / "net.onnx"), "CPU", hints)
    for inputs, outputs in recorded(name):
        results = compiled({key: inputs[key] for key in (value.any_name for value in compiled.inputs)})
        found = {
            next(name for name in value.get_names() if name in outputs): results[value] for value in compiled.outputs
        }
        assert_close(found, outputs)
