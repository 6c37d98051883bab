"""PyTorch: the fourteen reference models, their training, and the ways in which a PyTorch model is handed over.

Loaded by path only, so that the name of this file never hides the real ``torch``, which is imported inside functions.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "python": ">=3.11,<3.14",
    "requirements": [
        "torch==2.13.0",
        "onnx==1.23.2",
        "onnx-ir==1.1.0",
        "onnxscript==0.7.2",
        "numpy==2.4.6",
        "ml_dtypes==0.6.0",
        "protobuf==7.36.2",
        "sympy==1.14.0",
        "typing_extensions==4.16.0",
        "pnnx==20261020",
    ],
}
#: What converts a trained model, and what it wants beside it. The usual environment goes without: not every system has
#: wheels of all of these, and PyTorch trains there all the same.
ENVIRONMENTS = {
    "converters": {
        "python": ">=3.11,<3.14",
        "requirements": [
            *ENVIRONMENT["requirements"],
            "executorch==1.5.1",
            "coremltools==9.0",
            "openvino==2026.4.1",
            "torchao==0.18.0",
        ],
    },
    # By way of the package of its quantizer it wants an older typing_extensions than ONNX's packages do.
    "litert": {
        "python": ">=3.11,<3.14",
        "requirements": ["torch==2.13.0", "litert-torch==0.10.0", "numpy==2.4.6", "protobuf==7.36.2", "sympy==1.14.0"],
        "env": {"JAX_PLATFORMS": "cpu"},
    },
}
LAYOUT = "channels-first"
#: ``torchscript`` has no static variant: a trace records no batch size. ``ncnn`` has no other: pnnx removes the axis;
#: nor have ``litert``, ``executorch`` and ``coreml``, whose home are devices that plan their memory beforehand.
_BASES: dict[str, dict[str, Any]] = {
    "torchscript": {"kind": "native", "format": "torchscript", "batch": "dynamic"},
    "pt2": {"kind": "native", "format": "pt2", "batch": "static"},
    "pt2-dynamic": {"kind": "native", "format": "pt2", "batch": "dynamic"},
    "onnx-dynamo": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-dynamo-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
    "onnx-torchscript": {"kind": "onnx", "format": "onnx", "batch": "static"},
    "onnx-torchscript-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
    "ncnn": {"kind": "native", "format": "ncnn", "batch": "static"},
    "aotinductor": {"kind": "native", "format": "aotinductor", "batch": "static"},
    "aotinductor-dynamic": {"kind": "native", "format": "aotinductor", "batch": "dynamic"},
    "executorch": {"kind": "native", "format": "executorch", "batch": "static", "environment": "converters"},
    "openvino": {"kind": "native", "format": "openvino-ir", "batch": "static", "environment": "converters"},
    "openvino-dynamic": {"kind": "native", "format": "openvino-ir", "batch": "dynamic", "environment": "converters"},
    "coreml": {"kind": "native", "format": "coreml", "batch": "static", "environment": "converters"},
    "litert": {"kind": "native", "format": "tflite", "batch": "static", "environment": "litert"},
}
#: Asked of both ONNX exporters where a path says nothing else, so that they differ in nothing else.
OPSET = 18
#: What else is asked for: 20, which is the default of both; old ones (the TorchScript exporter goes down to 7, but has
#: fewer operators there; the dynamo one converts down from 18, and keeps 18 without a word where that fails); and new
#: ones (23 is the newest of the TorchScript exporter; the dynamo one breaks attention from 26 on).
_OPSETS = {"onnx-dynamo": (16, 17, 20, 25), "onnx-torchscript": (9, 20, 23)}
_PRECISIONS = {
    "pt2-dynamic": ("fp16", "bf16", "int8-dynamic"),
    "onnx-dynamo-dynamic": ("bf16",),
    "aotinductor-dynamic": ("int8-dynamic",),
    "executorch": ("fp16",),
    "litert": ("fp16", "int8-dynamic", "int8-static"),
}
PATHS = {
    **_BASES,
    **{
        f"{base}{batch}+opset{opset}": {**_BASES[base + batch], "opset": opset}
        for base, opsets in _OPSETS.items()
        for batch in ("", "-dynamic")
        for opset in opsets
    },
    **{
        f"{base}+{precision}": {
            **_BASES[base],
            "precision": precision,
            # torchao is there only.
            **({"environment": "converters"} if precision == "int8-dynamic" and base != "litert" else {}),
        }
        for base, precisions in _PRECISIONS.items()
        for precision in precisions
    },
}
#: Training rows that the ranges of integers are calibrated on.
CALIBRATION = 200
#: Instructions that compiled code may use on an x86_64 processor, whatever else the one that compiles has: vectors of
#: 256 bits are AVX2, which all servers since 2015 have. No more is asked of the compiler by name of a processor.
_COMPILED = {"cpp.simdlen": 256, "cpp.march": "", "compile_threads": 1}
CLASSES = 10
#: Letters that a digit name may hold, counting the end symbol (number 0, which is the start symbol as well).
LETTERS = 16
#: Letters that the decoders write at most, the end symbol included.
STEPS = 6
BEAMS = 3
#: Log-probability of a letter that must not be chosen: finite, since infinities turn into NaN in some runtimes.
NEVER = -1e9


class Family(NamedTuple):
    """How one reference model is built and trained, and what its outputs are called."""

    build: Callable[[], Any]
    epochs: int
    rate: float
    batch: int = 50
    outputs: tuple[str, ...] = ("logits",)


class Trained(NamedTuple):
    """A trained model: ``network`` is in evaluation mode and needs no gradients; ``rows`` are to calibrate on."""

    model: str
    network: Any
    rows: np.ndarray


class Asked(NamedTuple):
    """How a path wants its artifact: a symbolic batch or not, the opset of ONNX, and the precision."""

    dynamic: bool
    opset: int
    precision: str


def train(model: str, data: Any, seed: int) -> Trained:
    """Build ``model`` and train it on ``data``, on one thread and the same for the same ``seed``.

    Labels are N (digits) or N x 6 (letters of the digit's name). Raises ``NotImplementedError`` for an unknown model.
    """
    import torch

    family = _family(model)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = family.build()
    x, y = torch.from_numpy(data.train_x["x"]), torch.from_numpy(data.train_y)
    # A decoder learns from the letter that should have been before, not from the one that it wrote.
    teach = network.teach if hasattr(network, "teach") else lambda rows, _: network(rows)
    batches = -(-len(x) // family.batch)
    optimizer = torch.optim.Adam(network.parameters(), lr=family.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, family.rate, total_steps=family.epochs * batches)
    network.train()
    for _ in range(family.epochs):
        for rows in torch.randperm(len(x)).chunk(batches):
            optimizer.zero_grad()
            logits = teach(x[rows], y[rows])
            torch.nn.functional.cross_entropy(logits.flatten(0, -2), y[rows].flatten()).backward()
            optimizer.step()
            schedule.step()
    return Trained(model, network.eval().requires_grad_(requires_grad=False), data.train_x["x"][:CALIBRATION])


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the network's own outputs by name, for ``inputs["x"]`` of any batch size."""
    import torch

    with torch.inference_mode():
        outputs = trained.network(torch.from_numpy(inputs["x"]))
    if isinstance(outputs, torch.Tensor):
        outputs = (outputs,)
    return {name: output.numpy() for name, output in zip(_family(trained.model).outputs, outputs, strict=True)}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write ``trained`` below ``folder`` in the way that ``path`` names; the exporter's own exceptions come through.

    The artifact's input is ``x``, ``in0`` for ncnn and ``args_0`` for LiteRT. Its outputs have the names that
    ``predict`` gives them in ONNX, OpenVINO and Core ML; the others know outputs by their position only. Both are
    single precision whatever the artifact computes in. Raises ``ValueError`` for an unknown path.
    """
    import torch

    if path not in PATHS:
        raise ValueError(f"torch has no path {path!r}; it has {', '.join(PATHS)}")
    write = {
        "torchscript": _torchscript,
        "pt2": _pt2,
        "onnx-dynamo": _onnx_dynamo,
        "onnx-torchscript": _onnx_legacy,
        "ncnn": _ncnn,
        "aotinductor": _aotinductor,
        "executorch": _executorch,
        "openvino": _openvino,
        "coreml": _coreml,
        "litert": _litert,
    }
    declared = PATHS[path]
    dynamic, precision = declared["batch"] == "dynamic", declared.get("precision", "fp32")
    asked = Asked(dynamic, declared.get("opset", OPSET), precision)
    base = path.partition("+")[0].removesuffix("-dynamic")
    # Rows of one channel have a stride of nothing there, which ExecuTorch refuses.
    example = torch.from_numpy(inputs["x"]).clone(memory_format=torch.contiguous_format)
    with torch.no_grad(), _plain_attention(), warnings.catch_warnings():
        # Both TorchScript and the exporter built on it announce their own deprecation on every call.
        warnings.simplefilter("ignore", DeprecationWarning)
        # LiteRT's quantizer is handed the network as it is, and makes less of it afterwards.
        if base != "litert":
            trained = trained._replace(network=_in_precision(trained.network, asked.precision))
        return write[base](trained, example, Path(folder), asked)


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep PyTorch's fused transformer layer out of traces: one operator, which no other runtime knows."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _torchscript(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    network, method = _torchscript_capture(trained.network, example)
    network.save(str(folder / "model.pt"))
    return {"entry": "model.pt", "facts": {"exporter": "torch.jit", "capture": method}}


def _pt2(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    import torch

    program = _program(trained.network, example, dynamic=asked.dynamic)
    if asked.precision == "int8-dynamic":
        # Else the archive has operators of torchao's own, and a PyTorch without that does not load it.
        program = program.run_decompositions()
    torch.export.save(program, folder / "model.pt2")
    return {"entry": "model.pt2", "facts": {"exporter": "torch.export", "capture": "export(strict=False)"}}


def _onnx_dynamo(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    import torch

    # It warns on every call that torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    file = folder / "model.onnx"
    # Captured here and not by the exporter, which would quietly try one strategy after another.
    torch.onnx.export(
        _program(trained.network, example, dynamic=asked.dynamic),
        (example,),
        file,
        dynamo=True,
        # Known to the program already, but not its name: without it the axis would be called s77.
        dynamic_shapes=_shapes(dynamic=asked.dynamic),
        external_data=False,
        input_names=["x"],
        output_names=list(_family(trained.model).outputs),
        opset_version=asked.opset,
        verbose=False,
    )
    return {"entry": file.name, "facts": _onnx_facts(file, asked, "torch.onnx dynamo=True", "export(strict=False)")}


def _onnx_legacy(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    import torch

    file = folder / "model.onnx"
    names = _family(trained.model).outputs
    # The exporter would trace in any case, but a trace cannot hold a loop: a scripted network is taken as it is.
    network, method = trained.network, "trace"
    if hasattr(network, "portable"):
        network, method = _torchscript_capture(network, example)
    batched = [name for name in ("x", *names) if name != "steps"]
    torch.onnx.export(
        network,
        (example,),
        str(file),
        dynamo=False,
        input_names=["x"],
        output_names=list(names),
        dynamic_axes={name: {0: "batch"} for name in batched} if asked.dynamic else None,
        opset_version=asked.opset,
        verbose=False,
    )
    return {"entry": file.name, "facts": _onnx_facts(file, asked, "torch.onnx dynamo=False", method)}


def _ncnn(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.ncnn.param``, the graph, and ``model.ncnn.bin``, the weights in single precision.

    Raises ``RuntimeError`` with the last words of pnnx where it writes none. What it has no ncnn layer for, it writes
    under a name of its own, which ncnn then refuses.
    """
    from importlib import metadata

    import pnnx

    network, method = _torchscript_capture(trained.network, example)
    graph, weights = folder / "model.ncnn.param", folder / "model.ncnn.bin"
    with tempfile.TemporaryDirectory(prefix="portmatrix-pnnx-") as scratch:
        traced = Path(scratch) / "model.pt"
        network.save(str(traced))
        # Not by its function ``convert``, which looks at no exit status and then imports what should have been written.
        # A fixed shape, so that it finds out which axis is the batch, which ncnn does not have.
        command = [pnnx.EXEC_PATH, str(traced), f"inputshape={list(example.shape)}f32".replace(" ", ""), "fp16=0"]
        command += [f"ncnnparam={graph}", f"ncnnbin={weights}", f"ncnnpy={scratch}/model_ncnn.py"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    print(said)
    # What it said in its last pass, without the addresses of its own functions.
    words = " ".join(said.rpartition("#############")[2].partition("frame #0")[0].split())[:400]
    if done.returncode < 0:
        raise RuntimeError(f"pnnx died of {signal.Signals(-done.returncode).name} in {words}")
    if done.returncode or not (graph.exists() and weights.exists()):
        raise RuntimeError(f"pnnx wrote no model (status {done.returncode}) after {words}")
    return {"entry": graph.name, "facts": {"exporter": f"pnnx {metadata.version('pnnx')}", "capture": method}}


def _aotinductor(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.pt2``: C++ that Inductor wrote, compiled with g++, for x86_64 processors with AVX2."""
    import torch

    file = folder / "model.pt2"
    program = _program(trained.network, example, dynamic=asked.dynamic)
    torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=_COMPILED)
    facts = {"exporter": "torch._inductor.aoti_compile_and_package", "capture": "export(strict=False)"}
    return {"entry": file.name, "facts": {**facts, "simdlen": _COMPILED["cpp.simdlen"]}}


def _executorch(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.pte``, with all that XNNPACK takes handed to it; the facts name what it does not take."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = _program(trained.network, example, dynamic=False)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    # Before memory is planned: later there are operators that only copy and allocate.
    called = [node.target for node in lowered.exported_program().graph.nodes if node.op == "call_function"]
    names = [target.name() for target in called if hasattr(target, "name")]
    delegates = names.count("executorch_call_delegate")
    left = sorted({name for name in names if name != "executorch_call_delegate"})
    (folder / "model.pte").write_bytes(lowered.to_executorch().buffer)
    facts = {"exporter": "executorch", "capture": "export(strict=False)", "delegate": "XNNPACK"}
    return {"entry": "model.pte", "facts": {**facts, "delegated_parts": delegates, "not_delegated": " ".join(left)}}


def _openvino(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.xml``, the graph, and ``model.bin``, the weights as they are; raises ``OpConversionFailure``."""
    import openvino

    converted = openvino.convert_model(_program(trained.network, example, dynamic=asked.dynamic))
    # It takes no shape over from the program, and calls outputs by the last operator.
    converted.reshape([-1 if asked.dynamic else len(example), *example.shape[1:]])
    for output, name in zip(converted.outputs, _family(trained.model).outputs, strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(converted, folder / "model.xml", compress_to_fp16=False)
    facts = {"exporter": f"openvino {openvino.__version__.partition('-')[0]}", "capture": "export(strict=False)"}
    return {"entry": "model.xml", "facts": facts}


def _coreml(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.mlpackage``, an ML program in single precision for macOS 13 and later."""
    import coremltools

    network, method = _torchscript_capture(trained.network, example)
    converted = coremltools.convert(
        network,
        inputs=[coremltools.TensorType(name="x", shape=example.shape)],
        outputs=[coremltools.TensorType(name=name) for name in _family(trained.model).outputs],
        convert_to="mlprogram",
        # Half would be usual.
        compute_precision=coremltools.precision.FLOAT32,
        minimum_deployment_target=coremltools.target.macOS13,
        skip_model_load=True,
    )
    converted.save(str(folder / "model.mlpackage"))
    facts = {"exporter": f"coremltools {coremltools.__version__}", "capture": method}
    return {"entry": "model.mlpackage", "facts": {**facts, "specification": converted.get_spec().specificationVersion}}


def _litert(trained: Trained, example: Any, folder: Path, asked: Asked) -> dict[str, Any]:
    """Write ``model.tflite``, in a lower precision by the quantizer that LiteRT's converter brings along."""
    from importlib import metadata

    import litert_torch

    network = trained.network
    network = network.portable() if hasattr(network, "portable") else network
    converted, file = litert_torch.convert(network, (example,)), folder / "model.tflite"
    converted.export(str(file))
    facts = {"exporter": f"litert-torch {metadata.version('litert-torch')}", "capture": "export(strict=False)"}
    if asked.precision != "fp32":
        _quantize_tflite(file, asked.precision, trained.rows)
        facts["quantizer"] = f"ai-edge-quantizer {metadata.version('ai-edge-quantizer')}"
    return {"entry": file.name, "facts": facts}


def _quantize_tflite(file: Path, precision: str, rows: np.ndarray) -> None:
    """Replace ``file`` by itself in ``precision``; ranges of activations come from ``rows``, one by one."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    quantize = quantizer.Quantizer(str(file))
    kinds, algorithms = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    if precision == "fp16":
        quantize.add_weight_only_config(".*", kinds.ALL_SUPPORTED, num_bits=16, algorithm_key=algorithms.FLOAT_CASTING)
    elif precision == "int8-dynamic":
        quantize.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    else:
        quantize.load_quantization_recipe(recipe.static_wi8_ai8())
        # The border stays as it is: the file takes and gives single precision.
        for kind in (kinds.INPUT, kinds.OUTPUT):
            quantize.update_quantization_recipe(".*", kind, algorithm_key=algorithms.NO_QUANTIZE)
    ranges = None
    if quantize.need_calibration:
        ((key, signature),) = Interpreter(str(file)).get_signature_list().items()
        (name,) = signature["inputs"]
        ranges = quantize.calibrate({key: [{name: rows[row : row + 1]} for row in range(len(rows))]})
    quantize.quantize(ranges).export_model(str(file), overwrite=True)


def _in_precision(network: Any, precision: str) -> Any:
    """Return a copy of ``network`` that computes in ``precision`` between an input and outputs of single precision.

    int8 is that of torchao: weights of linear layers in eight bits by channel, their inputs by row while it runs.
    """
    import torch
    from torch import nn

    if precision == "fp32":
        return network
    inner = copy.deepcopy(network.portable() if hasattr(network, "portable") else network)
    if precision == "int8-dynamic":
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

        quantize_(inner, Int8DynamicActivationInt8WeightConfig())
        return inner
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[precision]

    class Lowered(nn.Module):
        """Casts its input, and such outputs as are no integers back."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner.to(dtype)

        def forward(self, x: torch.Tensor) -> Any:
            found = self.inner(x.to(dtype))
            if isinstance(found, torch.Tensor):
                return found.float()
            return tuple(one.float() if one.is_floating_point() else one for one in found)

    return Lowered().eval()


def _torchscript_capture(network: Any, example: Any) -> tuple[Any, str]:
    """Return ``network`` in TorchScript and how it got there: a network with a loop is compiled, any other traced."""
    import torch

    if hasattr(network, "portable"):
        return torch.jit.script(network), "script"
    return torch.jit.trace(network, (example,)), "trace"


def _program(network: Any, example: Any, *, dynamic: bool) -> Any:
    """Return ``network`` as an ``ExportedProgram`` whose batch is that of ``example`` or, with ``dynamic``, any."""
    import torch

    if hasattr(network, "portable"):
        network = network.portable()
    return torch.export.export(network, (example,), dynamic_shapes=_shapes(dynamic=dynamic), strict=False)


def _shapes(*, dynamic: bool) -> tuple[Any, ...] | None:
    """Return the symbolic batch of the one input."""
    import torch

    return ({0: torch.export.Dim("batch", min=1, max=1024)},) if dynamic else None


def _onnx_facts(file: Path, asked: Asked, exporter: str, capture: str) -> dict[str, Any]:
    """Return what stands in the ONNX ``file``, which need not be what was asked for."""
    import onnx

    written = onnx.load(file)
    opset = next(entry.version for entry in written.opset_import if entry.domain in ("", "ai.onnx"))
    facts = {"exporter": exporter, "capture": capture, "opset_asked": asked.opset, "opset": opset}
    return {**facts, "ir_version": written.ir_version}


def _family(model: str) -> Family:
    if model not in FAMILIES:
        raise NotImplementedError(f"torch has no model {model!r}; it has {', '.join(FAMILIES)}")
    return FAMILIES[model]


def _chain(*layers: Any) -> Any:
    """Return ``nn.Sequential(*layers)`` with its argument called ``x``, since artifacts take the name over."""
    import torch
    from torch import nn

    class Chain(nn.Sequential):
        """One layer after the other."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    return Chain(*layers)


def _mlp() -> Any:
    """Two hidden layers over the flattened picture."""
    from torch import nn

    return _chain(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def _he(network: Any) -> Any:
    """Start convolutions as He et al. 2015: the default is too small for many layers of ReLU without normalization."""
    from torch import nn

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return network


def _alexnet() -> Any:
    """Krizhevsky et al. 2012: response normalization, overlapping pooling, grouped convolutions, dropout."""
    from torch import nn

    def overlapping() -> Any:
        # 3x3 windows two apart overlap; padding keeps eight pixels from vanishing after three of them.
        return nn.MaxPool2d(3, 2, padding=1)

    def normalized() -> Any:
        return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0)

    return _he(
        _chain(
            *(nn.Conv2d(1, 24, 5, padding=2), nn.ReLU(), normalized(), overlapping()),
            *(nn.Conv2d(24, 64, 3, padding=1, groups=2), nn.ReLU(), normalized(), overlapping()),
            *(nn.Conv2d(64, 96, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(96, 96, 3, padding=1, groups=2), nn.ReLU()),
            *(nn.Conv2d(96, 64, 3, padding=1, groups=2), nn.ReLU(), overlapping()),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 96), nn.ReLU()),
            *(nn.Dropout(0.2), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, CLASSES)),
        )
    )


def _vgg() -> Any:
    """Simonyan and Zisserman 2014: stacks of 3x3 convolutions, each closed by 2x2 pooling."""
    from torch import nn

    layers: list[Any] = []
    channels = 1
    for width, depth in ((16, 2), (32, 2), (48, 2)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = (nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, CLASSES))
    return _he(_chain(*layers, *head))


def _googlenet() -> Any:
    """Szegedy et al. 2014: inception modules, joined along the channels, under global average pooling."""
    import torch
    from torch import nn

    def convolution(inputs: int, outputs: int, size: int) -> Any:
        return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.ReLU())

    class Inception(nn.Module):
        """Four branches of ``width`` channels each: 1x1, 1x1 to 3x3, 1x1 to 5x5, pooling to 1x1."""

        def __init__(self, inputs: int, width: int) -> None:
            super().__init__()
            reduced = width // 2
            self.one = convolution(inputs, width, 1)
            self.three = nn.Sequential(convolution(inputs, reduced, 1), convolution(reduced, width, 3))
            self.five = nn.Sequential(convolution(inputs, reduced, 1), convolution(reduced, width, 5))
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), convolution(inputs, width, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)

    return _he(
        _chain(
            *(convolution(1, 32, 3), nn.MaxPool2d(3, 2, padding=1)),
            *(Inception(32, 16), Inception(64, 16), nn.MaxPool2d(3, 2, padding=1), Inception(64, 24)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(96, CLASSES)),
        )
    )


def _resnet() -> Any:
    """He et al. 2015: basic blocks of two normalized convolutions, with identity and projection shortcuts."""
    import torch
    from torch import nn

    def normalized(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        """Adds its input to what it computes; a 1x1 convolution fits the input where the shape changes."""

        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = normalized(inputs, outputs, 3, stride)
            self.second = normalized(outputs, outputs, 3)
            same = inputs == outputs and stride == 1
            self.shortcut = nn.Identity() if same else normalized(inputs, outputs, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    return _chain(
        *(normalized(1, 16, 3), nn.ReLU()),
        *(Block(16, 16, 1), Block(16, 32, 2), Block(32, 32, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)),
    )


def _conv1d() -> Any:
    """Convolutions over time: the eight rows are the steps, the eight pixels of a row the channels."""
    import torch
    from torch import nn

    class StepsLast(nn.Module):
        """N x steps x channels to N x channels x steps, the order that ``Conv1d`` reads."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.transpose(1, 2)

    return _chain(
        StepsLast(),
        *(nn.Conv1d(8, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool1d(2), nn.Flatten(), nn.Linear(128, CLASSES)),
    )


def _conv3d() -> Any:
    """Tran et al. 2014 (C3D): 3x3x3 convolutions over a clip; the first pooling leaves time alone."""
    from torch import nn

    return _chain(
        *(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool3d((1, 2, 2))),
        *(nn.Conv3d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2)),
        *(nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, CLASSES)),
    )


def _recurrent(kind: str, *, bidirectional: bool = False) -> Any:
    """A layer of ``nn.RNN`` (tanh), ``nn.LSTM`` or ``nn.GRU`` over the rows; the final states are classified."""
    import torch
    from torch import nn

    width = 48

    class Reader(nn.Module):
        """N x 8 x 8 to N x 10. No initial states are given, so none fixes the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.cells = getattr(nn, kind)(8, width, batch_first=True, bidirectional=bidirectional)
            self.head = nn.Linear(width * (2 if bidirectional else 1), CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            final = self.cells(x)[1]
            hidden = final[0] if kind == "LSTM" else final
            return self.head(hidden.transpose(0, 1).flatten(1))

    return Reader()


def _rnn() -> Any:
    return _recurrent("RNN")


def _lstm() -> Any:
    return _recurrent("LSTM")


def _gru() -> Any:
    return _recurrent("GRU")


def _birnn() -> Any:
    return _recurrent("LSTM", bidirectional=True)


def _transformer() -> Any:
    """Vaswani et al. 2017: two encoder layers of PyTorch's own over the embedded rows, averaged and classified."""
    import torch
    from torch import nn

    width = 32

    class RowEncoder(nn.Module):
        """N x 8 x 8 to N x 10, with a learned embedding of the row's position."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, width)
            self.position = nn.Parameter(torch.randn(1, 8, width) * 0.1)
            layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.1, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(width, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(self.embed(x) + self.position).mean(1))

    return RowEncoder()


def _additive_attention(width: int, read: int) -> Any:
    """The attention of Bahdanau et al. 2014: which of the rows read matters to a decoder in a given state."""
    import torch
    from torch import nn

    class AdditiveAttention(nn.Module):
        """States N x K x width and memory N x rows x read to contexts N x K x read."""

        def __init__(self) -> None:
            super().__init__()
            self.key = nn.Linear(read, width)
            self.query = nn.Linear(width, width, bias=False)
            self.energy = nn.Linear(width, 1, bias=False)

        def forward(self, hidden: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
            energy = self.energy(torch.tanh(self.query(hidden).unsqueeze(2) + self.key(memory).unsqueeze(1)))
            return torch.matmul(torch.softmax(energy.squeeze(3), 2), memory)

    return AdditiveAttention()


def _decoder(width: int, read: int) -> Any:
    """What writes one letter. The K writers of one row (the beams of a search, else one) share its memory."""
    import torch
    from torch import nn

    class Decoder(nn.Module):
        """From letters N x K and states N x K x 2 x width (hidden, cell) to logits N x K x 16 and new states."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = _additive_attention(width, read)
            self.letters = nn.Embedding(LETTERS, 16)
            self.cell = nn.LSTMCell(16 + read, width)
            self.readout = nn.Linear(width + read, LETTERS)

        def forward(
            self, letter: torch.Tensor, state: torch.Tensor, memory: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            context = self.attention(state[:, :, 0], memory)
            heard = torch.cat([self.letters(letter), context], 2)
            # Sizes are spelled out for the exporter built on TorchScript, which knows no shapes inside a loop.
            heard = heard.reshape(-1, self.cell.input_size)
            flat = state.reshape(-1, 2, self.cell.hidden_size)
            hidden, cell = self.cell(heard, (flat[:, 0], flat[:, 1]))
            state = torch.stack([hidden, cell], 1).reshape(state.shape)
            return self.readout(torch.cat([state[:, :, 0], context], 2)), state

    return Decoder()


def _reader(width: int, read: int) -> Any:
    """What reads the rows, both ways."""
    import torch
    from torch import nn

    class Reader(nn.Module):
        """N x 8 x 8 to a memory of it, N x 8 x read, and a decoder's first state, N x 1 x 2 x width."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 32)
            self.encoder = nn.LSTM(32, read // 2, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(read // 2, width)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            memory, (final, _) = self.encoder(torch.relu(self.embed(x)))
            hidden = torch.tanh(self.bridge(final[1]))
            return memory, torch.stack([hidden, torch.zeros_like(hidden)], 1).unsqueeze(1)

    return Reader()


def _attention() -> Any:
    """An encoder that reads the rows and a decoder that writes the digit's name letter by letter."""
    import torch
    from torch import nn

    class Speller(nn.Module):
        """N x 8 x 8 to logits N x 6 x 16; always six steps, each fed with the likeliest letter of the last."""

        def __init__(self) -> None:
            super().__init__()
            self.reader = _reader(64, 96)
            self.decoder = _decoder(64, 96)

        def teach(self, x: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
            """The same, but fed with the letters of ``names``, N x 6, whatever was written instead."""
            return self.forward(x, torch.nn.functional.pad(names, (1, 0)))

        def forward(self, x: torch.Tensor, told: torch.Tensor | None = None) -> torch.Tensor:
            memory, state = self.reader(x)
            letter = torch.zeros_like(x[:, :1, 0], dtype=torch.int64)
            written = []
            for step in range(STEPS):
                if told is not None:
                    letter = told[:, step : step + 1]
                logits, state = self.decoder(letter, state, memory)
                letter = logits.argmax(2)
                written.append(logits)
            return torch.cat(written, 1)

    return Speller()


def _beam_step(decoder: Any) -> Any:
    """One step of a beam search with ``decoder``, for whichever loop repeats it."""
    import torch
    from torch import nn

    class BeamStep(nn.Module):
        """From step (scalar), letter N x 3, state N x 3 x 2 x 64, tokens N x 3 x 6 and scores N x 3 to the next."""

        def __init__(self) -> None:
            super().__init__()
            self.decoder = decoder
            # An ended beam lives on, followed by nothing but ends, which cost nothing.
            self.register_buffer("after_end", torch.tensor([0.0] + [NEVER] * (LETTERS - 1)))
            self.register_buffer("place", torch.arange(STEPS))

        def forward(
            self,
            memory: torch.Tensor,
            beams: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            step, letter, state, tokens, scores = beams
            logits, state = self.decoder(letter, state, memory)
            ended = torch.logical_and(letter == 0, step > 0).unsqueeze(2)
            gain = torch.where(ended, self.after_end, torch.log_softmax(logits, 2))
            scores, chosen = (scores.unsqueeze(2) + gain).reshape(letter.shape[0], -1).topk(letter.shape[1])
            parent = torch.div(chosen, logits.shape[2], rounding_mode="floor")
            letter = torch.remainder(chosen, logits.shape[2])
            state = state.gather(1, parent[:, :, None, None].expand_as(state))
            tokens = tokens.gather(1, parent.unsqueeze(2).expand_as(tokens))
            tokens = torch.where(self.place == step, letter.unsqueeze(2), tokens)
            return step + 1, letter, state, tokens, scores

    return BeamStep()


def _beam_loops(decoder: Any) -> tuple[Any, Any]:
    """The loop around a beam step twice: in Python, and as the operator that ``torch.export`` can see."""
    import torch
    from torch import nn
    from torch._higher_order_ops import while_loop

    # A variable of this function, since tracing would look for a global one in an importable module.
    limit = STEPS

    class PythonLoop(nn.Module):
        """Repeats the step until all beams of all rows have ended; ``torch.jit.script`` compiles it as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.beam_step, self.limit = _beam_step(decoder), limit

        def forward(
            self,
            memory: torch.Tensor,
            beams: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
            step, letter, state, tokens, scores = beams
            while int(step) < self.limit and (int(step) == 0 or bool(torch.any(letter != 0))):
                step, letter, state, tokens, scores = self.beam_step(memory, (step, letter, state, tokens, scores))
            return step, letter, state, tokens, scores

    class GraphLoop(PythonLoop):
        """The same as one ``while_loop``, whose condition stays in the graph."""

        def forward(self, memory: torch.Tensor, beams: Any) -> Any:
            def goes_on(step: Any, letter: Any, *_: Any) -> Any:
                return (step < limit) & ((step == 0) | torch.any(letter != 0))

            def advance(*carried: Any) -> Any:
                return self.beam_step(memory, carried)

            return while_loop(goes_on, advance, beams)

    return PythonLoop(), GraphLoop()


def _beam_search() -> Any:
    """The speller of ``attention``, decoded by a beam search that goes on for as long as its data need it."""
    import torch
    from torch import nn

    class Search(nn.Module):
        """N x 8 x 8 to the best beam's tokens N x 6, its log-probability N, and the number of steps taken, 1."""

        def __init__(self, reader: Any, loop: Any) -> None:
            super().__init__()
            self.reader, self.loop = reader, loop
            # Only one beam is open at first: three alike would choose the same letter three times.
            self.register_buffer("scores", torch.tensor([[0.0] + [NEVER] * (BEAMS - 1)]))
            self.register_buffer("tokens", torch.zeros(1, BEAMS, STEPS, dtype=torch.int64))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            memory, state = self.reader(x)
            scores, tokens = self.scores.repeat(x.shape[0], 1), self.tokens.repeat(x.shape[0], 1, 1)
            step, letter = torch.zeros((), dtype=torch.int64), torch.zeros_like(scores, dtype=torch.int64)
            state = state.repeat(1, scores.shape[1], 1, 1)
            step, _, _, tokens, scores = self.loop(memory, (step, letter, state, tokens, scores))
            return tokens[:, 0], scores[:, 0], step.reshape(1)

    speller = _attention()
    loop, graph_loop = _beam_loops(speller.decoder)
    search = Search(speller.reader, loop)
    search.teach, search.portable = speller.teach, lambda: Search(speller.reader, graph_loop).eval()
    return search


#: Epochs and rates are what reaches nine in ten of the held-out digits, or words, within seconds.
FAMILIES = {
    "mlp": Family(_mlp, 20, 0.01),
    "alexnet": Family(_alexnet, 10, 0.003),
    "vgg": Family(_vgg, 10, 0.003),
    "googlenet": Family(_googlenet, 7, 0.006),
    "resnet": Family(_resnet, 6, 0.01),
    "conv1d": Family(_conv1d, 20, 0.01),
    "conv3d": Family(_conv3d, 10, 0.008),
    "rnn": Family(_rnn, 25, 0.006),
    "lstm": Family(_lstm, 20, 0.02),
    "gru": Family(_gru, 20, 0.015),
    "birnn": Family(_birnn, 20, 0.015),
    "attention": Family(_attention, 16, 0.015, 100),
    "transformer": Family(_transformer, 15, 0.006),
    "beam_search": Family(_beam_search, 16, 0.015, 100, ("tokens", "scores", "steps")),
}
