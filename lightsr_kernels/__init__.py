"""Fused operators for lightweight super-resolution; each has a plain-PyTorch reference and gradients."""

from .accelerate import Acceleration, accelerate, restore
from .attended_conv import attended_conv
from .attention_maps import attention_maps
from .build import build_info
from .channel_attention import channel_attention
from .dense_conv import dense_conv
from .depthwise_conv import depthwise_conv
from .dispatch import BackendUnavailableError, Explanation, backend, explain
from .distillation_fusion import distillation_fusion
from .gated_feed_forward import gated_feed_forward
from .gated_pointwise import gated_pointwise
from .instance_norm import instance_norm
from .instance_norm_attention import instance_norm_attention
from .large_kernel_attention import large_kernel_attention
from .memory import release_memory
from .modules import DepthwiseConv2d
from .multi_attention import multi_attention
from .pixel_attention import pixel_attention
from .spatial_attention import spatial_attention
from .spec import SPECS
from .split_distillation import split_distillation
from .window_attention import window_attention

__version__ = "0.1.0"
__all__ = [
    "SPECS",
    "Acceleration",
    "BackendUnavailableError",
    "DepthwiseConv2d",
    "Explanation",
    "accelerate",
    "attended_conv",
    "attention_maps",
    "backend",
    "build_info",
    "channel_attention",
    "dense_conv",
    "depthwise_conv",
    "distillation_fusion",
    "explain",
    "gated_feed_forward",
    "gated_pointwise",
    "instance_norm",
    "instance_norm_attention",
    "large_kernel_attention",
    "multi_attention",
    "pixel_attention",
    "release_memory",
    "restore",
    "spatial_attention",
    "split_distillation",
    "window_attention",
]
