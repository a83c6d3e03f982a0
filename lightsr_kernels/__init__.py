"""Fused operators for lightweight super-resolution; each has a plain-PyTorch reference and gradients."""

from .depthwise_conv import depthwise_conv
from .dispatch import BackendUnavailableError, Explanation, backend, explain
from .spec import SPECS

__version__ = "0.1.0"
__all__ = [
    "SPECS",
    "BackendUnavailableError",
    "Explanation",
    "backend",
    "depthwise_conv",
    "explain",
]
