"""What the networks share: the class they extend, the block that knows `use_fused`, the convolution that folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lightsr_kernels as ops
from lightsr_kernels.functional import activate

from ..errors import InputError

SCALES = (2, 3, 4)
LARGEST_WIDTH = 4096  # channels; a checkpoint that claims more is no network of this family


def leaky_relu(x: Tensor) -> Tensor:
    """Slope 0.05, as in IMDN and RFDN."""
    # A literal: torch.compile(dynamic=True) takes a global float for a variable, and traces everything a second time.
    return F.leaky_relu(x, 0.05)


class Block(nn.Module):
    """A part of a network with two paths of the same result: plain PyTorch, and `lightsr_kernels` ops."""

    use_fused = False


def convolve(
    conv: nn.Conv2d, x: Tensor, fused: bool, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """act(conv(x) + residual) for a same-size convolution, as one op where `fused`; leaky_relu's slope is 0.05."""
    if fused:
        return ops.dense_conv(x, conv.weight, conv.bias, activation=activation, negative_slope=0.05, residual=residual)
    y: Tensor = conv(x)
    return activate(y if residual is None else y + residual, activation, 0.05)


class Join:
    """leaky_relu(fusion(cat(outputs))) for a 1x1, of what a network's blocks put out, added one after the other.

    Where `fused`, outputs go into a running sum as they come, and out of memory; on the way back so do gradients. Not
    in 16 bits, where that sum would be rounded each time: there they are kept and joined by one op.
    """

    def __init__(self, fusion: nn.Conv2d, fused: bool) -> None:
        self.fusion, self.fused = fusion, fused
        self.outputs: list[Tensor] = []  # not in the sum yet
        self.sum: Tensor | None = None
        self.channels = 0  # of outputs that are in the sum

    def add(self, output: Tensor) -> None:  # [N, C_k, H, W]
        self.outputs.append(output)
        if self.fused and output.dtype in (torch.float32, torch.float64):
            self._take()

    def result(self) -> Tensor:  # [N, C_out, H, W]
        """To be asked for once: nothing of it stays here."""
        if self.outputs:
            self._take()
        wanted = self.fusion.weight.shape[1]
        if self.sum is None or self.channels != wanted:
            raise ValueError(f"fusion: the outputs must have {wanted} channels together, got {self.channels}")
        out, self.sum = self.sum, None
        return out

    def _take(self) -> None:
        """The outputs at hand into the sum; with the last of them comes the activation."""
        outputs, self.outputs = self.outputs, []
        weight, first = self.fusion.weight, self.channels
        self.channels = first + sum(each.shape[1] for each in outputs)  # no +=: torch.jit.trace has sizes in tensors
        if not self.fused:
            self.sum = leaky_relu(self.fusion(torch.cat(outputs, dim=1)))
            return
        self.sum = ops.distillation_fusion(
            outputs,
            weight[:, first : self.channels],
            self.fusion.bias if first == 0 else None,
            residual=self.sum,
            activation="leaky_relu" if self.channels == weight.shape[1] else "none",
            negative_slope=0.05,
        )


