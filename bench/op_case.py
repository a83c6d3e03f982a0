"""One case of the bench of fused ops: an op at a size that its OpSpec names, its result alone or its gradients too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import lightsr_kernels
from lightsr_kernels.dispatch import call, choose
from lightsr_kernels.spec import SPECS, Make, OpSpec

from .case import DTYPES, LAYOUTS, TOLERANCE, error
from .contender import Contender, Prepare
from .ours import backends

WAYS = ("forward", "training")  # training: the result, and the gradient of every tensor argument


@dataclass(frozen=True)
class OpCase:
    """A call of `op` with the arguments of its bench sample of this name."""

    op: str
    sample: str
    way: str
    dtype: str
    bench: ClassVar[str] = "fused"
    untried: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        return f"{self.op}-{self.sample}-{self.way}-{self.dtype}"

    @property
    def spec(self) -> OpSpec:
        return SPECS[self.op]

    @property
    def flops(self) -> int:
        """Of the result; a spec says nothing of the gradients' cost, which is 0 here."""
        return self._cost().flops if self.way == "forward" else 0

    @property
    def bytes(self) -> int:
        """What the result has to read and write, at the least; likewise."""
        return self._cost().bytes if self.way == "forward" else 0

    def _cost(self) -> Any:
        return self.spec.cost(*self._args(Shapes(DTYPES[self.dtype])))

    def _args(self, make: Make) -> tuple[Any, ...]:
        return next(each.args for each in self.spec.bench(make) if each.name == self.sample)

    def inputs(self, device: str) -> Given:
        # Random numbers in float32, so that every dtype has the same ones.
        args = self._args(Make(torch.float32, device))
        args = change(args, lambda each: each.to(DTYPES[self.dtype]).contiguous())
        results = outputs(self.spec.fake(*args))
        generator = torch.Generator().manual_seed(1)
        grads = [torch.randn(each.shape, generator=generator).to(device, each.dtype) for each in results]
        return Given(args, grads)

    def exact(self, given: Given) -> list[Tensor]:
        own = Given(change(given.args, lambda each: each.double()), [each.double() for each in given.grads])
        return self.run(self.spec.reference, own)

    def run(self, function: Any, given: Given) -> list[Tensor]:
        """Results, and behind them in training the gradients of all tensors."""
        if self.way == "forward":
            with torch.no_grad():
                return outputs(function(*given.args))
        inputs = [each.detach().requires_grad_() for each in tensors(given.args)]
        left = iter(inputs)
        results = outputs(function(*change(given.args, lambda _: next(left))))
        counted = [(each, grad) for each, grad in zip(results, given.grads, strict=True) if each.requires_grad]
        grads = torch.autograd.grad([each for each, _ in counted], inputs, [grad for _, grad in counted])
        return [*(each.detach() for each in results), *grads]

    def error(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        pairs = zip(got, wanted, strict=True)
        errors = [error(one, other) for one, other in pairs if other.numel()]
        return float(torch.tensor(errors, dtype=torch.float64).max())  # max() would pass over what is no number

    def limit(self, given: Given, wanted: Sequence[Tensor]) -> float:
        """Of 16-bit gradients 1.25 times eager PyTorch's: near an activation's kink a number gets the other slope."""
        least = TOLERANCE[DTYPES[self.dtype]]
        if self.way == "forward" or DTYPES[self.dtype].itemsize > 2:
            return least
        return max(least, 1.25 * self.error(self.run(self.spec.reference, given), wanted))

    def part(self) -> tuple[OpCase, float]:
        return self, 1.0  # as no call takes long, it is tried as it is

    def ours(self, device: str) -> Sequence[Prepare]:
        names = backends(device, self.spec)
        return [partial(ours, layout=layout, backend=name) for name in names for layout in LAYOUTS]

    def rivals(self) -> Sequence[tuple[str, Prepare]]:
        from .op_rivals import RIVALS

        return RIVALS

    def chosen(self, given: Given) -> str:
        return choose(self.spec, given.x.device.type, given.args)


@dataclass(frozen=True)
class Given:
    """Arguments and the gradients that come in, plain contiguous."""

    args: tuple[Any, ...]
    grads: list[Tensor]
    others: dict[str, Given] = field(default_factory=dict, repr=False)

    @property
    def x(self) -> Tensor:
        return pictures(self.args)[0]

    def laid_out(self, layout: str) -> Given:
        """The same tensors in "nchw" or "channels_last", made once."""
        if layout not in self.others:

            def turn(each: Tensor) -> Tensor:
                return each.contiguous(memory_format=LAYOUTS[layout]) if each.dim() == 4 else each

            self.others[layout] = Given(change(self.args, turn), [turn(each) for each in self.grads])
        return self.others[layout]


class Shapes(Make):
    """Makes tensors that have shapes and no values."""

    def __call__(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        return torch.empty(shape, dtype=self.dtype, device="meta")


def ours(case: OpCase, given: Given, layout: str, backend: str) -> Contender:
    """A plain call where that takes this backend: what an op hands on to another one goes by the rules then, too."""
    own = given.laid_out(layout)
    with lightsr_kernels.backend("auto"):
        plain = choose(case.spec, own.x.device.type, own.args) == backend

    def run() -> list[Tensor]:
        with lightsr_kernels.backend("auto" if plain else backend):
            return case.run(partial(call, case.spec), own)

    return Contender(f"lightsr {backend} {layout}", run)


def sample_names(spec: OpSpec, many: int | None = None) -> list[str]:
    return [each.name for each in islice(spec.bench(Shapes()), many)]


def tensors(args: Any) -> list[Tensor]:
    return [each for each in tree_flatten(args)[0] if isinstance(each, Tensor)]


def pictures(args: Any) -> list[Tensor]:
    return [each for each in tensors(args) if each.dim() == 4]


def change(args: Any, how: Any) -> Any:
    return tree_map(lambda each: how(each) if isinstance(each, Tensor) else each, args)


def outputs(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, tuple) else [result]
