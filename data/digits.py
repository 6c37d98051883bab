"""The digits data set: 1,797 real handwritten digits of 8x8 pixels, in the views that the reference models read.

Source: *Optical Recognition of Handwritten Digits*, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository (1998),
doi:10.24432/C50P49, licence CC BY 4.0, in the arrangement that scikit-learn distributes. See ``data/LICENSE.md``.
"""

import os
from collections import namedtuple

import numpy as np

#: The files that this data set is made of, beside this one: they are part of a recipe's digest.
FILES = ("digits.npz",)
VIEWS = ("image", "rows", "clip")
TARGETS = ("digit", "name")

#: Rows 0 to 1499 train, the other 297 are held out.
TRAIN_ROWS = 1500
#: Letters of the English digit names; number 0 is the end of the word (and what follows it).
ALPHABET = ".efghinorstuvwxz"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: The longest name has five letters; one more for the end.
NAME_LENGTH = 6
#: Frames of the moving digit in the view ``clip``.
FRAMES = 4

Data = namedtuple("Data", ("train_x", "train_y", "test_x", "test_y"))


def load(view, target, layout):
    """Return the data set as ``Data(train_x, train_y, test_x, test_y)``.

    Inputs are ``{"x": float32 array}`` with values from 0 to 1: view ``image`` is N x 1 x 8 x 8, ``rows`` N x 8 x 8 (a
    sequence of eight rows), ``clip`` N x 1 x 4 x 8 x 8 (the digit moving right by one pixel a frame); with ``layout``
    ``channels-last`` the axis of length 1 is the last one instead. Labels are int64: target ``digit`` is N, ``name`` is
    N x 6 (positions in ``ALPHABET``). Raises ``ValueError`` for any other view, target or layout.
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), FILES[0])
    with np.load(path, allow_pickle=False) as stored:
        pixels = stored["images"].astype(np.float32) / np.float32(16)
        digits = stored["labels"].astype(np.int64)
    x = _arrange(_view(pixels, view), view, layout)
    y = _labels(digits, target)
    cut = TRAIN_ROWS
    return Data({"x": x[:cut]}, y[:cut], {"x": x[cut:]}, y[cut:])


def _view(pixels, view):
    if view == "image":
        return pixels[:, None, :, :]
    if view == "rows":
        return pixels
    if view == "clip":
        frames = np.zeros((len(pixels), 1, FRAMES, 8, 8), np.float32)
        for shift in range(FRAMES):
            frames[:, 0, shift, :, shift:] = pixels[:, :, : 8 - shift]
        return frames
    raise ValueError("digits has no view %r; it has %s" % (view, ", ".join(VIEWS)))


def _arrange(x, view, layout):
    if layout not in ("channels-first", "channels-last"):
        raise ValueError("layout is %r; expected channels-first or channels-last" % (layout,))
    if layout == "channels-last" and view != "rows":
        x = np.moveaxis(x, 1, -1)
    return np.ascontiguousarray(x)


def _labels(digits, target):
    if target == "digit":
        return digits
    if target == "name":
        words = np.zeros((10, NAME_LENGTH), np.int64)
        for digit, name in enumerate(NAMES):
            words[digit, : len(name)] = [ALPHABET.index(letter) for letter in name]
        return words[digits]
    raise ValueError("digits has no target %r; it has %s" % (target, ", ".join(TARGETS)))
