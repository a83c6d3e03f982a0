"""channel_attention on the Triton kernels of instance_norm_attention."""

from __future__ import annotations

from ..instance_norm.bound import bound
from ..instance_norm_attention.triton import PASSES
from .parts import parts

forward, forward_keeping, backward = bound(PASSES, parts)
