"""PyTorch: six networks of the size that is deployed, with random weights, as ``torch.export`` archives and as ONNX.

Nothing is trained: how long a call takes does not depend on what a network has learned. Weights are drawn so that a
signal keeps its size on its way (K. He et al., arXiv:1502.01852, where ReLU follows, and batch normalization by the
statistics of one batch of noise): one that vanishes would agree with anything, one that explodes with nothing.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

#: Those of the reference suite's exporter and runtime, item by item: equal lists share one environment.
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
LAYOUT = "channels-first"
PATHS = {
    "pt2-dynamic": {"kind": "native", "format": "pt2", "batch": "dynamic"},
    "onnx-dynamo-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic"},
}
OPSET = 18
CLASSES = 1000
#: What the sequence models read and carry for each step.
WIDTH = 512
IMAGE, SEQUENCE, TOKENS = (3, 224, 224), (64, WIDTH), (128, WIDTH)


class Model(NamedTuple):
    """How a network is built and its weights are drawn, the shape of a row of its input, and its output's name."""

    build: Callable[[], Any]
    row: tuple[int, ...]
    output: str = "logits"


class Trained(NamedTuple):
    """A network in evaluation mode, which nothing was trained for, and what its weights were drawn with."""

    model: str
    network: Any
    seed: int


def train(model: str, data: None, seed: int) -> Trained:
    """Return ``model`` with weights drawn from ``seed``, the same for the same one.

    Raises ``NotImplementedError`` for an unknown model.
    """
    import torch

    described = _described(model)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = described.build().requires_grad_(requires_grad=False)
    _settle(network, torch.randn(4, *described.row))
    return Trained(model, network.eval(), seed)


def samples(model: str, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Return ``rows`` reference inputs of standard normal noise, as ``x``: N x 3 x 224 x 224, or N x steps x 512.

    Raises ``NotImplementedError`` for an unknown model.
    """
    generator = np.random.default_rng(seed + 1)
    return {"x": generator.standard_normal((rows, *_described(model).row), np.float32)}


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the network's own output by name, N x 1000, N x 512 (``lstm``) or N x 128 x 512 (``transformer``)."""
    import torch

    with torch.inference_mode():
        return {_described(trained.model).output: trained.network(torch.from_numpy(inputs["x"])).numpy()}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write ``model.pt2`` or ``model.onnx`` below ``folder``, with a symbolic batch.

    ``facts`` say that the weights are random, and how many there are. Raises ``ValueError`` for an unknown path; what
    PyTorch raises comes through.
    """
    import torch

    if path not in PATHS:
        raise ValueError(f"torch has no path {path!r} here; it has {', '.join(PATHS)}")
    example = torch.from_numpy(inputs["x"])
    shapes = ({0: torch.export.Dim("batch", min=1, max=1024)},)
    write = {"pt2-dynamic": _write_pt2, "onnx-dynamo-dynamic": _write_onnx}[path]
    with torch.no_grad(), _plain_attention():
        program = torch.export.export(trained.network, (example,), dynamic_shapes=shapes, strict=False)
        entry, facts = write(program, example, shapes, _described(trained.model).output, Path(folder))
    parameters = sum(weights.numel() for weights in trained.network.parameters())
    return {"entry": entry, "facts": {"weights": f"random, seed {trained.seed}", "parameters": parameters, **facts}}


def _write_pt2(program: Any, example: Any, shapes: Any, output: str, folder: Path) -> tuple[str, dict[str, Any]]:
    import torch

    torch.export.save(program, folder / "model.pt2")
    return "model.pt2", {"exporter": "torch.export"}


def _write_onnx(program: Any, example: Any, shapes: Any, output: str, folder: Path) -> tuple[str, dict[str, Any]]:
    import torch

    # It warns on every call that torchvision, which nothing here uses, is not installed.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.onnx.export(
        program,
        (example,),
        folder / "model.onnx",
        dynamo=True,
        dynamic_shapes=shapes,
        external_data=False,
        input_names=["x"],
        output_names=[output],
        opset_version=OPSET,
        verbose=False,
    )
    return "model.onnx", {"exporter": "torch.onnx dynamo=True", **_onnx_facts(folder / "model.onnx")}


def _onnx_facts(file: Path) -> dict[str, Any]:
    """Return what stands in the ONNX ``file``, which need not be what was asked for."""
    import onnx

    written = onnx.load(file)
    opset = next(entry.version for entry in written.opset_import if entry.domain in ("", "ai.onnx"))
    return {"opset": opset, "ir_version": written.ir_version}


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep PyTorch's fused transformer layer out of the program: one operator, which no other runtime knows."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(value=False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _described(model: str) -> Model:
    if model not in MODELS:
        raise NotImplementedError(f"torch has no model {model!r} here; it has {', '.join(MODELS)}")
    return MODELS[model]


# --- Weights --------------------------------------------------------------------------------------------------------


def _drawn(network: Any) -> Any:
    """Return ``network`` with the weights of its convolutions and linear layers drawn as He et al. 2015.

    Biases are drawn, too: zeros would hide one that is left out.
    """
    from torch import nn

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
    return network


def _settle(network: Any, noise: Any) -> None:
    """Make the statistics of one batch of noise those that batch normalization uses from now on."""
    import torch
    from torch import nn

    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(noise)


# --- Networks -------------------------------------------------------------------------------------------------------


def _chain(*layers: Any) -> Any:
    """Return ``nn.Sequential(*layers)`` with its argument called ``x``, since artifacts take the name over."""
    import torch
    from torch import nn

    class Chain(nn.Sequential):
        """One layer after the other."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x)

    return Chain(*layers)


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1, *, padding: int = -1, groups: int = 1) -> Any:
    """Return a convolution and its ReLU, padded by half of its size unless told otherwise."""
    from torch import nn

    padding = size // 2 if padding < 0 else padding
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, padding, groups=groups), nn.ReLU())


