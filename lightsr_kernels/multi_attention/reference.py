"""multi_attention in plain PyTorch: the specification."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    parts: list[Tensor],  # each [N, C_k, H, W]
    pixel_weights: list[Tensor],  # each [C_k, C_k, 1, 1]
    pixel_biases: list[Tensor],  # each [C_k]
    spatial_weights: list[Tensor],  # each [1, 2, K, K]
    down_weights: list[Tensor],  # each [R_k, C_k, 1, 1]
    down_biases: list[Tensor],  # each [R_k]
    up_weights: list[Tensor],  # each [C_k, R_k, 1, 1]
    up_biases: list[Tensor],  # each [C_k]
    out_weight: Tensor | None,  # [C_out, sum of C_k, 1, 1]
    out_bias: Tensor | None,  # [C_out]
    residual: Tensor | None,  # [N, C_out or sum of C_k, H, W]
) -> Tensor:  # [N, C_out or sum of C_k, H, W]
    attended = []
    for k, part in enumerate(parts):
        pixel = part * torch.sigmoid(F.conv2d(part, pixel_weights[k], pixel_biases[k]))
        seen = torch.cat([pixel.mean(1, keepdim=True), pixel.amax(1, keepdim=True)], 1)
        spatial = pixel * torch.sigmoid(F.conv2d(seen, spatial_weights[k], padding=spatial_weights[k].shape[-1] // 2))
        hidden = F.relu(F.conv2d(spatial.mean((2, 3), keepdim=True), down_weights[k], down_biases[k]))
        attended.append(spatial * torch.sigmoid(F.conv2d(hidden, up_weights[k], up_biases[k])))
    out = torch.cat(attended, 1)
    if out_weight is not None:
        out = F.conv2d(out, out_weight, out_bias)
    if residual is not None:
        out = out + residual
    return out
