"""ONNX Runtime by its C interface, in a program of our own: what a deployment without an interpreter runs."""

from __future__ import annotations

ENVIRONMENTS = {
    "": {
        "requirements": ["onnxruntime==1.32.0"],
        "debian": ["libonnxruntime1.21"],
        # From 1.29 on the library reports to its maker from every system, unless told not to before it starts.
        "env": {"ORT_DISABLE_TELEMETRY": "1"},
        "library": {
            "linux": "onnxruntime/capi/libonnxruntime.so*",
            "macos": "onnxruntime/capi/libonnxruntime.*.dylib",
            "windows": "onnxruntime/capi/onnxruntime.dll",
            "debian": "usr/lib/*/libonnxruntime.so.1.21",
        },
    },
}
FORMATS = ("onnx",)
PROGRAM = "onnxruntime-c.c"
# Its library is the one that the Python package wraps.
KERNELS = "onnxruntime.py"