def _response_norm() -> Any:
    """Return the normalization of Krizhevsky et al. 2012; PyTorch takes the mean of five squares, they the sum."""
    from torch import nn

    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def _alexnet() -> Any:
    """Krizhevsky et al. 2012, in one piece: two groups of channels where the original had two processors."""
    from torch import nn

    return _drawn(
        _chain(
            *(_convolution(3, 96, 11, 4, padding=2), _response_norm(), nn.MaxPool2d(3, 2)),
            *(_convolution(96, 256, 5, groups=2), _response_norm(), nn.MaxPool2d(3, 2)),
            *(_convolution(256, 384, 3), _convolution(384, 384, 3, groups=2), _convolution(384, 256, 3, groups=2)),
            *(nn.MaxPool2d(3, 2), nn.Flatten(), nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, CLASSES)),
        )
    )


def _googlenet() -> Any:
    """Szegedy et al. 2014, table 1, without the auxiliary classifiers, which are there for training only."""
    import torch
    from torch import nn

    class Inception(nn.Module):
        """Four branches, joined along the channels; the widths are in the order of the table's columns."""

        def __init__(self, inputs: int, *widths: int) -> None:
            super().__init__()
            one, reduce3, three, reduce5, five, pool = widths
            self.one = _convolution(inputs, one, 1)
            self.three = nn.Sequential(_convolution(inputs, reduce3, 1), _convolution(reduce3, three, 3))
            self.five = nn.Sequential(_convolution(inputs, reduce5, 1), _convolution(reduce5, five, 5))
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _convolution(inputs, pool, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)

    def halved() -> Any:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return _drawn(
        _chain(
            *(_convolution(3, 64, 7, 2), halved(), _response_norm(), _convolution(64, 64, 1)),
            *(_convolution(64, 192, 3), _response_norm(), halved()),
            *(Inception(192, 64, 96, 128, 16, 32, 32), Inception(256, 128, 128, 192, 32, 96, 64), halved()),
            *(Inception(480, 192, 96, 208, 16, 48, 64), Inception(512, 160, 112, 224, 24, 64, 64)),
            *(Inception(512, 128, 128, 256, 24, 64, 64), Inception(512, 112, 144, 288, 32, 64, 64)),
            *(Inception(528, 256, 160, 320, 32, 128, 128), halved()),
            *(Inception(832, 256, 160, 320, 32, 128, 128), Inception(832, 384, 192, 384, 48, 128, 128)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.4), nn.Linear(1024, CLASSES)),
        )
    )


