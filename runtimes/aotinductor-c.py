"""AOTInductor by its C interface, in a program of our own on top of PyTorch's libraries: no interpreter is there."""

from __future__ import annotations

ENVIRONMENTS = {
    "": {
        # The wheels of other versions than this may be builds for CUDA, whose library does not load without it.
        "python": "==3.11.*",
        "requirements": ["torch==2.13.0"],
        # What it needs of PyTorch (libc10, libgomp) lies beside it.
        "library": {"linux": "torch/lib/libtorch_cpu.so"},
    },
}
FORMATS = ("aotinductor",)
#: An archive holds one library, for Linux.
SYSTEMS = ("linux",)
PROGRAM = "aotinductor-c.c"
