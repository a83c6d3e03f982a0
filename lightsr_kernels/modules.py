"""DepthwiseConv2d: depthwise_conv as a module that stands wherever a depthwise nn.Conv2d stood."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .checks import check_choice
from .depthwise_conv import depthwise_conv
from .functional import ACTIVATIONS

LARGEST = 31  # pixels a side of a filter


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, same size out as in, computed by `lightsr_kernels.depthwise_conv`.

    Takes the arguments of nn.Conv2d and has its parameters and state_dict, so weights go both ways. It is an
    nn.Conv2d to isinstance, to code that initialises weights and to code that reads its attributes.

    Args:
        in_channels, out_channels, groups: all three the same.
        kernel_size: odd from 1 to 31 a side.
        stride: 1.
        padding: "same", or the numbers that mean it: dilation * (kernel_size - 1) / 2.
        dilation: at least 1.
        bias, device, dtype: as in nn.Conv2d; float32, float64, float16 or bfloat16.
        padding_mode: "zeros".
        activation: what follows the convolution in the same pass: none, relu, leaky_relu, gelu (exact), silu, sigmoid.
        negative_slope: leaky_relu's slope below zero.

    With an activation it is no linear layer: code that folds a batch norm into an nn.Conv2d must not fold one into it.

    Takes [N, C, H, W] or [C, H, W], contiguous or channels_last, and returns the same shape and layout. Raises
    ValueError in one line for other arguments: those are for nn.Conv2d.

    Source: the depthwise half of a depthwise-separable convolution (Chollet, arXiv 1610.02357).

    Example:
        >>> import torch, lightsr_kernels
        >>> conv = lightsr_kernels.DepthwiseConv2d(8, 8, 7, padding="same", groups=8, activation="gelu")
        >>> conv(torch.randn(1, 8, 16, 16)).shape
        torch.Size([1, 8, 16, 16])
    """

    # On the class, so that an nn.Conv2d that becomes one of these (see accelerate) needs nothing set.
    activation: str = "none"
    negative_slope: float = 0.01

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: str | int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        negative_slope: float = 0.01,
    ) -> None:
        check_choice("DepthwiseConv2d", "activation", activation, ACTIVATIONS)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        reason = why_not(self)
        if reason is not None:
            raise ValueError(f"DepthwiseConv2d: {reason}; use nn.Conv2d")
        self.activation, self.negative_slope = activation, negative_slope

    def forward(self, input: Tensor) -> Tensor:
        return _convolve(input, self.weight, self.bias, self.dilation, self.activation, self.negative_slope)

    def extra_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        more = f", activation={self.activation}{slope}" if self.activation != "none" else ""
        usual: str = super().extra_repr()  # type: ignore[no-untyped-call]
        return usual + more


@torch.fx.wrap  # torch.fx records the call as it is, and does not look inside
def _convolve(
    x: Tensor,  # [N, C, H, W] or [C, H, W]
    weight: Tensor,  # [C, 1, KH, KW]
    bias: Tensor | None,  # [C]
    dilation: tuple[int, ...],
    activation: str,
    negative_slope: float,
) -> Tensor:  # the shape of x
    rows, columns = dilation
    batch = x.unsqueeze(0) if x.dim() == 3 else x
    out = depthwise_conv(
        batch, weight, bias, dilation=(rows, columns), activation=activation, negative_slope=negative_slope
    )
    return out.squeeze(0) if x.dim() == 3 else out


def why_not(conv: nn.Conv2d) -> str | None:
    """Why depthwise_conv does not compute what this convolution is set to, in one line; None if it does."""
    if not conv.in_channels == conv.out_channels == conv.groups:
        channels = f"{conv.in_channels} -> {conv.out_channels} channels"
        return f"groups must equal in_channels and out_channels, got {channels} in groups={conv.groups}"
    if not all(side % 2 == 1 and side <= LARGEST for side in conv.kernel_size):
        return f"kernel_size must be odd from 1 to {LARGEST} a side, got {_sides(conv.kernel_size)}"
    if tuple(conv.stride) != (1, 1):
        return f"stride must be 1, got {_sides(conv.stride)}"
    same = tuple(step * (side // 2) for step, side in zip(conv.dilation, conv.kernel_size, strict=True))
    padding = (0, 0) if conv.padding == "valid" else conv.padding
    if padding not in ("same", same):
        got = padding if isinstance(padding, str) else _sides(padding)
        return f"padding must be 'same' or {_sides(same)} at this kernel_size and dilation, got {got}"
    if conv.padding_mode != "zeros":
        return f"padding_mode must be 'zeros', got {conv.padding_mode!r}"
    return None


def _sides(pair: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in pair)
