"""Weights in and out: finds the tensors in a file, tells which network they are, loads, folds and saves them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__
from .errors import InputError
from .files import reason, replacing
from .networks import SRNetwork, detect, network_class
from .weight_files import read_weight_file

logger = logging.getLogger(__name__)

# Where training programs put the weights, best first: the averaged (EMA) ones before the last ones.
WRAPPERS = (
    "params_ema",
    "params-ema",
    "params",
    "model_state_dict",
    "state_dict",
    "model",
    "net",
    "netG",
    "net_g",
    "generator",
)
# What wrapping a network puts before every name; a GAN's checkpoint holds its discriminator beside `netG.`.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
GENERATORS = ("netG.", "net_g.", "generator.")


@dataclass(frozen=True)
class Loaded:
    """The tensors of a file, and where in it they were."""

    tensors: dict[str, Tensor]  # floating-point ones are float32
    key: str  # "params_ema", "model.state_dict"; "" when the tensors were the whole file
    prefix: str = ""  # taken off every name: "module.", "netG."

    def __str__(self) -> str:
        place = f"weights taken from {self.key!r}" if self.key else "weights taken from the whole file"
        return f"{place}, names without {self.prefix!r}" if self.prefix else place


def read_state_dict(path: str | Path) -> Loaded:
    """Reads the tensors of a .safetensors, .pth, .pt or .ckpt file, without running anything in it.

    Args:
        path: the file. Its tensors may lie under params_ema, params, model_state_dict, state_dict, net, netG and
            the like (the first that is there is taken), and their names may begin with module. or netG.

    Returns:
        The tensors on the CPU, float16, bfloat16 and float64 as float32, with the key they were under.

    Raises InputError in one line for a missing, damaged or lying file, for code (an unsafe pickle, TorchScript, .pt2),
    for entries that are not tensors, and for NaN or infinite weights.

    Example:
        >>> import torch
        >>> from lightsr.checkpoint import read_state_dict
        >>> torch.save({"params": {"module.bias": torch.zeros(3)}}, "/tmp/weights.pth")
        >>> loaded = read_state_dict("/tmp/weights.pth")
        >>> loaded.key, list(loaded.tensors)
        ('params', ['bias'])
    """
    path = Path(path)
    entries, key = _unwrap(read_weight_file(path))
    entries, prefix = _without_prefixes(entries)
    if not entries:
        raise InputError(f"{path}: holds no tensors{f' under {key!r}' if key else ''}")
    budget = path.stat().st_size
    tensors: dict[str, Tensor] = {}
    for name, value in entries.items():
        _check_entry(path, name, value)
        budget -= value.numel() * value.element_size()
        if budget < 0:
            # A tensor can repeat one value by a stride of 0, so that a short file claims any size.
            raise InputError(f"{path}: its tensors claim more bytes than the file has; it is damaged")
        tensors[name] = _own(value)
        if not torch.isfinite(tensors[name]).all():
            raise InputError(f"{path}: {name} has NaN or infinite values; these weights are broken")
    return Loaded(tensors, key, prefix)


def load(
    path: str | Path,
    *,
    network: str | None = None,
    scale: int | None = None,
    use_fused: bool = False,
    device: str | torch.device = "cpu",
) -> SRNetwork:
    """Makes the network a weight file belongs to, in eval mode and folded.

    Args:
        path: .safetensors, .pth, .pt or .ckpt; see `read_state_dict`.
        network: what the file must hold (lmswn, mafdn, hasn, idsa_net); None takes what it is.
        scale: what the file must hold (2, 3, 4); None takes what it is.
        use_fused: runs the blocks on `lightsr_kernels` ops.
        device: where the network goes.

    Returns:
        The network, float32. The logger `lightsr.checkpoint` says (INFO) which key the weights were under.

    Raises InputError in one line when the file cannot be read, fits no network, or is not what was asked for.

    Example:
        >>> import lightsr
        >>> net = lightsr.load("HASN.pth")  # doctest: +SKIP
        >>> net.name, net.scale  # doctest: +SKIP
        ('hasn', 4)
    """
    net, note = load_with_note(path, network=network, scale=scale, use_fused=use_fused, device=device)
    logger.info("%s", note)
    return net


def load_with_note(
    path: str | Path,
    *,
    network: str | None = None,
    scale: int | None = None,
    use_fused: bool = False,
    device: str | torch.device = "cpu",
) -> tuple[SRNetwork, str]:
    """`load`, with the line about what was found returned and not logged."""
    path = Path(path)
    if network is not None:
        network_class(network)
    loaded = read_state_dict(path)
    try:
        cls, config = _recognised(loaded.tensors)
        net = _build(cls, config, loaded.tensors, use_fused).eval().fold()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    found = f"{cls.name} x{config['scale']}"
    if network not in (None, cls.name) or scale not in (None, config["scale"]):
        asked = f"{network or cls.name} x{config['scale'] if scale is None else scale}"
        raise InputError(f"{path}: holds {found}, and {asked} was asked for; ask for {found} or give other weights")
    try:
        return net.to(device), f"{path.name}: {found}, {loaded}"
    except (RuntimeError, AssertionError) as error:  # torch's ways to say that a device is not there
        raise InputError(f"device {str(device)!r} cannot be used: {reason(error)}") from error


def fold(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Folds a state_dict's training-only tensors (MAFDN's DO-Conv, LMSWN's asymmetric filters) into plain filters.

    Args:
        state_dict: of any of the networks, ours or the authors' names; folded already is fine.

    Returns:
        The state_dict of the folded network, in the dtype it came in.

    Raises InputError when the tensors fit no network.

    Example:
        >>> import lightsr
        >>> net = lightsr.create("mafdn", scale=2)
        >>> len(lightsr.fold(net.state_dict())) < len(net.state_dict())
        True
    """
    cls, config = _recognised(state_dict)
    return dict(_build(cls, config, state_dict, use_fused=False).fold().state_dict())


