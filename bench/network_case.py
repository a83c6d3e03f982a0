"""One case of the bench of networks: one picture enlarged, or one training step on patches; and the exact result."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lightsr.networks import SRNetwork, create

from .case import DTYPES, LAYOUTS, PART, TOLERANCE
from .contender import Contender, Prepare

SCALE = 4
WAYS = ("inference", "training")  # training: forward, L1 loss, backward to every parameter
LOSS_SCALES = {"float16": 4096.0}  # or most gradients would be too small for a number of the dtype
MARGIN = 1.25  # times what plain PyTorch errs in the same dtype, where that is more than a few roundings


@dataclass(frozen=True)
class NetworkCase:
    """A network on `shape` [N, 3, H, W]: folded and in eval() for inference, in its training form for training."""

    network: str
    shape: tuple[int, int, int, int]
    way: str
    dtype: str = "float32"
    full: bool = False  # whoever takes minutes to get ready takes part, too
    bench: ClassVar[str] = "networks"
    untried: ClassVar[tuple[str, ...]] = ("compiled",)

    @property
    def name(self) -> str:
        size = "x".join(str(side) for side in self.shape)
        return f"{self.network}-{size}-{self.way}-{self.dtype}"

    @property
    def flops(self) -> int:
        """Of convolutions and matrix products of the folded network; in training thrice, as gradients take two more."""
        return flops(self.network, self.shape) * (3 if self.way == "training" else 1)

    @property
    def bytes(self) -> int:
        """Not told: what has to move depends on how much of a network is one kernel."""
        return 0

    def inputs(self, device: str) -> Given:
        generator = torch.Generator().manual_seed(0)
        n, c, h, w = self.shape
        x = torch.rand(self.shape, generator=generator).to(device, DTYPES[self.dtype])
        # Far above every result: the loss has a kink where the two are equal, and its gradient jumps there.
        target = torch.rand(n, c, SCALE * h, SCALE * w, generator=generator) + 8 if self.way == "training" else None
        return Given(self, x, None if target is None else target.to(device, DTYPES[self.dtype]))

    def exact(self, given: Given) -> list[Tensor]:
        return run(self, given.network(False, "nchw", torch.float64), given.double())

    def error(self, got: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
        """Of the result, or of all gradients together if that is more, as a share of the largest value of either."""
        assert [each.shape for each in got] == [each.shape for each in wanted]
        shares = [
            torch.stack([(one.double() - two).abs().max() for one, two in zip(got[part], wanted[part], strict=True)])
            .max()
            .div(max(float(each.abs().max()) for each in wanted[part]))
            for part in (slice(1), slice(1, None))
            if wanted[part]
        ]
        return float(torch.stack(shares).max())  # of tensors, as max() would pass over what is no number

    def limit(self, given: Given, wanted: Sequence[Tensor]) -> float:
        """Gradients, which sum over a whole batch, and 16 bits go by what plain PyTorch is off; and a quarter more.

        By its worse layout: where both leave a convolution to PyTorch, its sums of biases differ by layout alone.
        """
        least = TOLERANCE[DTYPES[self.dtype]]
        if self.way == "inference" and DTYPES[self.dtype].itemsize > 2:
            return least
        plain = [run(self, given.network(False, layout), given.laid_out(layout)) for layout in LAYOUTS]
        return max(least, *(MARGIN * self.error(each, wanted) for each in plain))

    def part(self) -> tuple[NetworkCase, float]:
        n, c, h, w = self.shape
        if self.way == "training" and n > 1:
            few = max(1, n // PART)
            return replace(self, shape=(few, c, h, w)), n / few
        rows = max(1, h // PART)
        return replace(self, shape=(n, c, rows, w)), h / rows

    def ours(self, device: str) -> Sequence[Prepare]:
        ways = [partial(fused, layout=layout) for layout in LAYOUTS]
        if self.way == "inference":
            ways += [partial(fused, layout=layout, captured=True) for layout in LAYOUTS]
        return ways

    def rivals(self) -> Sequence[tuple[str, Prepare]]:
        from .network_rivals import RIVALS

        return [each for each in RIVALS if torch.cuda.is_available() or not each[0].startswith("graph")]

    def chosen(self, given: Given) -> str:
        return "fused"


@dataclass(frozen=True)
class Given:
    """A case's picture and target, and its networks, each made once."""

    case: NetworkCase
    x: Tensor
    target: Tensor | None
    networks: dict[tuple[Any, ...], SRNetwork] = field(default_factory=dict, repr=False)
    others: dict[str, Given] = field(default_factory=dict, repr=False)

    def laid_out(self, layout: str) -> Given:
        """The same tensors in "nchw" or "channels_last", made once."""
        if layout not in self.others:
            turned = [
                None if each is None else each.contiguous(memory_format=LAYOUTS[layout])
                for each in (self.x, self.target)
            ]
            assert turned[0] is not None
            self.others[layout] = Given(self.case, turned[0], turned[1], self.networks)
        return self.others[layout]

    def double(self) -> Given:
        return Given(self.case, self.x.double(), None if self.target is None else self.target.double())

    def network(self, use_fused: bool, layout: str, dtype: torch.dtype | None = None) -> SRNetwork:
        key = (use_fused, layout, dtype)
        if key not in self.networks:
            made = copy.deepcopy(network(self.case.network, self.case.way)).set_fused(use_fused)
            made.to(self.x.device, dtype or self.x.dtype, memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
            self.networks[key] = made
        return self.networks[key]


@cache
def network(name: str, way: str) -> SRNetwork:
    """On the CPU, with the same fresh weights at every call."""
    torch.manual_seed(0)
    made = create(name, SCALE)
    return made.fold().eval() if way == "inference" else made.train()


@cache
def flops(name: str, shape: tuple[int, int, int, int]) -> int:
    net = copy.deepcopy(network(name, "inference")).to("meta")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(torch.empty(shape, device="meta"))
    return int(counter.get_total_flops())


def run(case: NetworkCase, net: Any, given: Given) -> list[Tensor]:
    """The result, and behind it in training the gradients of all parameters."""
    if case.way == "inference":
        with torch.no_grad():
            return [net(given.x)]
    assert given.target is not None
    for each in net.parameters():
        each.grad = None
    out = net(given.x)
    loss(case, out, given.target).backward()  # type: ignore[no-untyped-call]
    return [out.detach(), *(each.grad for each in net.parameters() if each.grad is not None)]


def loss(case: NetworkCase, out: Tensor, target: Tensor) -> Tensor:
    return F.l1_loss(out, target) * LOSS_SCALES.get(case.dtype, 1.0)


def fused(case: NetworkCase, given: Given, layout: str, captured: bool = False) -> Contender:
    own, net = given.laid_out(layout), given.network(True, layout)
    if captured:
        import lightsr

        call = lightsr.capture(net, own.x.shape, dtype=own.x.dtype, memory_format=LAYOUTS[layout])
        return Contender(f"lightsr captured {layout}", lambda: [call(own.x)])
    return Contender(f"lightsr fused {layout}", lambda: run(case, net, own))
