"""instance_norm on the Triton kernels of instance_norm_attention."""

from __future__ import annotations

from ..instance_norm_attention.triton import PASSES
from .bound import bound
from .parts import parts

forward, forward_keeping, backward = bound(PASSES, parts)
