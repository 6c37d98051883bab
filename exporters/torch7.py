"""Torch7, the Lua framework before PyTorch: the reference models trained by a Lua program, saved as .t7 files.

Owns that program and how it is called. It has never been run as it stands: no machine at hand had Torch7. The models in
``archive/torch7`` were trained elsewhere with networks and steps like these.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ENVIRONMENT = {
    "interpreter": False,
    "container": "torch7",
    "env": {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
}
LAYOUT = "channels-first"
PATHS = {
    "native": {"kind": "native", "format": "torch7", "batch": "dynamic"},
    "onnx": {"kind": "onnx", "format": "onnx", "batch": "static", "converter": "torch7", "source": "native"},
    "onnx-dynamic": {"kind": "onnx", "format": "onnx", "batch": "dynamic", "converter": "torch7", "source": "native"},
}

FAMILIES = ("mlp", "alexnet", "vgg", "googlenet", "resnet", "conv1d", "conv3d")
#: Models that Torch7 needs its extension rnn for, which the distribution does not have.
RECURRENT = ("rnn", "lstm", "gru", "birnn")

_SHARED = """
require 'torch'; require 'nn'
torch.setdefaulttensortype('torch.FloatTensor'); torch.setnumthreads(1)
local function read(name, sizes)
  local count = 1
  for _, size in ipairs(sizes) do count = count * size end
  local file = torch.DiskFile(name, 'r'):binary(); local values = torch.FloatTensor(file:readFloat(count)); file:close()
  return values:view(torch.LongStorage(sizes))
end
local sizes = {}
for size in string.gmatch(arg[2], '%d+') do sizes[#sizes + 1] = tonumber(size) end
"""

_TRAIN = """
local model, seed, epochs, x = arg[1], tonumber(arg[3]), 30, read('x.bin', sizes)
local rows, y = sizes[1], read('y.bin', {sizes[1]})
torch.manualSeed(seed)
local function conv(i, o, k) return nn.SpatialConvolution(i, o, k, k, 1, 1, (k - 1) / 2, (k - 1) / 2) end
local function pool(k) return nn.SpatialMaxPooling(k, k, 2, 2) end
local function chain(...)
  local net = nn.Sequential()
  for _, layer in ipairs{...} do net:add(layer) end
  return net
end
local function flat(dimensions) return nn.View(-1):setNumInputDims(dimensions) end
local build = {}
function build.mlp() return chain(flat(3), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10)) end
function build.alexnet() return chain(conv(1, 16, 3), nn.ReLU(),
  nn.SpatialCrossMapLRN(5, 0.0001, 0.75, 1), pool(3):ceil(), conv(16, 24, 3), nn.ReLU(), pool(2), flat(3),
  nn.Dropout(0.5), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10)) end
function build.vgg() return chain(conv(1, 12, 3), nn.ReLU(), conv(12, 12, 3), nn.ReLU(), pool(2),
  conv(12, 24, 3), nn.ReLU(), conv(24, 24, 3), nn.ReLU(), pool(2), flat(3), nn.Linear(96, 32), nn.ReLU(),
  nn.Linear(32, 10)) end
function build.googlenet() return chain(conv(1, 16, 3), nn.ReLU(), nn.SpatialCrossMapLRN(5, 0.0001, 0.75, 1),
  nn.DepthConcat(2):add(chain(conv(16, 12, 1), nn.ReLU()))
    :add(chain(conv(16, 8, 1), nn.ReLU(), conv(8, 12, 3), nn.ReLU()))
    :add(chain(conv(16, 6, 1), nn.ReLU(), conv(6, 8, 5), nn.ReLU()))
    :add(chain(nn.SpatialMaxPooling(3, 3, 1, 1, 1, 1), conv(16, 8, 1), nn.ReLU())),
  pool(2), nn.SpatialAveragePooling(2, 2, 2, 2), flat(3), nn.Linear(160, 10)) end
function build.resnet() return chain(conv(1, 16, 3), nn.SpatialBatchNormalization(16), nn.ReLU(),
  nn.ConcatTable():add(chain(conv(16, 16, 3), nn.SpatialBatchNormalization(16), nn.ReLU(), conv(16, 16, 3),
    nn.SpatialBatchNormalization(16))):add(nn.Identity()),
  nn.CAddTable(), nn.ReLU(), nn.SpatialAveragePooling(8, 8, 1, 1), flat(3), nn.Linear(16, 10)) end
