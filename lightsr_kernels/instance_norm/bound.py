"""What the ops that share instance_norm_attention's passes need of a backend module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..instance_norm_attention import compose
from ..instance_norm_attention.compose import Parts, Passes


def bound(passes: Passes, parts: Callable[..., Parts]) -> tuple[Callable[..., Any], ...]:
    """`forward`, `forward_keeping` and `backward` of an op on a backend's passes; `parts` takes what follows x."""

    def forward(x: Tensor, *others: Any) -> Tensor:
        return compose.forward(passes, x, parts(*others))

    def forward_keeping(x: Tensor, *others: Any) -> tuple[Tensor, list[Tensor]]:
        return compose.forward_keeping(passes, x, parts(*others))

    def backward(
        grads: list[Tensor], wanted: list[bool], x: Tensor, *others: Any, kept: list[Tensor] | None = None
    ) -> list[Tensor]:
        return compose.backward(passes, grads, wanted, x, parts(*others), kept)

    return forward, forward_keeping, backward