class FoldableConv2d(nn.Module):
    """A same-size convolution with parameters that help training only and fold into its filter for inference.

    `weight` and `bias` are those of a plain convolution and keep their names when folded; a subclass registers its
    `extra` parameters beside them and says in `merged_weight` what filter they all amount to.
    """

    extra: ClassVar[tuple[str, ...]]
    weight: nn.Parameter  # [C_out, C_in, K, K]
    bias: nn.Parameter  # [C_out]

    def __init__(self, c_in: int, c_out: int, kernel_size: int) -> None:
        super().__init__()
        plain = nn.Conv2d(c_in, c_out, kernel_size)  # for its initial values
        self.weight = nn.Parameter(plain.weight.detach())
        self.bias = nn.Parameter(plain.bias.detach())  # type: ignore[union-attr]

    def merged_weight(self) -> Tensor:  # [C_out, C_in, K, K]
        """The filter of the plain convolution this one equals, while it is not folded."""
        raise NotImplementedError

    @property
    def folded(self) -> bool:
        """Whether the extra parameters are gone."""
        return not any(name in self._parameters for name in self.extra)

    def fold(self) -> None:
        """Puts the merged filter into `weight` and drops the extra parameters. Does nothing a second time."""
        if not self.folded:
            self.weight = nn.Parameter(self.merged_weight().detach(), requires_grad=self.weight.requires_grad)
            for name in self.extra:
                del self._parameters[name]

    def forward(self, x: Tensor) -> Tensor:  # [N, C_in, H, W] -> [N, C_out, H, W]
        weight = self.current_weight()
        return F.conv2d(x, weight, self.bias, padding=weight.shape[-1] // 2)

    def current_weight(self) -> Tensor:  # [C_out, C_in, K, K]
        """The filter of the plain convolution this one equals, folded or not."""
        return self.weight if self.folded else self.merged_weight()


class SRNetwork(nn.Module):
    """A super-resolution network: RGB [N, 3, H, W] in 0..1 to [N, 3, scale*H, scale*W], not clipped.

    Any H and W from 1 and any N; a network that needs more pads inside and crops its result.
    """

    name: ClassVar[str]  # as in create("hasn")
    title: ClassVar[str]  # as in a table: "HASN"
    source: ClassVar[str]  # the paper, and what of it is reconstruction
    exact_tiles: ClassVar[bool]  # no pooling over the whole picture: tiles that overlap by `radius` give the same bits
    multiple: ClassVar[int] = 1  # tile origins that keep windows in place are multiples of this

    def __init__(self, scale: int, use_fused: bool) -> None:
        if scale not in SCALES:
            raise InputError(f"{self.name}: scale must be 2, 3 or 4; got {scale!r}")
        super().__init__()
        self.scale = scale
        self.use_fused = use_fused

    @property
    def radius(self) -> int:
        """How many pixels around it an output pixel sees, pooled statistics and attention left aside."""
        raise NotImplementedError

    @property
    def folded(self) -> bool:
        """Whether nothing is left to fold."""
        return all(module.folded for module in self.modules() if isinstance(module, FoldableConv2d))

    def set_fused(self, use_fused: bool = True) -> Self:
        """Switches a live network to fused ops, or back; parameters and state_dict keys stay as they are."""
        self.use_fused = use_fused
        for module in self.modules():
            if isinstance(module, Block):
                module.use_fused = use_fused
        return self

    def fold(self) -> Self:
        """Folds every training-only parameter into its convolution, in place; there is no way back."""
        for module in self.modules():
            if isinstance(module, FoldableConv2d):
                module.fold()
        return self

    @classmethod
    def config_of(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """The constructor arguments (scale included) a state_dict was made with, or None if it is another network's."""
        raise NotImplementedError

    @staticmethod
    def from_released(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames the keys of the authors' own checkpoint to ours; anything else comes back as it is."""
        return state_dict


class Tail(nn.Sequential, Block):
    """The one-step upsampler: 3x3 convolution to 3*scale^2 channels, then pixel shuffle."""

    def __init__(self, channels: int, scale: int) -> None:
        super().__init__(nn.Conv2d(channels, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, 3, scale*H, scale*W]
        if not self.use_fused:
            return super().forward(x)  # type: ignore[no-untyped-call, no-any-return]
        conv: Any = self[0]
        return ops.dense_conv(x, conv.weight, conv.bias, pixel_shuffle=self.scale)


def tail_scale(state_dict: Mapping[str, Tensor], key: str = "tail.0.weight") -> int | None:
    """The scale a `Tail`'s filter tells, or None."""
    weight = state_dict.get(key)
    if weight is None or weight.dim() != 4:
        return None
    return {3 * scale**2: scale for scale in SCALES}.get(weight.shape[0])
