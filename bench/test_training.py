"""Pictures a second of a whole training step: batch, loss, gradients, Adam, average; fused against plain PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr
from lightsr.networks import REGISTRY, SRNetwork
from lightsr.training.batches import Batches, Sampler, finished
from lightsr.training.losses import loss_of
from lightsr.training.optimiser import optimiser_of
from lightsr.training.pictures import Pictures, Planes
from lightsr.training.settings import Loss, Optimiser

from .rounds import Rounds
from .timing import DEVICES

NETWORKS = [name for name in REGISTRY if name != "bicubic"]
SCALE, PATCH = 4, 48
CLOSE = 1e-4  # the loss after the first steps, as a share of it


def pictures(side: int = 256, number: int = 8) -> Pictures:
    """Noise in the form that training reads."""

    def planes(length: int) -> Planes:
        values = torch.randint(0, 256, (number * 3 * length * length,), dtype=torch.uint8)
        return Planes(values, [k * 3 * length * length for k in range(number)], [(length, length)] * number)

    return Pictures([str(k) for k in range(number)], planes(side), planes(side // SCALE), SCALE)


def step_of(net: SRNetwork, batches: Batches, device: str) -> Callable[[], Tensor]:
    """A training step, as `lightsr train` takes it, without what Lightning adds."""
    optimiser, loss_in = optimiser_of(net, Optimiser()), loss_of(Loss())
    averaged = [each.detach().clone() for each in net.parameters()]
    number = 0

    def step() -> Tensor:
        nonlocal number
        first, second = batches.batch(number)
        lr, hr = finished(first.to(device), second.to(device), SCALE)
        loss: Tensor = loss_in(net(lr.float() / 255), hr.float() / 255)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        torch._foreach_lerp_(averaged, [each.detach() for each in net.parameters()], 1e-3)
        number += 1
        return loss.detach()

    return step


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_training(name: str, device: str, full: bool, capsys: pytest.CaptureFixture[str], record_property: Any) -> None:
    batch = 16 if full else 2
    plain = lightsr.create(name, SCALE).to(device)
    data = pictures()
    batches = Batches(data, Sampler.over(data, 0, 0, PATCH, batch, True, True), range(10**6))
    steps = {
        "plain": step_of(plain, batches, device),
        "fused": step_of(copy.deepcopy(plain).set_fused(), batches, device),
    }
    first = {way: [float(step()) for _ in range(2)][-1] for way, step in steps.items()}
    assert first["fused"] == pytest.approx(first["plain"], rel=CLOSE), "the losses differ, so nothing is timed"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    medians = Rounds(steps, wait).run(seconds=12.0 if full else 3.0, least=3).medians()
    rates = {way: batch / seconds for way, seconds in medians.items()}
    record_property("pictures_per_second", rates)
    with capsys.disabled():
        print(
            f"\n{name} x{SCALE} {batch}x3x{PATCH}x{PATCH} {device}, pictures a second: fused {rates['fused']:.2f}, "
            f"plain {rates['plain']:.2f}, {rates['fused'] / rates['plain']:.2f} times"
        )
