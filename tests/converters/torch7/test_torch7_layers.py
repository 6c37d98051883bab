"""Each layer's translation, against what Torch7's sources say that it computes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import thnn
from onnx.reference import ReferenceEvaluator
from t7_writer import Obj, Sizes, module, save

from portmatrix.converters import torch7
from portmatrix.converters.torch7.builder import TRANSLATIONS
from portmatrix.converters.torch7.layers_recurrent import STEP_LAYERS

RNG = np.random.default_rng(7)
DOCUMENT = Path(__file__).parents[3] / "docs" / "converters" / "torch7.md"


def weights(*sizes: int) -> np.ndarray:
    return RNG.normal(size=sizes).astype(np.float32)


class Case(NamedTuple):
    """A layer, the shape of its input (or inputs) without the batch, and what it computes."""

    name: str
    layer: Obj
    shape: Any
    expected: Callable[..., Any]
    positive: bool = False


def seq(*layers: Obj) -> Obj:
    return module("Sequential", *layers)


def plain(kind: str, function: Callable[[Any], Any], positive: bool = False, **fields: Any) -> Case:
    return Case(
        kind + "".join(f" {k}={v}" for k, v in fields.items()), module(kind, **fields), (3, 4, 5), function, positive
    )


def plane_fields(kernel: Any, step: Any = (1, 1), pad: Any = (0, 0), axes: str = "HW", **more: Any) -> dict[str, Any]:
    fields = {}
    for stem, values in (("k", kernel), ("d", step), ("pad", pad)):
        fields.update({f"{stem}{axis}": value for axis, value in zip(axes, values, strict=False)})
    return {**fields, **more}


def softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


X2, X3, B4, W45 = weights(4, 6), weights(5), weights(4), weights(4, 5)
CW, CB = weights(6, 4, 3, 2), weights(6)
GW, DW, DB = weights(6, 2, 3, 2), weights(2, 4, 3, 3), weights(2, 4)
VW = weights(3, 2, 2, 3, 2)
FW, FB = weights(4, 3, 3, 2), weights(3)
TW, TB = weights(5, 3 * 4), weights(5)
MEAN, VAR = weights(4), np.abs(weights(4)) + 0.5
TABLE = weights(9, 3)
LW, LB = weights(3 + 5, 20), weights(20)
PW, PO = weights(3 + 2, 20), weights(5, 2)
RW, RB = weights(3 + 5, 15), weights(15)
LOCAL_W, LOCAL_B = weights(3, 4, 5, 2, 2, 2), weights(5, 3, 4)
PAIRS = np.array([[1, 1], [2, 1], [2, 3], [4, 2]], np.float32)
MAPW, MAPB = weights(4, 2, 3), weights(3)
BIL, BILB = weights(3, 4, 5), weights(3)
KERNEL = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32) / 16
STATS = {"running_mean": MEAN, "running_var": VAR, "eps": 1e-3}
MIDDLE = np.array([[1, 0], [0.5, 0.5], [0, 1]])

CASES = [
    plain("Tanh", np.tanh),
    plain("Sigmoid", thnn.sigmoid),
    plain("ReLU", lambda x: np.maximum(x, 0), threshold=0, val=0),
    plain("ReLU6", lambda x: np.clip(x, 0, 6)),
    plain("Threshold", lambda x: np.where(x > 0.5, x, -2), threshold=0.5, val=-2),
    plain("HardTanh", lambda x: np.clip(x, -1, 1)),
    plain("Clamp", lambda x: np.clip(x, -0.25, 0.75), min_val=-0.25, max_val=0.75),
    plain("HardShrink", lambda x: np.where(np.abs(x) > 0.5, x, 0), **{"lambda": 0.5}),
    plain("SoftShrink", lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0), **{"lambda": 0.5}),
    plain("TanhShrink", lambda x: x - np.tanh(x)),
    plain("ELU", lambda x: np.where(x > 0, x, 0.7 * (np.exp(x) - 1)), alpha=0.7),
    plain("LeakyReLU", lambda x: np.where(x > 0, x, 0.2 * x), negval=0.2),
    plain("RReLU", lambda x: np.where(x > 0, x, 0.25 * x), lower=0.2, upper=0.3),
    plain("SoftPlus", lambda x: np.log1p(np.exp(2 * x)) / 2, beta=2, threshold=20),
    plain("SoftPlus", lambda x: np.where(x > 1, x, np.log1p(np.exp(x))), beta=1, threshold=1),
    plain("SoftSign", lambda x: x / (1 + np.abs(x))),
    plain("LogSigmoid", lambda x: -np.log1p(np.exp(-x))),
    plain("Abs", np.abs),
    plain("Exp", np.exp),
    plain("Log", np.log, positive=True),
    plain("Sqrt", np.sqrt, positive=True),
    plain("Square", np.square),
    plain("Power", lambda x: x**1.5, positive=True, pow=1.5),
    plain("AddConstant", lambda x: x + 1.5, constant_scalar=1.5),
    plain("MulConstant", lambda x: x * 1.5, constant_scalar=1.5),
    plain("Dropout", lambda x: x, p=0.3, v2=True),
    plain("Dropout", lambda x: x * 0.7, p=0.3, v2=False),
    plain("Dropout", lambda x: x * 0.7, p=0.3),
    plain("SpatialDropout", lambda x: x * 0.7, p=0.3),
    plain("SoftMax", lambda x: softmax(x, 1)),
    plain("LogSoftMax", lambda x: np.log(softmax(x, 1))),
    plain("SoftMin", lambda x: softmax(-x, 1)),
    Case("SoftMax of vectors", module("SoftMax"), (6,), lambda x: softmax(x, 1)),
    Case(
        "PReLU of planes",
        module("PReLU", nOutputPlane=4, weight=B4),
        (4, 3, 2),
        lambda x: np.where(x > 0, x, x * B4.reshape(1, 4, 1, 1)),
    ),
    Case(
        "PReLU of one weight",
        module("PReLU", nOutputPlane=0, weight=B4[:1]),
        (4, 3),
        lambda x: np.where(x > 0, x, x * B4[0]),
    ),
    Case("Linear", module("Linear", weight=X2, bias=B4), (6,), lambda x: x @ X2.T + B4),
    Case("Linear without bias", module("Linear", weight=X2), (6,), lambda x: x @ X2.T),
    Case(
        "LinearWeightNorm",
        module("LinearWeightNorm", v=X2, g=B4.reshape(4, 1), weight=np.zeros(0, np.float32), bias=B4),
        (6,),
        lambda x: x @ (X2 * B4[:, None] / np.linalg.norm(X2, axis=1, keepdims=True)).T + B4,
    ),
    Case("Add", module("Add", bias=B4, scalar=False), (4,), lambda x: x + B4),
    Case("Mul", module("Mul", weight=B4[:1]), (4,), lambda x: x * B4[0]),
    Case("CMul", module("CMul", weight=W45, size=Sizes([4, 5])), (4, 5), lambda x: x * W45),
    Case(
        "CMul broadcast",
        module("CMul", weight=W45.reshape(1, 4, 5, 1), size=Sizes([1, 4, 5, 1])),
        (4, 5, 3),
        lambda x: x * W45.reshape(1, 4, 5, 1),
    ),
    Case("CAdd", module("CAdd", bias=W45, size=Sizes([4, 5])), (4, 5), lambda x: x + W45),
    Case(
        "Euclidean", module("Euclidean", weight=W45), (4,), lambda x: np.linalg.norm(x[:, :, None] - W45[None], axis=1)
    ),
    Case(
        "Cosine",
        module("Cosine", weight=X2),
        (6,),
        lambda x: x @ X2.T / np.linalg.norm(X2, axis=1) / np.linalg.norm(x, axis=1, keepdims=True),
    ),
    Case(
        "Bilinear",
        module("Bilinear", weight=BIL, bias=BILB),
        [(4,), (5,)],
        lambda a, b: np.einsum("bi,oij,bj->bo", a, BIL, b) + BILB,
    ),
    Case("Reshape", module("Reshape", size=Sizes([2, 6]), nelement=12), (3, 4), lambda x: x.reshape(-1, 2, 6)),
    Case("View of a sample", module("View", size=Sizes([12]), numElements=12), (3, 4), lambda x: x.reshape(-1, 12)),
    Case(
        "View with -1",
        module("View", size=Sizes([-1]), numElements=1, numInputDims=2),
        (3, 4),
        lambda x: x.reshape(-1, 12),
    ),
    Case("View of all", module("View", size=Sizes([-1, 4]), numElements=4), (3, 4), lambda x: x.reshape(-1, 4)),
    Case(
        "View of two parts",
        module("View", size=Sizes([2, 6]), numElements=12, numInputDims=2),
        (3, 4),
        lambda x: x.reshape(-1, 2, 6),
    ),
    Case(
        "InferReshape",
        module("InferReshape", size=Sizes([-1, 0]), batchMode=True),
        (4, 3, 2),
        lambda x: x.reshape(-1, 8, 3),
    ),
    Case("Transpose", module("Transpose", permutations=[[2, 3], [3, 4]]), (3, 4, 5), lambda x: x.transpose(0, 2, 3, 1)),
    Case(
        "Transpose of samples",
        module("Transpose", permutations=[[1, 2]], numInputDims=2),
        (3, 4),
        lambda x: x.transpose(0, 2, 1),
    ),
    Case("Replicate", module("Replicate", nfeatures=3, dim=1, ndim=2), (4, 5), lambda x: np.stack([x] * 3, 1)),
    Case("Unsqueeze", module("Unsqueeze", pos=1, numInputDims=2), (4, 5), lambda x: x[:, None]),
    Case("Squeeze", module("Squeeze", dim=1, numInputDims=2), (1, 5), lambda x: x[:, 0]),
    Case("Narrow", module("Narrow", dimension=2, index=2, length=2), (4, 5), lambda x: x[:, 1:3]),
    Case("Narrow to the end", module("Narrow", dimension=-1, index=2, length=-2), (4, 5), lambda x: x[:, :, 1:4]),
    Case("Select", module("Select", dimension=2, index=-1), (4, 5), lambda x: x[:, -1]),
    Case(
        "Padding before",
        module("Padding", dim=1, pad=-2, nInputDim=2, value=3, index=1),
        (4, 5),
        lambda x: np.pad(x, [(0, 0), (2, 0), (0, 0)], constant_values=3),
    ),
    Case(
        "Padding behind",
        module("Padding", dim=2, pad=2, nInputDim=2, value=0, index=1),
        (4, 5),
        lambda x: np.pad(x, [(0, 0), (0, 0), (0, 2)]),
    ),
    Case(
        "Padding within",
        module("Padding", dim=1, pad=-1, nInputDim=2, value=9, index=3),
        (4, 5),
        lambda x: np.insert(x, 2, 9, axis=1),
    ),
    Case(
        "Mean", module("Mean", dimension=1, nInputDims=2, sizeAverage=True, squeeze=True), (4, 5), lambda x: x.mean(1)
    ),
    Case(
        "Sum", module("Sum", dimension=-1, sizeAverage=False, squeeze=False), (4, 5), lambda x: x.sum(2, keepdims=True)
    ),
    Case("Max", module("Max", dimension=2), (4, 5), lambda x: x.max(1)),
    Case("Min", module("Min", dimension=2), (4, 5), lambda x: x.min(1)),
    Case("Normalize", module("Normalize", p=2, eps=1e-10), (6,), lambda x: x / np.sqrt((x**2).sum(1, keepdims=True))),
    Case(
        "Normalize of norm 3",
        module("Normalize", p=3, eps=1e-10),
        (6,),
        lambda x: x / (np.abs(x) ** 3).sum(1, keepdims=True) ** (1 / 3),
    ),
    Case(
        "SpatialZeroPadding",
        module("SpatialZeroPadding", pad_l=1, pad_r=2, pad_t=-1, pad_b=0),
        (2, 4, 5),
        lambda x: np.pad(x[:, :, 1:], [(0, 0), (0, 0), (0, 0), (1, 2)]),
    ),
    Case(
        "SpatialReflectionPadding",
        module("SpatialReflectionPadding", pad_l=1, pad_r=2, pad_t=2, pad_b=1),
        (2, 4, 5),
        lambda x: np.pad(x, [(0, 0), (0, 0), (2, 1), (1, 2)], mode="reflect"),
    ),
    Case(
        "SpatialReplicationPadding",
        module("SpatialReplicationPadding", pad_l=1, pad_r=2, pad_t=2, pad_b=1),
        (2, 4, 5),
        lambda x: np.pad(x, [(0, 0), (0, 0), (2, 1), (1, 2)], mode="edge"),
    ),
    Case(
        "SpatialConvolution",
        module(
            "SpatialConvolution",
            nInputPlane=4,
            nOutputPlane=6,
            weight=CW,
            bias=CB,
            **plane_fields((3, 2), (2, 1), (1, 1)),
        ),
        (4, 7, 6),
        lambda x: thnn.conv(x, CW, CB, (2, 1), (1, 1)),
    ),
    Case(
        "SpatialConvolutionMM of the old form",
        module(
            "SpatialConvolutionMM",
            nInputPlane=4,
            nOutputPlane=6,
            weight=CW.reshape(6, -1),
            bias=CB,
            kH=3,
            kW=2,
            dH=1,
            dW=2,
            padding=1,
        ),
        (4, 7, 6),
        lambda x: thnn.conv(x, CW, CB, (1, 2), (1, 1)),
    ),
    Case(
        "cudnn.SpatialConvolution in groups",
        module(
            "cudnn.SpatialConvolution",
            nInputPlane=4,
            nOutputPlane=6,
            groups=2,
            weight=GW,
            bias=CB,
            **plane_fields((3, 2)),
        ),
        (4, 7, 6),
        lambda x: thnn.conv(x, GW, CB, (1, 1), (0, 0), groups=2),
    ),
    Case(
        "SpatialDilatedConvolution",
        module(
            "SpatialDilatedConvolution",
            nInputPlane=4,
            nOutputPlane=6,
            weight=CW,
            bias=CB,
            dilationH=2,
            dilationW=3,
            **plane_fields((3, 2), (1, 1), (2, 0)),
        ),
        (4, 7, 6),
        lambda x: thnn.conv(x, CW, CB, (1, 1), (2, 0), (2, 3)),
    ),
    Case(
        "SpatialDepthWiseConvolution",
        module(
            "SpatialDepthWiseConvolution", nInputPlane=4, nOutputPlane=2, weight=DW, bias=DB, **plane_fields((3, 3))
        ),
        (4, 6, 5),
        lambda x: thnn.conv(
            x, DW.transpose(1, 0, 2, 3).reshape(8, 1, 3, 3), DB.T.reshape(-1), (1, 1), (0, 0), groups=4
        ),
    ),
    Case(
        "SpatialConvolutionMap",
        module(
            "SpatialConvolutionMap",
            nInputPlane=4,
            nOutputPlane=3,
            connTable=PAIRS,
            weight=MAPW,
            bias=MAPB,
            kH=2,
            kW=3,
            dH=1,
            dW=1,
        ),
        (4, 5, 6),
        lambda x: np.stack(
            [
                sum(
                    (
                        thnn.conv(x[:, int(i) - 1 : int(i)], MAPW[n][None, None], None, (1, 1), (0, 0))[:, 0]
                        for n, (i, o) in enumerate(PAIRS)
                        if o == plane + 1
                    )
                )
                + MAPB[plane]
                for plane in range(3)
            ],
            1,
        ),
    ),
    Case(
        "SpatialConvolutionLocal",
        module(
            "SpatialConvolutionLocal",
            nInputPlane=2,
            nOutputPlane=5,
            iH=4,
            iW=5,
            oH=3,
            oW=4,
            weight=LOCAL_W,
            bias=LOCAL_B,
            **plane_fields((2, 2)),
        ),
        (2, 4, 5),
        lambda x: (
            np.stack(
                [
                    np.stack(
                        [np.einsum("bcij,ocij->bo", x[:, :, r : r + 2, c : c + 2], LOCAL_W[r, c]) for c in range(4)], -1
                    )
                    for r in range(3)
                ],
                -2,
            )
            + LOCAL_B
        ),
    ),
    Case(
        "SpatialFullConvolution",
        module(
            "SpatialFullConvolution",
            nInputPlane=4,
            nOutputPlane=3,
            weight=FW,
            bias=FB,
            adjH=1,
            adjW=0,
            **plane_fields((3, 2), (2, 1), (1, 0)),
        ),
        (4, 5, 6),
        lambda x: thnn.full_conv(x, FW, FB, (2, 1), (1, 0), (1, 0))[:, :, :],
    ),
    Case(
        "VolumetricConvolution",
        module(
            "VolumetricConvolution",
            nInputPlane=2,
            nOutputPlane=3,
            weight=VW,
            bias=FB,
            **plane_fields((2, 3, 2), (1, 2, 1), (1, 0, 1), "THW"),
        ),
        (2, 4, 5, 6),
        lambda x: thnn.conv(x, VW, FB, (1, 2, 1), (1, 0, 1)),
    ),
    Case(
        "TemporalConvolution",
        module("TemporalConvolution", inputFrameSize=4, outputFrameSize=5, kW=3, dW=2, weight=TW, bias=TB),
        (8, 4),
        lambda x: thnn.conv(x.transpose(0, 2, 1), TW.reshape(5, 3, 4).transpose(0, 2, 1), TB, (2,), (0,)).transpose(
            0, 2, 1
        ),
    ),
    Case(
        "TemporalMaxPooling",
        module("TemporalMaxPooling", kW=3, dW=2),
        (8, 4),
        lambda x: thnn.max_pool(x.transpose(0, 2, 1), (3,), (2,), (0,), ceil=False).transpose(0, 2, 1),
    ),
    Case(
        "TemporalSubSampling",
        module("TemporalSubSampling", kW=3, dW=2, weight=B4, bias=MEAN),
        (8, 4),
        lambda x: np.stack([x[:, t : t + 3].sum(1) for t in (0, 2, 4)], 1) * B4 + MEAN,
    ),
    Case(
        "SpatialSubSampling",
        module("SpatialSubSampling", weight=B4, bias=MEAN, kH=2, kW=2, dH=2, dW=2),
        (4, 4, 6),
        lambda x: (
            4 * thnn.average_pool(x, (2, 2), (2, 2), (0, 0), ceil=False, include=True) * B4.reshape(1, 4, 1, 1)
            + MEAN.reshape(1, 4, 1, 1)
        ),
    ),
    *(
        Case(
            f"SpatialMaxPooling {kernel} {step} {pad} {ceil}",
            module("SpatialMaxPooling", ceil_mode=ceil, **plane_fields(kernel, step, pad)),
            (2, 8, 7),
            lambda x, k=kernel, s=step, p=pad, c=ceil: thnn.max_pool(x, k, s, p, ceil=c),
        )
        for kernel, step, pad in (((3, 3), (2, 2), (0, 0)), ((3, 2), (2, 3), (1, 1)), ((2, 3), (3, 2), (1, 0)))
        for ceil in (False, True)
    ),
    Case(
        "SpatialDilatedMaxPooling",
        module(
            "SpatialDilatedMaxPooling", dilationH=2, dilationW=2, ceil_mode=True, **plane_fields((2, 3), (2, 2), (1, 1))
        ),
        (2, 8, 7),
        lambda x: thnn.max_pool(x, (2, 3), (2, 2), (1, 1), ceil=True, dilation=(2, 2)),
    ),
    Case(
        "VolumetricMaxPooling",
        module("VolumetricMaxPooling", ceil_mode=True, **plane_fields((2, 2, 3), (2, 2, 2), (0, 1, 1), "THW")),
        (2, 4, 5, 6),
        lambda x: thnn.max_pool(x, (2, 2, 3), (2, 2, 2), (0, 1, 1), ceil=True),
    ),
    *(
        Case(
            f"SpatialAveragePooling {kernel} {step} {pad} {ceil} {include}",
            module(
                "SpatialAveragePooling",
                ceil_mode=ceil,
                count_include_pad=include,
                divide=True,
                **plane_fields(kernel, step, pad),
            ),
            (2, 8, 7),
            lambda x, k=kernel, s=step, p=pad, c=ceil, i=include: thnn.average_pool(x, k, s, p, ceil=c, include=i),
        )
        for kernel, step, pad in (((3, 3), (2, 2), (0, 0)), ((3, 2), (2, 3), (1, 1)), ((2, 3), (3, 2), (1, 0)))
        for ceil in (False, True)
        for include in (False, True)
    ),
    Case(
        "SpatialAveragePooling of an old file",
        module("SpatialAveragePooling", kH=2, kW=3, dH=2, dW=2),
        (2, 8, 7),
        lambda x: 6 * thnn.average_pool(x, (2, 3), (2, 2), (0, 0), ceil=False, include=True),
    ),
    Case(
        "VolumetricAveragePooling",
        module("VolumetricAveragePooling", **plane_fields((2, 2, 3), (2, 2, 2), (), "THW")),
        (2, 4, 5, 6),
        lambda x: thnn.average_pool(x, (2, 2, 3), (2, 2, 2), (0, 0, 0), ceil=False, include=True),
    ),
    Case(
        "SpatialAdaptiveMaxPooling",
        module("SpatialAdaptiveMaxPooling", H=3, W=2),
        (2, 8, 7),
        lambda x: np.stack(
            [
                np.stack(
                    [
                        x[:, :, r * 8 // 3 : -(-(r + 1) * 8 // 3), c * 7 // 2 : -(-(c + 1) * 7 // 2)].max((2, 3))
                        for c in range(2)
                    ],
                    -1,
                )
                for r in range(3)
            ],
            -2,
        ),
    ),
    Case(
        "SpatialAdaptiveAveragePooling",
        module("SpatialAdaptiveAveragePooling", H=3, W=2),
        (2, 8, 7),
        lambda x: np.stack(
            [
                np.stack(
                    [
                        x[:, :, r * 8 // 3 : -(-(r + 1) * 8 // 3), c * 7 // 2 : -(-(c + 1) * 7 // 2)].mean((2, 3))
                        for c in range(2)
                    ],
                    -1,
                )
                for r in range(3)
            ],
            -2,
        ),
    ),
    Case(
        "SpatialUpSamplingNearest",
        module("SpatialUpSamplingNearest", scale_factor=3),
        (2, 3, 4),
        lambda x: x.repeat(3, 2).repeat(3, 3),
    ),
    Case(
        "SpatialUpSamplingBilinear",
        module("SpatialUpSamplingBilinear", scale_factor=2),
        (1, 2, 2),
        lambda x: np.einsum("pi,bcij,qj->bcpq", MIDDLE, x, MIDDLE),
    ),
    Case(
        "PixelShuffle",
        module("PixelShuffle", upscaleFactor=2),
        (8, 3, 4),
        lambda x: x.reshape(-1, 2, 2, 2, 3, 4).transpose(0, 1, 4, 2, 5, 3).reshape(-1, 2, 6, 8),
    ),
    Case(
        "BatchNormalization",
        module("BatchNormalization", weight=B4, bias=MEAN, **STATS),
        (4,),
        lambda x: (x - MEAN) / np.sqrt(VAR + 1e-3) * B4 + MEAN,
    ),
    Case(
        "SpatialBatchNormalization of version 1",
        module(
            "SpatialBatchNormalization",
            running_mean=MEAN,
            eps=1e-3,
            running_std=(1 / np.sqrt(VAR + 1e-3)).astype(np.float32),
        ),
        (4, 2, 3),
        lambda x: (x - MEAN.reshape(1, 4, 1, 1)) / np.sqrt(VAR.reshape(1, 4, 1, 1) + 1e-3),
    ),
    *(
        Case(
            f"SpatialCrossMapLRN of {size}",
            module("SpatialCrossMapLRN", size=size, alpha=0.5, beta=0.75, k=2),
            (4, 2, 3),
            lambda x, s=size: thnn.lrn(x, s, 0.5, 0.75, 2),
        )
        for size in (3, 4, 5)
    ),
    Case(
        "SpatialSubtractiveNormalization",
        module(
            "SpatialSubtractiveNormalization",
            nInputPlane=2,
            meanestimator=seq(
                module("SpatialZeroPadding", pad_l=1, pad_r=1, pad_t=1, pad_b=1),
                module(
                    "SpatialConvolution",
                    nInputPlane=2,
                    nOutputPlane=1,
                    weight=np.stack([KERNEL, KERNEL])[None] / 2,
                    bias=np.zeros(1, np.float32),
                    **plane_fields((3, 3)),
                ),
                module("Replicate", nfeatures=2, dim=1, ndim=3),
            ),
        ),
        (2, 4, 5),
        lambda x: (
            x
            - thnn.conv(x, np.stack([KERNEL, KERNEL])[None] / 2, None, (1, 1), (1, 1))
            / thnn.conv(np.ones_like(x), np.stack([KERNEL, KERNEL])[None] / 2, None, (1, 1), (1, 1))
        ),
    ),
    Case(
        "JoinTable",
        seq(module("ConcatTable", module("Tanh"), module("Identity")), module("JoinTable", dimension=1, nInputDims=2)),
        (3, 4),
        lambda x: np.concatenate([np.tanh(x), x], 1),
    ),
    Case(
        "Concat",
        module("Concat", module("Tanh"), module("Abs"), dimension=2),
        (3, 4),
        lambda x: np.concatenate([np.tanh(x), np.abs(x)], 1),
    ),
    Case(
        "DepthConcat",
        module("DepthConcat", module("Identity"), module("SpatialMaxPooling", **plane_fields((2, 4))), dimension=2),
        (2, 5, 6),
        lambda x: np.concatenate(
            [x, np.pad(thnn.max_pool(x, (2, 4), (1, 1), (0, 0), ceil=False), [(0, 0), (0, 0), (0, 1), (1, 2)])], 1
        ),
    ),
    Case(
        "Parallel",
        module("Parallel", module("Tanh"), module("Abs"), inputDimension=2, outputDimension=2),
        (2, 4),
        lambda x: np.concatenate([np.tanh(x[:, 0]), np.abs(x[:, 1])], 1),
    ),
    Case(
        "SplitTable and the rest",
        seq(
            module("SplitTable", dimension=1, nInputDims=2),
            module("ParallelTable", module("Tanh"), module("Abs"), module("Identity")),
            module("NarrowTable", offset=2, length=2),
            module("CSubTable"),
        ),
        (3, 4),
        lambda x: np.abs(x[:, 1]) - x[:, 2],
    ),
    *(
        Case(kind, seq(module("ConcatTable", module("Exp"), module("Identity")), module(kind)), (3, 4), function)
        for kind, function in {
            "CAddTable": lambda x: np.exp(x) + x,
            "CMulTable": lambda x: np.exp(x) * x,
            "CDivTable": lambda x: np.exp(x) / x,
            "CMaxTable": lambda x: np.maximum(np.exp(x), x),
            "CMinTable": lambda x: np.minimum(np.exp(x), x),
            "CAveTable": lambda x: (np.exp(x) + x) / 2,
        }.items()
    ),
    Case(
        "SelectTable",
        seq(
            module("ConcatTable", module("ConcatTable", module("Exp"), module("Abs")), module("Tanh")),
            module("FlattenTable"),
            module("SelectTable", index=-2),
        ),
        (3,),
        np.abs,
    ),
    Case(
        "MapTable",
        seq(
            module("ConcatTable", module("Exp"), module("Abs")), module("MapTable", module("Tanh")), module("CAddTable")
        ),
        (3,),
        lambda x: np.tanh(np.exp(x)) + np.tanh(np.abs(x)),
    ),
    Case(
        "Bottle",
        module("Bottle", module("Linear", weight=X2, bias=B4), nInputDim=2, nOutputDim=2),
        (3, 6),
        lambda x: x @ X2.T + B4,
    ),
    Case("MM", module("MM", transA=False, transB=True), [(3, 4), (5, 4)], lambda a, b: a @ b.transpose(0, 2, 1)),
    Case("MV", module("MV", trans=True), [(4, 3), (4,)], lambda m, v: np.einsum("bij,bi->bj", m, v)),
    Case("DotProduct", module("DotProduct"), [(4,), (4,)], lambda a, b: (a * b).sum(1)),
    Case(
        "CosineDistance",
        module("CosineDistance"),
        [(4,), (4,)],
        lambda a, b: (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1),
    ),
    Case("PairwiseDistance", module("PairwiseDistance", norm=1), [(4,), (4,)], lambda a, b: np.abs(a - b).sum(1)),
    Case(
        "Constant",
        seq(module("ConcatTable", module("Constant", value=B4, nInputDim=1), module("Identity")), module("CAddTable")),
        (4,),
        lambda x: x + B4,
    ),
    Case(
        "SeqLSTM batch first",
        module("SeqLSTM", weight=LW, bias=LB, batchfirst=True),
        (6, 3),
        lambda x: thnn.seq_lstm(x.transpose(1, 0, 2), LW, LB).transpose(1, 0, 2),
    ),
    Case(
        "SeqLSTM time first",
        seq(
            module("Transpose", permutations=[[1, 2]]),
            module("SeqLSTM", weight=LW, bias=LB),
            module("Transpose", permutations=[[1, 2]]),
        ),
        (6, 3),
        lambda x: thnn.seq_lstm(x.transpose(1, 0, 2), LW, LB).transpose(1, 0, 2),
    ),
    Case(
        "SeqLSTMP",
        module("SeqLSTMP", weight=PW, bias=LB, weightO=PO, batchfirst=True),
        (6, 3),
        lambda x: thnn.seq_lstm(x.transpose(1, 0, 2), PW, LB, PO).transpose(1, 0, 2),
    ),
    Case(
        "SeqGRU",
        module("SeqGRU", weight=RW, bias=RB, batchfirst=True),
        (6, 3),
        lambda x: thnn.seq_gru(x.transpose(1, 0, 2), RW, RB).transpose(1, 0, 2),
    ),
]


def inputs_of(case: Case, batch: int) -> list[np.ndarray]:
    shapes = case.shape if isinstance(case.shape, list) else [case.shape]
    rng = np.random.default_rng(3)
    found = [rng.normal(size=(batch, *shape)).astype(np.float32) for shape in shapes]
    return [np.abs(x) + np.float32(0.1) for x in found] if case.positive else found


def converted(case: Case, folder: Path) -> Path:
    file = save(case.layer, folder / "net.t7")
    shape = None if isinstance(case.shape, list) else ("batch", *case.shape)
    if shape is None:
        starts = [module("Copy") for _ in case.shape]
        tables = {len(part) for part in case.shape}
        if tables != {1} or case.name in ("DotProduct", "CosineDistance", "PairwiseDistance"):
            starts = [module("CMul", weight=np.ones(part, np.float32), size=Sizes(part)) for part in case.shape]
        else:
            starts = [module("Linear", weight=np.eye(part[0], dtype=np.float32)) for part in case.shape]
        file = save(seq(module("ParallelTable", *starts), case.layer), file)
    return torch7.convert([file], folder / "net.onnx", input_shape=shape).file


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_layer_computes_what_torch7_does(case: Case, tmp_path: Path) -> None:
    file = converted(case, tmp_path)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for batch in (3, 2):
        inputs = inputs_of(case, batch)
        feed = {value.name: x for value, x in zip(session.get_inputs(), inputs, strict=True)}
        expected = np.asarray(case.expected(*(x.astype(np.float64) for x in inputs)))
        (got,) = session.run(None, feed)
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    if "LRN" not in case.name:  # onnx's reference loops over the batch in place of the planes
        (reference,) = ReferenceEvaluator(str(file)).run(None, feed)
        assert np.abs(reference - expected).max() <= 1e-5 * max(1, np.abs(expected).max())
    newest = onnx.version_converter.convert_version(onnx.load(file), onnx.defs.onnx_opset_version())
    onnx.checker.check_model(newest, full_check=True)


def test_the_document_names_every_layer() -> None:
    named = set(re.findall(r"`(\w+)`", DOCUMENT.read_text(encoding="utf-8").split("## Layers")[1].split("\n## ")[0]))
    assert named == {*TRANSLATIONS, *STEP_LAYERS}
