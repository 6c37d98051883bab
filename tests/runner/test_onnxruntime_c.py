"""The runtime ``onnxruntime-c``: real ONNX files run by ONNX Runtime's shared library, without Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import Speak
from onnx import TensorProto, helper
from spoken import Made, check, make_bundle, points

W = np.random.default_rng(7).normal(size=(3, 2)).astype(np.float32)
DTYPES = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]
DTYPES += ["float16", "float32", "float64"]


def graph(nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: tuple[Any, ...] = ()) -> bytes:
    """Return an ONNX file of IR version 10, which ONNX Runtime from 1.18 on reads."""
    made = helper.make_graph(nodes, "graph", inputs, outputs, list(initializers))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def value(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, dtype, shape)


def linear(x: Any) -> tuple[Any, Any]:
    y = x @ W
    return y, y.argmax(-1)


def linear_file() -> bytes:
    """Return x @ W, with its largest element's place beside it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["place"], axis=-1, keepdims=0),
    ]
    outputs = [value("y", ["n", 2]), value("place", ["n"], TensorProto.INT64)]
    return graph(nodes, [value("x", ["n", 3])], outputs, (onnx.numpy_helper.from_array(W, "w"),))


def linear_bundle(folder: Path, artifact: bytes | None = None, order: str = "=") -> Made:
    sets = []
    for calls, batch in ((4, 2), (2, 5)):
        x = points(calls, batch)
        y, place = linear(x)
        stored = {"x": x.astype(x.dtype.newbyteorder(order))}
        sets.append((stored, {"y": y.astype(y.dtype.newbyteorder(order)), "place": place}))
    return make_bundle(folder, artifact or linear_file(), sets, format="onnx")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_model_gives_the_right_answers_for_every_batch(
    order: str, onnxruntime_c: Path, library: Path, tmp_path: Path
) -> None:
    ran = check(onnxruntime_c, linear_bundle(tmp_path / "bundle", order=order).folder, "--library", library)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert f"on onnxruntime {onnxruntime.__version__}, " in ran.stdout
    assert "y float32 (4, 2, 2)" in ran.stdout
    assert "place int64 (2, 5)" in ran.stdout


