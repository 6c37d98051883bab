"""MNN on its CPU backend: turns a model of another framework into its own format when it loads it, and runs that."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENTS = {"": {"python": ">=3.11,<3.14", "requirements": ["MNN==3.6.1", "numpy==2.4.6"]}}
#: Format -> what MNN's converter calls it, and the files of an artifact by the converter's options; one without a name
#: is the artifact itself.
SOURCES = {
    "caffe": ("CAFFE", {"--prototxt": "model.prototxt", "--modelFile": "model.caffemodel"}),
    "onnx": ("ONNX", {"--modelFile": ""}),
    "tflite": ("TFLITE", {"--modelFile": ""}),
}
FORMATS = tuple(SOURCES)

#: ``WINOGRAD_MEMORY_LEVEL`` in MNN's ``Interpreter.hpp``. At its default, convolutions of 5 x 5 are off by 4e-4: the
#: larger a tile of Winograd's method, the more digits it cancels. Level 0 takes the smallest.
_WINOGRAD_LEVEL = 3
#: Not ``mnnconvert`` or anything else of ``MNN.tools``, which run pip to install a package that reports conversions.
_CONVERTER = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"

#: By default it takes recurrent layers apart: it dies of an LSTM that does not name its last cell state as an output,
#: and gets a GRU without ``linear_before_reset`` wrong.
_OPTIONS = ["--useOriginRNNImpl"]
#: Before a line that it prints: the time of day, and the line of MNN's source.
_STAMP = re.compile(r"^\[\d+:\d+:\d+\] (\S*:\d+: )?")
_ALWAYS = re.compile(r"The device supports|Start to |ONNX Model ")


class Session(NamedTuple):
    """A module, the names of its inputs and outputs in order, their layout, and the runtime that must outlive it."""

    module: Any
    inputs: list[str]
    outputs: list[str]
    layout: Any
    runtime: Any


def load(entry: str, format: str, signature: Mapping[str, Any], threads: int) -> Session:
    """Convert the artifact ``entry`` and load the result, to run on ``threads`` threads of the CPU.

    Raises ``RuntimeError`` with the converter's own words where it writes no model.
    """
    from MNN import expr, nn

    # As keywords MNN would take the number for a string.
    runtime = nn.create_runtime_manager(({"backend": "CPU", "precision": "high", "numThread": threads},))
    runtime.set_hint(_WINOGRAD_LEVEL, 0)
    with tempfile.TemporaryDirectory(prefix="portmatrix-mnn-") as folder:
        converted = Path(folder) / "model.mnn"
        _convert(entry, format, converted)
        module = nn.load_module_from_file(str(converted), [], [], runtime_manager=runtime)
    info = module.get_info()
    # Where it packs channels in fours (NC4HW4), that is its own affair: the model's layout is NCHW.
    layout = expr.NHWC if info["inputs"][0].data_format == expr.NHWC else expr.NCHW
    return Session(module, list(info["inputNames"]), list(info["outputNames"]), layout, runtime)


def input_names(session: Session) -> Sequence[str]:
    """Return the names of the model's inputs in order."""
    return session.inputs


def run(session: Session, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return every output by name, for a batch of any size; raises ``RuntimeError`` where MNN gives no outputs."""
    from MNN import expr

    given = [expr.const(inputs[name], list(inputs[name].shape), session.layout) for name in session.inputs]
    made = session.module.onForward(given)
    if len(made) != len(session.outputs):
        # MNN says why on standard output, and returns less than it should.
        raise RuntimeError(f"MNN gave {len(made)} outputs instead of {', '.join(session.outputs)}; the log says why")
    # Inside, MNN packs channels in fours; and what it reads out is its own memory.
    values = [expr.convert(value, session.layout).read().copy() for value in made]
    return {name: values[index] for index, name in enumerate(session.outputs)}


def degraded(session: Session) -> str:
    """Return an empty string: the CPU is the only backend asked for, and full precision is what it was told."""
    return ""


def _convert(entry: str, format: str, converted: Path) -> None:
    """Write the artifact as ``converted``; raises ``RuntimeError`` where the converter wrote nothing.

    In a process of its own: the converter dies on some files, and prints why rather than raise it.
    """
    called, files = SOURCES[format]
    command = ["-f", called, "--MNNModel", str(converted), "--bizCode", "portmatrix", *_OPTIONS]
    for option, name in files.items():
        command += [option, str(Path(entry) / name)]
    done = subprocess.run([sys.executable, "-c", _CONVERTER, *command], capture_output=True, check=False)
    words = _told(done.stdout + done.stderr)
    if done.returncode < 0:
        raise RuntimeError(f"MNN's converter died of {signal.Signals(-done.returncode).name}: {words}")
    # It tells of success by its status even where it printed that it failed.
    if done.returncode or not converted.exists():
        raise RuntimeError(f"MNN's converter wrote no model: {words}")


def _told(printed: bytes) -> str:
    """Return the end of what the converter printed in one line, without the time of day and what it always prints."""
    lines = [_STAMP.sub("", line).strip() for line in printed.decode(errors="replace").splitlines()]
    return " ".join(line for line in lines if line and not _ALWAYS.match(line))[-400:]
