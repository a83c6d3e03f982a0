"""Teaches spandrel, the model loader of chaiNNer and others, the four networks: call `register()` once, then load."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from .checkpoint import fold
from .errors import InputError
from .networks import REGISTRY, SRNetwork, detect


def register() -> list[str]:
    """Adds the four networks to spandrel's main registry, ahead of its own; doing so again changes nothing.

    A network is detected when every key and every shape of a state_dict fits it, so that no other model is taken for
    one. spandrel's ModelLoader then gives an ImageModelDescriptor of the folded network.

    Returns:
        The ids that were added: lmswn, mafdn, hasn, idsa_net; empty the second time.

    Raises InputError when spandrel (or torchvision, which it needs) is not installed.

    Example:
        >>> from lightsr.spandrel_plugin import register
        >>> register()  # doctest: +SKIP
        ['lmswn', 'mafdn', 'hasn', 'idsa_net']
        >>> import spandrel  # doctest: +SKIP
        >>> spandrel.ModelLoader().load_from_file("HASN.pth").scale  # doctest: +SKIP
        4
    """
    try:
        spandrel: Any = importlib.import_module("spandrel")
    except ImportError as error:
        raise InputError(f"spandrel cannot be imported ({error}); pip install spandrel torchvision") from error
    own = [cls for cls in REGISTRY.values() if cls.name != "bicubic" and cls.name not in spandrel.MAIN_REGISTRY]
    others = tuple(each.architecture.id for each in spandrel.MAIN_REGISTRY if each.architecture.id not in REGISTRY)
    supports = [spandrel.ArchSupport.from_architecture(_architecture(spandrel, cls), before=others) for cls in own]
    spandrel.MAIN_REGISTRY.add(*supports)
    return [cls.name for cls in own]


def _architecture(spandrel: Any, cls: type[SRNetwork]) -> Any:
    class NetworkArchitecture(spandrel.Architecture):  # type: ignore[misc]
        def load(self, state_dict: dict[str, Tensor]) -> Any:
            return _describe(spandrel, self, state_dict)

    return NetworkArchitecture(id=cls.name, name=cls.title, detect=lambda state_dict: _fits(cls, state_dict))


def _fits(cls: type[SRNetwork], state_dict: dict[str, Tensor]) -> bool:
    if cls.config_of(cls.from_released(state_dict)) is None:  # says no to most models at once
        return False
    try:
        return detect(state_dict)[0] is cls
    except InputError:
        return False


def _describe(spandrel: Any, architecture: Any, state_dict: dict[str, Tensor]) -> Any:
    folded = fold(state_dict)
    cls, config = detect(folded)
    return spandrel.ImageModelDescriptor(
        cls(**config).eval(),
        folded,
        architecture=architecture,
        purpose="SR",
        tags=[f"{config['channels']}nf"],
        supports_half=True,
        supports_bfloat16=True,
        scale=config["scale"],
        input_channels=3,
        output_channels=3,
        # With statistics of the whole picture, tiles come out a little different.
        tiling=spandrel.ModelTiling.SUPPORTED if cls.exact_tiles else spandrel.ModelTiling.DISCOURAGED,
    )
