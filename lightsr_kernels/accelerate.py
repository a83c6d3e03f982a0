"""accelerate: every depthwise nn.Conv2d of a network becomes a DepthwiseConv2d, in place, and nothing else changes.

A convolution is swapped by giving the object another class. It stays the same object, so its parameters, its hooks,
its training flag, every other place that refers to it, an optimizer that holds its weights and a state_dict all stay
as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.utils import parametrize

from .checks import DTYPES
from .modules import DepthwiseConv2d, why_not


@dataclass
class Acceleration:
    """What `accelerate` did: names as in `model.named_modules()`, where "" is the model itself."""

    swapped: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)  # every other 2-D convolution -> why it was left

    def __str__(self) -> str:
        lines = [f"{len(self.swapped)} of {len(self.swapped) + len(self.kept)} convolutions swapped"]
        lines += [f"  swapped {_shown(name)}" for name in self.swapped]
        lines += [f"  kept {_shown(name)}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Acceleration:
    """Makes every depthwise nn.Conv2d of `model` that depthwise_conv can compute a DepthwiseConv2d, in place.

    Swapped are stride 1, zero padding of the 'same' size and odd sides up to 31, in float32, float64, float16 or
    bfloat16, with or without hooks. Left as they are: convolutions whose weight is computed anew at each call
    (weight_norm, spectral_norm, pruning, parametrizations), subclasses of nn.Conv2d, lazy ones that have not run yet,
    quantized ones and those prepared for it, and those whose forward was replaced. `restore` undoes it.

    Args:
        model: any network; a convolution that stands in it under several names is told under the first.

    Returns:
        An `Acceleration`: the names that were swapped, and for every other convolution why it was not.

    Raises TypeError when `model` is no nn.Module.

    Example:
        >>> import torch, lightsr_kernels
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 7, padding=3, groups=8), torch.nn.Conv2d(8, 4, 1))
        >>> print(lightsr_kernels.accelerate(net))
        1 of 2 convolutions swapped
          swapped 0
          kept 1: groups must equal in_channels and out_channels, got 8 -> 4 channels in groups=1
    """
    _check(model, "accelerate")
    report = Acceleration()
    for name, module in model.named_modules():
        reason = _reason(module)
        if reason is not None:
            report.kept[name] = reason
        elif type(module) is nn.Conv2d:
            module.__class__ = DepthwiseConv2d
            report.swapped.append(name)
    return report


def restore(model: nn.Module) -> list[str]:
    """Makes every DepthwiseConv2d of `model` that has no activation an nn.Conv2d again, and returns their names.

    Raises TypeError when `model` is no nn.Module.

    Example:
        >>> import torch, lightsr_kernels
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 7, padding=3, groups=8))
        >>> _ = lightsr_kernels.accelerate(net)
        >>> lightsr_kernels.restore(net)
        ['0']
    """
    _check(model, "restore")
    names = []
    for name, module in model.named_modules():
        if type(module) is DepthwiseConv2d and module.activation == "none":
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
            names.append(name)
    return names


def _check(model: nn.Module, function: str) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: model must be a torch.nn.Module, got {type(model).__name__}")


def _reason(module: nn.Module) -> str | None:
    """Why a 2-D convolution is left as it is; None for one that can be swapped, and for what is no 2-D convolution."""
    kind = getattr(module, "original_name", type(module).__name__)  # original_name: what TorchScript made it from
    if not isinstance(module, nn.Conv2d):
        of_its_own = kind.endswith("Conv2d") and not list(module.children())
        return f"it is a {_full_name(module)}, not an nn.Conv2d" if of_its_own else None
    if parametrize.is_parametrized(module):
        return "it is parametrized: its weight is computed anew at each call"
    if type(module) is DepthwiseConv2d:
        return "it is a DepthwiseConv2d already"
    if isinstance(module, nn.LazyConv2d):
        return "it is lazy: call the model once, then accelerate it"
    if type(module) is not nn.Conv2d:
        return f"it is a {_full_name(module)}, which may compute something else than nn.Conv2d"
    if why_not(module) is not None:
        return why_not(module)
    if {"forward", "_conv_forward", "__call__"} & vars(module).keys():
        return "its forward was replaced by another function"
    if getattr(module, "qconfig", None) is not None:
        return "it is prepared for quantization"
    if "weight" not in module._parameters or "bias" not in module._parameters:
        return "its weight is computed anew at each call, as weight_norm, spectral_norm and pruning do"
    if type(module.weight) is not nn.Parameter or type(module.weight.data) is not torch.Tensor:
        return f"its weight is a {type(module.weight).__name__}"
    if module.weight.dtype not in DTYPES:
        return f"its weight is {module.weight.dtype}, and must be float32, float64, float16 or bfloat16"
    return None


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _shown(name: str) -> str:
    return name or "(the model itself)"
