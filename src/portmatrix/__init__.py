"""portmatrix: a deployment-portability test matrix for deep learning."""

__version__ = "0.1.0"
