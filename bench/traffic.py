"""How many bytes the compiled kernels of a call read and write.

Every tensor that a kernel is given counts as often as the kernel goes through it, also where it stays in a cache
between two times. What plain PyTorch does between kernels, with numbers of planes and parameters, does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch._ops import OpOverload

# The kernels that go through all they are given once.
OF_NORMS = ("moments", "factors", "channel_pool", "gated_affine", "gate_gradient", "affine_sums", "affine_gradient")
ONCE = frozenset(
    (
        "split_distillation_forward",
        "split_distillation_convolved",
        "split_distillation_gradients",
        "distillation_fusion_forward",
        "distillation_fusion_gradients",
        "depthwise_conv_forward",
        "depthwise_conv_backward_weight",
        *(f"instance_norm_attention_{each}" for each in OF_NORMS),
    )
)


def times(kernel: str, given: dict[str, Any]) -> dict[str, int] | None:
    """How often a kernel goes through each of its arguments, where that is not once; None for one not known here."""
    if kernel == "instance_norm_attention_forward":  # statistics, maps over the channels, result
        planes = given["norm"] or given["down_weight"] is not None
        return {"x": planes + (given["spatial_weight"] is not None) + 1}
    if kernel == "instance_norm_attention_gradients":  # sums, gradient
        each = 1 + (given["grad_x"] is not None)
        own = given["norm"] or given["deviation"] or given["gate"] is not None  # else grad_x has no term in x
        return {"grad": each, "x": each if own else 1, "gate": each, "pooled": each, "grad_pooled": each, "share": each}
    return {} if kernel in ONCE else None


def moved(run: Callable[[], Any]) -> tuple[Any, int | None]:
    """What `run` returns, and the bytes that its kernels move; None where there are none, or some not known here."""
    found: list[int | None] = []
    call = OpOverload.__call__

    def counting(operator: OpOverload, /, *args: Any, **kwargs: Any) -> Any:
        if operator.namespace == "lightsr" and not operator._schema.returns:  # as native.raw_operator makes them
            names = (each.name for each in operator._schema.arguments)
            given = dict(zip(names, args, strict=True))
            often = times(operator._schema.name.removeprefix("lightsr::"), given)
            for name, value in given.items():
                found.append(
                    None if often is None else often.get(name, 1) * sum(each.nbytes for each in tensors(value))
                )
        return call(operator, *args, **kwargs)

    with patch.object(OpOverload, "__call__", counting):
        result = run()
    return result, None if not found or None in found else sum(each for each in found if each)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors(each)
