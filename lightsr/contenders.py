"""The networks of an evaluation, loaded, labelled and told apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .at_hand import weights_for
from .checkpoint import load
from .errors import InputError
from .evaluation import NetworkFacts
from .networks import SRNetwork, create, network_class
from .tiles import PatchLimit


@dataclass(frozen=True)
class Entry:
    """A row of the table: a network by name, and its weights (None: those at hand; bicubic has none)."""

    name: str
    weights: str | Path | None = None


@dataclass(frozen=True)
class Contender:
    """A network that can run, and what the table says of it."""

    facts: NetworkFacts
    net: SRNetwork
    device: torch.device
    limit: PatchLimit = field(default_factory=PatchLimit)

    @property
    def label(self) -> str:
        """Its name in the table; no two are the same."""
        return self.facts.label

    @property
    def note(self) -> str | None:
        """What to say when its figures are not those of whole pictures."""
        if self.net.exact_tiles or not self.limit.tiled:
            return None
        return f"{self.label} looks at the whole picture and was run in tiles, so its figures are approximate"


def contenders_of(networks: Sequence[Entry | SRNetwork], scale: int, device: torch.device) -> list[Contender]:
    """Loads entries onto the device and takes networks as they are; InputError when there is none or a scale is wrong.

    The label is the title of the network; where two would be the same, the name of the weights is added, or a number.
    """
    if not networks:
        raise InputError("no network to evaluate; give one at least, such as bicubic")
    loaded = [(each, None) if isinstance(each, SRNetwork) else _load(each, scale, device) for each in networks]
    titles = [net.title for net, _ in loaded]
    contenders: list[Contender] = []
    for net, weights in loaded:
        if net.scale != scale:
            raise InputError(f"{net.title} is a network for x{net.scale}, and x{scale} was asked for")
        label = net.title
        if titles.count(label) > 1 and weights is not None:
            label = f"{label} {weights.stem}"
        taken = {each.label for each in contenders}
        label = next(name for name in itertools.chain([label], _numbered(label)) if name not in taken)
        parameters = list(net.parameters())
        count = sum(each.numel() for each in parameters)
        facts = NetworkFacts(label, net.name, None if weights is None else str(weights), count)
        contenders.append(Contender(facts, net, parameters[0].device if parameters else device))
    return contenders


@contextmanager
def evaluating(contenders: Sequence[Contender]) -> Iterator[None]:
    """All networks in eval mode, and each in the mode it was afterwards."""
    modes = [each.net.training for each in contenders]
    try:
        for each in contenders:
            each.net.eval()
        yield
    finally:
        for each, mode in zip(contenders, modes, strict=True):
            each.net.train(mode)


def _load(entry: Entry, scale: int, device: torch.device) -> tuple[SRNetwork, Path | None]:
    if network_class(entry.name).name == "bicubic":
        if entry.weights is not None:
            raise InputError(f"bicubic has no weights; got {entry.weights}")
        return create("bicubic", scale), None
    weights = weights_for(entry.name, scale) if entry.weights is None else Path(entry.weights)
    return load(weights, network=entry.name, scale=scale, use_fused=True, device=device), weights


def _numbered(label: str) -> Iterator[str]:
    return (f"{label} ({k})" for k in itertools.count(2))
