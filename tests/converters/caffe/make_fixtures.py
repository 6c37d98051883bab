"""Makes the fixtures of these tests with Caffe itself: run it in this folder, where ``import caffe`` works.

Caffe 1.0 is the package ``python3-caffe`` of Debian 11. For each network of ``caffe_cases.py`` it writes the network
file, its weights as Caffe saves them, and inputs and outputs, for the batch that the network declares and another one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("GLOG_minloglevel", "2")

import caffe
import numpy as np
from caffe_cases import CASES, OTHER_BATCH, OTHER_SHAPES


def fill_weights(net, random):
    """Give every layer weights that show a mistake: nothing is 0 or 1, variances are positive."""
    for name, blobs in net.params.items():
        kind = net.layers[list(net._layer_names).index(name)].type
        for index, blob in enumerate(blobs):
            blob.data[...] = random.normal(0, 0.5, blob.data.shape)
            if kind == "BatchNorm":
                blob.data[...] = [random.normal(0, 1, blob.data.shape), random.uniform(0.5, 3, blob.data.shape), 1.9][
                    index
                ]
                if name == "empty" and index == 2:
                    blob.data[...] = 0


def sample(name, shape, random):
    """Return an input; its name tells what it may hold."""
    if name == "index":
        return random.integers(0, 3, shape).astype(np.float32)
    if name in {"cont", "mark"}:
        return (random.uniform(size=shape) > 0.3).astype(np.float32)
    return random.uniform(-1, 1, shape).astype(np.float32)


def run(net, shapes, random):
    """Return inputs and outputs as one dictionary; ``shapes`` are those of blobs that get another shape first."""
    found = {}
    for name, shape in shapes.items():
        constant = net.blobs[name].data.flat[0]
        net.blobs[name].reshape(*shape)
        net.blobs[name].data[...] = constant
    for name in net.inputs:
        found[f"in:{name}"] = sample(name, net.blobs[name].data.shape, random)
        net.blobs[name].data[...] = found[f"in:{name}"]
    if shapes:
        net.reshape()
    for name, value in net.forward().items():
        found[f"out:{name}"] = value.copy()
    return found


def other_shapes(name, net):
    """Return the shapes of the inputs for another batch, by default those whose first axis has the first's size."""
    if name in OTHER_SHAPES and OTHER_SHAPES[name] is None:
        return {}
    first = net.blobs[net.inputs[0]].data.shape[0]
    shapes = {key: net.blobs[key].data.shape for key in net.inputs}
    own = {key: (OTHER_BATCH, *shape[1:]) for key, shape in shapes.items() if shape[0] == first}
    return {**own, **OTHER_SHAPES.get(name, {})}


def make(name: str, text: str, folder: Path, random: np.random.Generator) -> None:
    """Write the fixture of one network."""
    network, weights = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    network.write_text(text)
    net = caffe.Net(str(network), caffe.TEST)
    fill_weights(net, random)
    if net.params:
        net.save(str(weights))
    arrays = run(net, {}, random)
    net = caffe.Net(str(network), caffe.TEST, **({"weights": str(weights)} if net.params else {}))
    shapes = other_shapes(name, net)
    if shapes:
        arrays.update({f"other:{key}": value for key, value in run(net, shapes, random).items()})
    np.savez_compressed(folder / f"{name}.npz", **arrays)


def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent / "fixtures"
    wanted = sys.argv[2:] or list(CASES)
    for name in wanted:
        child = os.fork()
        if child == 0:
            make(name, CASES[name], folder, np.random.default_rng(sum(map(ord, name))))
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(f"{name}: Caffe ended", file=sys.stderr)


if __name__ == "__main__":
    main()
