"""pixel_attention as a step of split_distillation: the distilled path of one that only gates."""

from __future__ import annotations

from torch import Tensor

Step = tuple[Tensor, None, None, None, str, float, None, None, str, Tensor, Tensor | None, bool]


def step(
    x: Tensor,  # [N, C, H, W]
    weight: Tensor,  # [C, C, 1, 1]
    bias: Tensor | None,  # [C]
) -> Step:
    """The arguments of that step."""
    return x, None, None, None, "none", 0.0, None, None, "none", weight, bias, False


def with_no_rest(grads: list[Tensor]) -> list[Tensor]:
    """The gradient of the one result, and of the remaining part, which has no channels."""
    return [grads[0], grads[0][:, :0]]
