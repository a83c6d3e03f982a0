"""Whether training on fused ops learns as plain PyTorch does: 200 steps of each network, from the same start.

`python -m bench.loss_curves` trains every network on patches of the example picture three times, plain with two seeds
and fused with the first one, and writes the three curves to bench/results. A seed settles initial values and patches,
so the fused curve and the plain one of its seed differ by rounding alone, and must lie closer together than the two
seeds do.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsr.images import read_rgb8
from lightsr.networks import create
from lightsr.resize import imresize

from .report import RESULTS, machine

PICTURE = Path(__file__).parents[1] / "examples" / "picture.png"
NAMES = ("hasn", "idsa_net", "mafdn", "lmswn")
SCALE, PATCH, BATCH = 4, 24, 2
RUNS = {"plain": (0, False), "plain, another seed": (1, False), "fused": (0, True)}
SMOOTH = 20  # steps a mean of the curve is taken over


def curve(name: str, seed: int, use_fused: bool, steps: int) -> list[float]:
    """The L1 loss of every step."""
    torch.manual_seed(seed)
    net = create(name, SCALE, use_fused)
    high = read_rgb8(PICTURE)
    high = high[:, : high.shape[1] // SCALE * SCALE, : high.shape[2] // SCALE * SCALE]
    low, high = imresize(high, 1 / SCALE).float() / 255, high.float() / 255
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-4)
    draw = torch.Generator().manual_seed(seed)

    def patches() -> tuple[Tensor, Tensor]:
        rows = torch.randint(low.shape[1] - PATCH + 1, (BATCH,), generator=draw).tolist()
        columns = torch.randint(low.shape[2] - PATCH + 1, (BATCH,), generator=draw).tolist()

        def cut(picture: Tensor, k: int) -> Tensor:
            corners = zip(rows, columns, strict=True)
            return torch.stack([picture[:, k * y : k * (y + PATCH), k * x : k * (x + PATCH)] for y, x in corners])

        return cut(low, 1), cut(high, SCALE)

    losses = []
    for _ in range(steps):
        x, wanted = patches()
        loss = F.l1_loss(net(x), wanted)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def apart(a: list[float], b: list[float]) -> float:
    """The mean distance of two curves, each smoothed, as a share of the first."""

    def smooth(losses: list[float]) -> list[float]:
        return [statistics.fmean(losses[i : i + SMOOTH]) for i in range(0, len(losses) - SMOOTH + 1, SMOOTH)]

    return statistics.fmean(abs(x - y) / x for x, y in zip(smooth(a), smooth(b), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loss_curves", description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--networks", default=",".join(NAMES))
    parser.add_argument("--save", metavar="NAME", help="keep the curves in bench/results/NAME/loss_curves.json")
    options = parser.parse_args()
    found = {}
    for name in options.networks.split(","):
        start = time.perf_counter()
        curves = {run: curve(name, *how, options.steps) for run, how in RUNS.items()}
        distance = {run: apart(curves["plain"], losses) for run, losses in curves.items() if run != "plain"}
        found[name] = {"apart": distance, "curves": curves}
        last = {run: f"{statistics.fmean(losses[-SMOOTH:]):.5f}" for run, losses in curves.items()}
        told = ", ".join(f"{run} {share:.2%}" for run, share in distance.items())
        print(
            f"{name}: loss at the end {last}; away from plain: {told} ({time.perf_counter() - start:.0f} s)", flush=True
        )
    if options.save:
        file = RESULTS / options.save / "loss_curves.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"machine": machine(), "steps": options.steps, "networks": found}) + "\n")
        print(f"saved in {file}")


if __name__ == "__main__":
    main()