def test_a_model_that_gives_wrong_answers_fails(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    made = linear_bundle(tmp_path / "bundle", linear_file().replace(W.tobytes(), (W * 2).tobytes()))
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert (ran.returncode, ran.stdout.splitlines()[-1]) == (1, "FAIL")


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_of_every_dtype_go_in_and_come_out(
    dtype: str, onnxruntime_c: Path, library: Path, tmp_path: Path
) -> None:
    x = np.arange(6).reshape(1, 2, 3).astype(dtype)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node("Identity", ["x"], ["y"])
    artifact = graph([node], [value("x", ["n", 3], kind)], [value("y", ["n", 3], kind)])
    made = make_bundle(tmp_path / "bundle", artifact, [({"x": x}, {"y": x})], format="onnx")
    ran = check(onnxruntime_c, made.folder, "--library", library, "--atol", "0", "--rtol", "0")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_an_output_without_elements_comes_out(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    x = np.zeros((2, 0, 3), np.float32)
    node = helper.make_node("Identity", ["x"], ["y"])
    artifact = graph([node], [value("x", ["n", 3])], [value("y", ["n", 3])])
    made = make_bundle(tmp_path / "bundle", artifact, [({"x": x}, {"y": x})], format="onnx")
    made.write(sets=[{**made.manifest["sets"][0], "batch": 1}])
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_inputs_are_bound_by_name(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    a, b = points(seed=1), points(seed=2)
    node = helper.make_node("Sub", ["a", "b"], ["c"])
    artifact = graph([node], [value("b", ["n", 3]), value("a", ["n", 3])], [value("c", ["n", 3])])
    made = make_bundle(tmp_path / "bundle", artifact, [({"a": a, "b": b}, {"difference": a - b})], format="onnx")
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("artifact", "said"),
    [
        (b"nonsense", "LOAD failed: InvalidProtobuf: "),
        (linear_file()[:-40], "LOAD failed: InvalidProtobuf: "),
        (linear_file().replace(b"MatMul", b"Matmul"), "LOAD failed: "),
    ],
    ids=["no protobuf", "cut off", "unknown operator"],
)
def test_a_model_that_does_not_load_is_named(
    artifact: bytes, said: str, onnxruntime_c: Path, library: Path, tmp_path: Path
) -> None:
    ran = check(onnxruntime_c, linear_bundle(tmp_path / "bundle", artifact).folder, "--library", library)
    assert ran.returncode == 3
    assert said in ran.stderr


def test_an_input_that_the_model_does_not_take_is_named(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    made = linear_bundle(tmp_path / "bundle")
    file = made.folder / "samples" / "b0.inputs0.npy"
    np.save(file, np.load(file).astype(np.float64))
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert ran.returncode == 3
    assert "RUN failed: InvalidArgument: Unexpected input data type" in ran.stderr


def test_an_output_that_is_no_tensor_is_named(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["s"])
    output = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, ["n", 3])
    artifact = graph([node], [value("x", ["n", 3])], [output])
    made = make_bundle(tmp_path / "bundle", artifact, [({"x": points()}, {"s": points()})], format="onnx")
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert ran.returncode == 3
    assert "RUN failed: output s is no tensor" in ran.stderr


def test_an_output_of_text_is_named(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    node = helper.make_node("Cast", ["x"], ["t"], to=TensorProto.STRING)
    artifact = graph([node], [value("x", ["n", 3])], [value("t", ["n", 3], TensorProto.STRING)])
    made = make_bundle(tmp_path / "bundle", artifact, [({"x": points()}, {"t": points()})], format="onnx")
    ran = check(onnxruntime_c, made.folder, "--library", library)
    assert ran.returncode == 3
    assert "output t has elements of ONNX type 8" in ran.stderr


def test_another_library_is_refused(onnxruntime_c: Path, stub: Path, tmp_path: Path) -> None:
    made = linear_bundle(tmp_path / "bundle")
    ran = check(onnxruntime_c, made.folder, "--library", stub)
    assert ran.returncode == 3
    assert "LOAD failed: cannot load " in ran.stderr


def test_several_threads_give_the_same_answers(onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    ran = check(onnxruntime_c, linear_bundle(tmp_path / "bundle").folder, "--library", library, "--threads", "2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ", 2 threads" in ran.stdout


def test_a_model_that_was_timed_still_gives_the_same_answers(
    speak: Speak, onnxruntime_c: Path, library: Path, tmp_path: Path
) -> None:
    spoken = speak(onnxruntime_c, env={"PORTMATRIX_LIBRARY": str(library)})
    made = linear_bundle(tmp_path / "bundle")
    answers = []
    for request in (made.request(tmp_path / "a"), made.symbolic().measuring(1, 5), made.request(tmp_path / "b")):
        answers.append(spoken.ask(request))
        assert answers[-1]["ok"], answers[-1]
    assert [timing["inner"] > 0 for timing in answers[1]["timings"]] == [True, True]
    for name in answers[0]["outputs"][1].values():
        np.testing.assert_array_equal(np.load(tmp_path / "a" / name), np.load(tmp_path / "b" / name))
    assert spoken.end() == 0


def test_an_input_that_the_model_does_not_take_is_not_timed(
    speak: Speak, onnxruntime_c: Path, library: Path, tmp_path: Path
) -> None:
    made = linear_bundle(tmp_path / "bundle")
    file = made.folder / "samples" / "b1.inputs0.npy"
    np.save(file, np.load(file).astype(np.float64))
    answer = speak(onnxruntime_c, env={"PORTMATRIX_LIBRARY": str(library)}).ask(made.measuring())
    assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "MEASURE", "model")
    assert "Unexpected input data type" in answer["reason"]


def test_the_engines_requests_are_answered(speak: Speak, onnxruntime_c: Path, library: Path, tmp_path: Path) -> None:
    spoken = speak(onnxruntime_c, env={"PORTMATRIX_LIBRARY": str(library)})
    assert spoken.ask({"op": "hello", "id": 1})["environment"]["onnxruntime"] == onnxruntime.__version__
    good, bad = linear_bundle(tmp_path / "good"), linear_bundle(tmp_path / "bad", b"nonsense")
    for _ in range(20):
        answer = spoken.ask(good.request(tmp_path / "out"))
        assert answer["ok"], answer
        assert spoken.events == ["LOAD", "RUN", "COMPARE"]
        for files, batch in zip(answer["outputs"], (2, 5), strict=True):
            x = points(4 if batch == 2 else 2, batch)
            np.testing.assert_allclose(np.load(tmp_path / "out" / files["y"]), linear(x)[0], atol=1e-5)
            np.testing.assert_array_equal(np.load(tmp_path / "out" / files["place"]), linear(x)[1])
        answer = spoken.ask(bad.request(tmp_path / "out"))
        assert (answer["ok"], answer["stage"], answer["fault"]) == (False, "LOAD", "model")
        assert answer["reason"].startswith("InvalidProtobuf: ")
    assert spoken.end() == 0
