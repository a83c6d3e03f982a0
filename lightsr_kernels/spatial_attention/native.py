"""spatial_attention on the compiled kernels of instance_norm_attention, on the CPU and on CUDA alike."""

from __future__ import annotations

from ..instance_norm.bound import bound
from ..instance_norm_attention.native import PASSES
from .parts import parts

forward, forward_keeping, backward = bound(PASSES, parts)
