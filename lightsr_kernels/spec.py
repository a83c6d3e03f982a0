"""OpSpec: what the dispatcher, the tests, the benches and the docs know about one op, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One call of an op: the positional arguments in schema order, every one of them given."""

    name: str
    args: tuple[Any, ...]


@dataclass(frozen=True)
class BadInput:
    """A call that must be refused with `error` and a message that contains `match` (a regular expression)."""

    name: str
    args: tuple[Any, ...]
    error: type[Exception]
    match: str


@dataclass(frozen=True)
class Cost:
    """The least an ideal kernel moves and computes for one call: the floor a benchmark is measured against."""

    bytes: int
    flops: int  # a multiply-add counts as 2


@dataclass
class Make:
    """Makes the tensors of a sample, so that one list of samples serves every dtype, device and kind of value."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    integers: bool = False  # small whole numbers: sums are exact, so results can be compared bit for bit
    requires_grad: bool = False
    seed: int = 0
    _generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.seed)

    def __call__(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        """A tensor of normal values (or whole numbers from -3 to 3) times `scale` plus `offset`."""
        if self.integers:
            value = torch.randint(-3, 4, shape, generator=self._generator).double()
        else:
            value = torch.randn(shape, generator=self._generator, dtype=torch.float64) * scale + offset
        return value.to(self.device, self.dtype).requires_grad_(self.requires_grad)


@dataclass(frozen=True)
class OpSpec:
    """One op. `reference`, `check`, `fake` and `cost` take exactly the arguments of `schema`, by position."""

    name: str  # the folder, torch.ops.lightsr.<name>, the test id, the bench id, the heading in the docs
    schema: str  # "(Tensor x, ...) -> Tensor": arguments and results, without the name
    source: str  # paper and equation, or the code the definition was taken from
    reference: Callable[..., Any]
    check: Callable[..., None]  # raises ValueError or TypeError with one line
    fake: Callable[..., Any]  # result shapes, dtypes and strides, without values
    samples: Callable[[Make], Iterable[Sample]]  # small, for tests
    bad_inputs: Callable[[Make], Iterable[BadInput]]
    bench: Callable[[Make], Iterable[Sample]]  # the sizes users run
    cost: Callable[..., Cost]
    backends: tuple[str, ...] = ("reference",)  # what implements it in this version
    native: tuple[str, ...] = ()  # the folders of csrc that its compiled kernels are in; (): its own alone
    faster: Callable[..., bool] | None = None  # (backend, *arguments): whether it beats the reference; None: always
    autocast: Callable[..., Any] | None = None  # (dtype, *arguments) under autocast; None: the reference
    # (*arguments): the op put together of others, for kernels without a backward: it runs where gradients are wanted,
    # under autocast, and where no kernel is. None: the reference does.
    composed: Callable[..., Any] | None = None
    # The position of an argument that is added to the result and does nothing else: its gradient is the result's, and
    # it need not be kept. None: there is none, or not in this call.
    added: Callable[..., int | None] | None = None
    exact_on_integers: bool = (
        False  # whole-number inputs give whole-number sums, so every backend must agree to the bit
    )

    def libraries(self, backend: str) -> tuple[str, ...]:
        """The folders of csrc whose compiled kernels for "cpu" or "cuda" it calls, forward or backward."""
        return tuple(each for each in self.native if backend in SPECS[each].backends) or (self.name,)

    @property
    def op(self) -> Any:
        """The operator torch knows it by: `torch.ops.lightsr.<name>`."""
        return getattr(torch.ops.lightsr, self.name)


def other_dtype(x: Tensor) -> torch.dtype:
    """A floating-point dtype that x does not have, for the bad inputs of a spec."""
    return torch.float32 if x.dtype == torch.float64 else torch.float64


SPECS: dict[str, OpSpec] = {}