function build.conv1d() return chain(nn.TemporalConvolution(8, 24, 3), nn.ReLU(), nn.TemporalMaxPooling(2), flat(2),
  nn.Linear(72, 10)) end
function build.conv3d() return chain(nn.VolumetricConvolution(1, 8, 3, 3, 3, 1, 1, 1, 1, 1, 1), nn.ReLU(),
  nn.VolumetricMaxPooling(2, 2, 2, 2, 2, 2), flat(4), nn.Linear(256, 10)) end

local net = build[model]()
local trained, criterion = nn.Sequential():add(net):add(nn.LogSoftMax()), nn.ClassNLLCriterion()
local p, g = trained:getParameters(); local m, v, t = p:clone():zero(), p:clone():zero(), 0
trained:training()
for epoch = 1, epochs do
  local order = torch.randperm(rows):long()
  for i = 1, rows - 63, 64 do
    local chosen = order:narrow(1, i, 64); local xs, ys = x:index(1, chosen), y:index(1, chosen); g:zero()
    local out = trained:forward(xs); criterion:forward(out, ys); trained:backward(xs, criterion:backward(out, ys))
    t = t + 1; m:mul(.9):add(.1, g); v:mul(.999):addcmul(.001, g, g)
    p:addcdiv(-0.005 * math.sqrt(1 - .999 ^ t) / (1 - .9 ^ t), m, torch.sqrt(v):add(1e-8))
  end
end
net:evaluate(); net:clearState(); torch.save('model.t7', net)
"""

_PREDICT = """
local net = torch.load('model.t7'); net:evaluate()
local out = net:forward(read('x.bin', sizes)):contiguous()
local file = torch.DiskFile('y.bin', 'w'):binary(); file:writeFloat(out:storage()); file:close()
"""


class Trained(NamedTuple):
    """A trained network: the bytes of its .t7 file."""

    content: bytes


def train(model: str, data: Any, seed: int) -> Trained:
    """Train ``model`` with Torch7 on one thread and return it; the Lua program has never been run (see above).

    Raises ``NotImplementedError`` for a model that Torch7 as packaged cannot express or that has no network here.
    """
    if model in RECURRENT:
        raise NotImplementedError(
            f"{model}: Debian has Torch7 without its extension rnn, which holds the recurrent layers; the archive has "
            "a model that was trained with it"
        )
    if model not in FAMILIES:
        raise NotImplementedError(f"torch7 has no model {model!r}; it has {', '.join(FAMILIES)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = data.train_y.astype(np.float32) + 1  # Lua counts from 1
        labels.tofile(str(folder / "y.bin"))
        _run(_SHARED + _TRAIN, folder, model, data.train_x["x"], seed)
        return Trained((folder / "model.t7").read_bytes())


def predict(trained: Trained, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return Torch7's own logits, N x 10 float32, in evaluation mode and for any batch size."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.t7").write_bytes(trained.content)
        _run(_SHARED + _PREDICT, folder, "-", inputs["x"], 0)
        return {"logits": np.fromfile(str(folder / "y.bin"), np.float32).reshape(len(inputs["x"]), -1)}


def export(trained: Trained, path: str, inputs: dict[str, np.ndarray], folder: str) -> dict[str, Any]:
    """Write ``model.t7``, Torch7's binary serialization, below ``folder``. Raises ``ValueError`` for another path."""
    if path != "native":
        raise ValueError(f"torch7 writes no path {path!r} itself; it writes native")
    (Path(folder) / "model.t7").write_bytes(trained.content)
    return {"entry": "model.t7", "facts": {"exporter": "torch.save", "bytes": len(trained.content)}}


def _run(program: str, folder: Path, model: str, x: np.ndarray, seed: int) -> None:
    """Run a Lua program in ``folder``, with the input in ``x.bin`` and its sizes as an argument."""
    lua = shutil.which("luajit") or shutil.which("th")
    if lua is None:
        raise FileNotFoundError("neither luajit nor th is here; Torch7 is run in the container torch7")
    np.ascontiguousarray(x, np.float32).tofile(str(folder / "x.bin"))
    (folder / "program.lua").write_text(program, encoding="ascii")
    sizes = "x".join(str(size) for size in x.shape)
    command = [lua, "program.lua", model, sizes, str(seed)]
    done = subprocess.run(command, cwd=str(folder), capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Torch7 failed: {done.stderr.decode('utf-8', 'replace')[-2000:]}")