def _vgg16() -> Any:
    """Simonyan and Zisserman 2014, configuration D."""
    from torch import nn

    layers: list[Any] = []
    channels = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers.append(_convolution(channels, width, 3))
            channels = width
        layers.append(nn.MaxPool2d(2))
    return _drawn(
        _chain(
            *(*layers, nn.Flatten(), nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, CLASSES)),
        )
    )


def _resnet50() -> Any:
    """He et al. 2015; the stride is in the 3x3 convolution of a block, as in most implementations since."""
    import torch
    from torch import nn

    def normalized(inputs: int, outputs: int, size: int, stride: int = 1) -> Any:
        convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    class Bottleneck(nn.Module):
        """1x1, 3x3 and 1x1 to four times ``width`` channels, added to the input or to its projection."""

        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            self.reduce = normalized(inputs, width, 1)
            self.convolve = normalized(width, width, 3, stride)
            self.expand = normalized(width, 4 * width, 1)
            same = inputs == 4 * width
            self.shortcut = nn.Identity() if same else normalized(inputs, 4 * width, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            residual = torch.relu(self.convolve(torch.relu(self.reduce(x))))
            return torch.relu(self.expand(residual) + self.shortcut(x))

    blocks: list[Any] = []
    channels = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for number in range(depth):
            blocks.append(Bottleneck(channels, width, 1 if number else stride))
            channels = 4 * width
    return _drawn(
        _chain(
            *(normalized(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
            *(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, CLASSES)),
        )
    )


def _lstm() -> Any:
    """Four layers of 512 units over 64 steps, N x 64 x 512 to the last step's output, N x 512."""
    import torch
    from torch import nn

    class Reader(nn.Module):
        """No initial states are given, so none fixes the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(WIDTH, WIDTH, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cells(x)[0][:, -1]

    network = Reader()
    for name, weights in network.cells.named_parameters():
        # With weights of variance 1 / WIDTH, what tells one input from another halves from layer to layer; with three
        # times the deviation every layer's output is about 0.2 in size, and four fifths of that are the input's.
        scale = {"weight_ih": GAIN / WIDTH**0.5, "weight_hh": 1 / WIDTH**0.5}
        nn.init.normal_(weights, std=scale.get(name[:9], 0.1))
    return network


def _transformer() -> Any:
    """Vaswani et al. 2017, the encoder of the base model: N x 128 x 512 embedded tokens to as many."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        """PyTorch's own layers."""

        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(WIDTH, 8, 4 * WIDTH, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers(x)

    network = _drawn(Encoder())
    for layer in network.layers.layers:  # copies of one
        nn.init.normal_(layer.self_attn.in_proj_weight, std=WIDTH**-0.5)
    return network


#: How much larger than 1 / sqrt(inputs) the weights are with which an LSTM reads its input.
GAIN = 3.0

MODELS: dict[str, Model] = {
    "alexnet": Model(_alexnet, IMAGE),
    "googlenet": Model(_googlenet, IMAGE),
    "vgg16": Model(_vgg16, IMAGE),
    "resnet50": Model(_resnet50, IMAGE),
    "lstm": Model(_lstm, SEQUENCE, "last"),
    "transformer": Model(_transformer, TOKENS, "encoded"),
}
