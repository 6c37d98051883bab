"""LiteRT by its C interface, on the CPU, in a program of our own: what a deployment without an interpreter runs."""

from __future__ import annotations

ENVIRONMENTS = {
    "": {
        "requirements": ["ai-edge-litert==2.3.0"],
        "library": {
            "linux": "ai_edge_litert/libLiteRt.so",
            "macos": "ai_edge_litert/libLiteRt.dylib",
            "windows": "ai_edge_litert/libLiteRt.dll",
        },
    },
}
FORMATS = ("tflite",)
PROGRAM = "litert-c.c"