def save(path: str | Path, state_dict: Mapping[str, Tensor]) -> None:
    """Writes a network's weights as safetensors, with the network, the scale and our version in its metadata.

    The file is either the old one or the whole new one. Raises InputError for the suffix of a pickle, when the
    tensors fit no network, or when the file cannot be written.

    Example:
        >>> import lightsr
        >>> from lightsr.checkpoint import save
        >>> save("/tmp/hasn_x2.safetensors", lightsr.create("hasn", scale=2).state_dict())
    """
    from safetensors.torch import save as to_bytes

    if Path(path).suffix in (".pth", ".pt", ".ckpt"):  # others would take it for a pickle
        raise InputError(f"weights are written as safetensors; got the name {path}, give one that ends in .safetensors")
    cls, config = _recognised(state_dict)
    renamed = cls.from_released(state_dict)
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in renamed.items()
    }
    metadata = {"format": "pt", "network": cls.name, "scale": str(config["scale"]), "lightsr": __version__}
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(to_bytes(tensors, metadata))


def _recognised(state_dict: Mapping[str, Tensor]) -> tuple[type[SRNetwork], dict[str, Any]]:
    with torch.random.fork_rng(
        devices=[]
    ):  # detection makes networks, whose initial values nobody's seed should notice
        return detect(state_dict)


def _build(
    cls: type[SRNetwork], config: dict[str, Any], state_dict: Mapping[str, Tensor], use_fused: bool
) -> SRNetwork:
    """A network with these very weights, in their dtype."""
    renamed = cls.from_released(state_dict)
    floating = [value.dtype for value in renamed.values() if value.is_floating_point()]
    with torch.random.fork_rng(devices=[]):
        net = cls(**config, use_fused=use_fused)
    if floating:
        net = net.to(floating[0])
    for name, value in net.state_dict().items():
        if value.is_floating_point() != renamed[name].is_floating_point():
            raise InputError(f"{name} is {renamed[name].dtype}, a quantised weight; floating-point weights are needed")
    net.load_state_dict(renamed)
    return net


def _unwrap(content: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str]:
    keys: list[str] = []
    for _ in range(4):  # a dictionary in a pickle can hold itself
        inner = next((each for each in WRAPPERS if isinstance(content.get(each), Mapping)), None)
        if inner is None:
            break
        keys.append(inner)
        content = content[inner]
    return content, ".".join(keys)


def _without_prefixes(entries: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], str]:
    taken = ""
    while True:
        names = list(entries)
        if not names or not all(isinstance(name, str) for name in names):
            return entries, taken
        prefix = next((each for each in GENERATORS if any(name.startswith(each) for name in names)), None)
        if prefix is None:
            prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in names)), None)
        if prefix is None:
            return entries, taken
        entries = {name.removeprefix(prefix): entries[name] for name in names if name.startswith(prefix)}
        taken += prefix


def _check_entry(path: Path, name: Any, value: Any) -> None:
    if not isinstance(name, str) or not isinstance(value, Tensor):
        shown = f"{name!r:.80} is of type {type(value).__name__}"
        raise InputError(f"{path}: {shown}, not a named tensor; save net.state_dict() alone, or under 'params'")
    if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
        raise InputError(f"{path}: {name} is not a plain tensor of numbers; floating-point weights are needed")


def _own(value: Tensor) -> Tensor:
    """A copy in memory, since the tensor is a view of the file; floating point becomes float32."""
    plain = value.detach()
    if plain.is_floating_point():
        return plain.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return plain.clone(memory_format=torch.contiguous_format)
