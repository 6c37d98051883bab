"""Converts a network that a test gives as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import caffe_writer
import numpy as np
import pytest
from caffe_running import Converted

from portmatrix.converters import caffe


@pytest.fixture
def convert(tmp_path: Path) -> Callable[..., Converted]:
    """Convert a network given as text; ``weights`` are blobs by layer, or the bytes of a weight file."""

    def converted(
        text: str, weights: Mapping[str, Sequence[np.ndarray]] | bytes | None = None, **options: Any
    ) -> Converted:
        files = [tmp_path / "net.prototxt"]
        files[0].write_text(text)
        if weights is not None:
            files.append(tmp_path / "net.caffemodel")
            files[1].write_bytes(weights if isinstance(weights, bytes) else caffe_writer.weights(weights))
        caffe.convert(files, tmp_path / "net.onnx", **options)
        return Converted(tmp_path / "net.onnx")

    return converted
