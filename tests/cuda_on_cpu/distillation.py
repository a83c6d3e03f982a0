"""Calls of split_distillation and distillation_fusion, as the reference takes them and as the harness does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightsr_kernels.distillation_fusion.reference import reference as fusion_reference
from lightsr_kernels.functional import ACTIVATIONS
from lightsr_kernels.split_distillation.reference import reference as split_reference

from .harness import Argument, At, Harness, Result

TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/common/types.h


def laid(tensor: Tensor | None, last: bool, offset: int = 0) -> At | None:
    """A picture in the layout that `last` names, `offset` numbers past a multiple of 256 bytes."""
    if tensor is None:
        return None
    return At(tensor.permute(0, 2, 3, 1) if last else tensor, offset * tensor.element_size())


def slice_of(tensor: Tensor | None, last: bool, margin: int, offset: int = 0) -> list[At | int | None]:
    """A picture as some channels of a wider one: its memory, the first number, and the steps of a Slice."""
    if tensor is None:
        return [None, 0, 0, 0]
    n, c, h, w = tensor.shape
    wide = torch.full((n, c + 2 * margin, h, w), float("nan"), dtype=tensor.dtype)
    wide[:, margin : margin + c] = tensor
    step = c + 2 * margin if last else h * w
    return [laid(wide, last, offset), margin * (1 if last else h * w), wide[0].numel(), step]


def result(shape: Sequence[int], dtype: torch.dtype, last: bool, offset: int = 0) -> Result:
    n, c, h, w = shape
    return Result((n, h, w, c) if last else (n, c, h, w), dtype, offset * dtype.itemsize)


def picture(tensor: Tensor, last: bool) -> Tensor:
    return tensor.permute(0, 3, 1, 2) if last else tensor


@dataclass(frozen=True)
class Split:
    """A call by its sizes; `parts` names what it has of bias, residual, weight, gate and keep."""

    name: str
    shape: tuple[int, int, int, int]
    split: int | None = None
    distilled: int = 0
    parts: tuple[str, ...] = ("bias", "residual", "weight", "keep")
    activation: str = "leaky_relu"
    second: str = "leaky_relu"
    margin: int = 0  # of the slices
    offset: int = 0

    def arguments(self, dtype: torch.dtype, whole_numbers: bool = False) -> list[Tensor | None]:
        """x, bias, residual, weight, weight_bias, gate_weight, gate_bias."""

        def make(name: str, *shape: int, scale: float = 1.0) -> Tensor | None:
            values = torch.randint(-2, 3, shape) if whole_numbers else torch.randn(shape) * scale
            return values.to(dtype) if name in self.parts else None

        n, c, h, w = self.shape
        first = self.split or c
        d = self.distilled if "weight" in self.parts else first
        values = torch.randint(-2, 3, self.shape) if whole_numbers else torch.randn(self.shape)
        weight, gate = make("weight", d, first, 1, 1, scale=first**-0.5), make("gate", d, d, 1, 1, scale=d**-0.5)
        weight_bias = make("bias", d) if weight is not None else None
        gate_bias = make("bias", d) if gate is not None else None
        return [values.to(dtype), make("bias", c), make("residual", n, c, h, w), weight, weight_bias, gate, gate_bias]

    def expected(self, args: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        x, bias, residual, weight, weight_bias, gate, gate_bias = args
        assert x is not None
        ends = (weight, weight_bias, self.second, gate, gate_bias, "keep" in self.parts)
        return split_reference(x, self.split, bias, residual, self.activation, 0.25, *ends)

    def head(self, args: list[Tensor | None], last: bool) -> list[At | Tensor | int | float | None]:
        x, bias, residual, weight, *more = args
        assert x is not None
        n, c, h, w = x.shape
        d = weight.shape[0] if weight is not None else self.split or c
        sizes = [TYPES.index(x.dtype), int(last), n, c, h * w, self.split or c, int(self.split is None), d]
        words = [ACTIVATIONS.index(self.activation), ACTIVATIONS.index(self.second), 0.25]
        slices = [slice_of(each, last, self.margin, self.offset) for each in (x, residual)]
        return [*sizes, *words, *slices[0], *slices[1], bias, weight, *more]

    def forward(self, harness: Harness, args: list[Tensor | None], last: bool, seed: int = 0) -> list[Tensor]:
        shapes = [each.shape for each in self.expected(args)]
        dtype = args[0].dtype  # type: ignore[union-attr]
        results = [result(each, dtype, last, self.offset) if each[1] else None for each in shapes]
        found = harness.call("split_distillation", *self.head(args, last), *results, seed=seed)
        return [picture(each, last) for each in found]

    def gradients(self, args: list[Tensor | None], grads: Sequence[Tensor]) -> list[Tensor]:
        leaves = [each.detach().requires_grad_() if each is not None else None for each in args]
        found = self.expected(leaves)
        wanted = [each for each in leaves if each is not None]
        pairs = [(each, grad) for each, grad in zip(found, grads, strict=True) if each.numel()]
        outputs, ends = zip(*pairs, strict=True)
        gradients = torch.autograd.grad(outputs, wanted, ends, allow_unused=True)
        return [torch.zeros_like(a) if b is None else b for a, b in zip(wanted, gradients, strict=True)]

    def backward(
        self,
        harness: Harness,
        args: list[Tensor | None],
        grads: Sequence[Tensor],
        last: bool,
        seed: int = 0,
        only: int | None = None,
    ) -> list[Tensor]:
        """The gradients of the arguments there are, or of `only` one of them."""
        x, dtype = args[0], grads[0].dtype
        assert x is not None
        there = [i for i in range(7) if args[i] is not None and only in (None, i)]
        results: list[Result | None] = [None] * 7
        for i in there:
            shape = args[i].shape  # type: ignore[union-attr]
            results[i] = result(shape, dtype, last, self.offset) if i in (0, 2) else Result(shape, dtype)
        results[1], results[2] = results[2], results[1]
        rest = laid(grads[1], last, self.offset) if grads[1].numel() else None
        ends = [laid(grads[0], last, self.offset), rest, *results]
        found = harness.call("split_distillation_backward", *self.head(args, last), *ends, seed=seed)
        order = [i for i in (0, 2, 1, 3, 4, 5, 6) if i in there]
        by_argument = dict(zip(order, found, strict=True))
        for i in (0, 2):
            if i in by_argument:
                by_argument[i] = picture(by_argument[i], last)
        return [by_argument[i] for i in sorted(by_argument)]


@dataclass(frozen=True)
class Fusion:
    """A call by its sizes; `parts` names what it has of bias, scale, maps, gain, residual and residual_gain."""

    name: str
    picture: tuple[int, int, int]
    widths: tuple[int, ...]
    out: int
    parts: tuple[str, ...] = ("bias",)
    margin: int = 0
    offset: int = 0

    def arguments(self, dtype: torch.dtype, whole_numbers: bool = False) -> list[Tensor | None]:
        """weight, bias, scale, gain, residual, residual_gain, then the parts, then the maps."""

        def make(name: str, *shape: int, scale: float = 1.0) -> Tensor | None:
            values = torch.randint(-2, 3, shape) if whole_numbers else torch.randn(shape) * scale
            return values.to(dtype) if name in (*self.parts, "") else None

        n, h, w = self.picture
        width = sum(self.widths)
        weight = make("", self.out, width, 1, 1, scale=width**-0.5)
        factors = make("bias", self.out), make("scale", n, width, 1, 1), make("gain", 1)
        ends = make("residual", n, self.out, h, w), make("residual_gain", 1)
        parts = [make("", n, each, h, w) for each in self.widths]
        return [weight, *factors, *ends, *parts, *(make("maps", n, 1, h, w) for _ in self.widths)]

    def expected(self, args: Sequence[Tensor | None]) -> Tensor:
        weight, bias, scale, gain, residual, residual_gain, *rest = args
        given = [each for each in rest if each is not None]
        count = len(self.widths)
        assert weight is not None
        return fusion_reference(given[:count], weight, bias, scale, given[count:], gain, residual, residual_gain)

    def head(self, args: Sequence[Tensor | None], last: bool) -> list[At | Tensor | int | float | None]:
        weight, bias, scale, gain, residual, residual_gain, *rest = args
        n, h, w = self.picture
        count = len(self.widths)
        assert weight is not None
        sizes: list[At | Tensor | int | float | None] = [
            TYPES.index(weight.dtype),
            int(last),
            n,
            h * w,
            self.out,
            count,
        ]
        for part, each in zip(rest[:count], rest[count:], strict=True):
            sizes += [part.shape[1], *slice_of(part, last, self.margin, self.offset), each]  # type: ignore[union-attr]
        ends = [weight, bias, scale, gain, *slice_of(residual, last, self.margin, self.offset), residual_gain]
        return [*sizes, *ends]

    def forward(self, harness: Harness, args: Sequence[Tensor | None], last: bool, seed: int = 0) -> Tensor:
        n, h, w = self.picture
        out = result((n, self.out, h, w), args[0].dtype, last, self.offset)  # type: ignore[union-attr]
        (found,) = harness.call("distillation_fusion", *self.head(args, last), out, seed=seed)
        return picture(found, last)

    def sums(self, args: Sequence[Tensor | None], grad: Tensor) -> list[Tensor]:
        """What arguments.h says of products, sums, and the residual's product."""
        rest, residual = [each for each in args[6:] if each is not None], args[4]
        count = len(self.widths)
        if "maps" in self.parts:
            rest = [part * each for part, each in zip(rest[:count], rest[count:], strict=True)]
        joined = torch.cat(rest, 1).flatten(2)
        products, sums = grad.flatten(2) @ joined.mT, grad.flatten(2).sum(2)
        if "scale" not in self.parts:
            products, sums = products.sum(0, keepdim=True), sums.sum(0, keepdim=True)
        return [products, sums, *([(grad * residual).sum().view(1)] if residual is not None else [])]

    def gradients(self, args: Sequence[Tensor | None], grad: Tensor) -> list[Tensor]:
        """Of the parts, the maps and the residual."""
        leaves = [each.detach().requires_grad_() if each is not None else None for each in args]
        wanted = [each for each in (*leaves[6:], leaves[4]) if each is not None]
        return list(torch.autograd.grad(self.expected(leaves), wanted, grad))

    def arguments_of_backward(self, args: Sequence[Tensor | None], grad: Tensor, last: bool) -> list[Argument]:
        """With a Result for everything there may be."""
        n, h, w = self.picture
        dtype, batches, count = grad.dtype, n if "scale" in self.parts else 1, len(self.widths)
        pictures: list[Result | None] = []
        for width, each in zip(self.widths, args[6 + count :], strict=True):
            pictures.append(result((n, width, h, w), dtype, last, self.offset))
            pictures.append(None if each is None else Result((n, h, w), dtype))
        residual = None if args[4] is None else result(grad.shape, dtype, last, self.offset)
        numbers = [Result((batches, self.out, sum(self.widths)), torch.float64)]
        numbers.append(Result((batches, self.out), torch.float64))
        each_picture = int("scale" in self.parts)
        product = None if args[4] is None else Result((1,), torch.float64)
        head = [*self.head(args, last), laid(grad, last, self.offset)]
        return [*head, *pictures, residual, each_picture, *numbers, product]

    def backward(
        self, harness: Harness, args: Sequence[Tensor | None], grad: Tensor, last: bool, seed: int = 0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As gradients, and as sums."""
        count, residual = len(self.widths), args[4] is not None
        found = harness.call("distillation_fusion_backward", *self.arguments_of_backward(args, grad, last), seed=seed)
        step = 2 if "maps" in self.parts else 1
        ends = len(found) - step * count
        parts = [picture(each, last) for each in found[: step * count : step]]
        maps = [each.unsqueeze(1) for each in found[1 : step * count : 2]] if step == 2 else []
        after = found[len(found) - ends :]
        return [*parts, *maps, *([picture(after[0], last)] if residual else [])], after[1 if residual else 0 :]
