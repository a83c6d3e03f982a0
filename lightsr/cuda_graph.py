"""`lightsr.capture`: a network's inference as one CUDA graph, replayed without Python or launches in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError

WARM_UP = 3  # calls before the capture: kernels are built, algorithms chosen, workspaces made
LAYOUTS = (torch.contiguous_format, torch.channels_last)


class Captured:
    """A network captured for one shape. Calling it copies a picture in, replays the graph and returns the result.

    `input` and `output` are the graph's own tensors. `output` is written over by the next call.
    """

    input: Tensor  # [N, 3, H, W]
    output: Tensor  # [N, 3, scale*H, scale*W]

    def __init__(self, net: nn.Module, example: Tensor, autocast: torch.dtype | None) -> None:
        self._net, self._autocast, self.input = net, autocast, example
        with torch.no_grad(), torch.cuda.device(example.device):
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UP):
                    self._run()
            torch.cuda.current_stream().wait_stream(stream)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self.output = self._run()
        self._weights = _state(net)

    def __call__(self, x: Tensor, clone: bool = False) -> Tensor:
        """The result for a picture of the captured shape, dtype and device, on the current stream.

        Args:
            x: [N, 3, H, W], in any layout.
            clone: returns memory of its own; else the result is `output`, which the next call writes over.
        """
        wanted, got = _described(self.input), _described(x)
        if got != wanted:
            raise InputError(f"captured network: x must be {wanted}; got {got}; capture the network for it too")
        if _state(self._net) != self._weights:
            raise InputError("captured network: its parameters have changed since; capture it again")
        with torch.no_grad(), torch.cuda.device(self.input.device):
            self.input.copy_(x)
            self._graph.replay()
            return self.output.clone() if clone else self.output

    def _run(self) -> Tensor:
        cast: AbstractContextManager[Any] = nullcontext()
        if self._autocast is not None:
            cast = torch.autocast(
                "cuda", self._autocast, cache_enabled=False
            )  # a cache would outlive the graph's memory
        with cast:
            out: Tensor = self._net(self.input)
        return out


def capture(
    net: nn.Module,
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cuda",
    memory_format: torch.memory_format = torch.contiguous_format,
    autocast: torch.dtype | None = None,
) -> Callable[..., Tensor]:
    """Captures the inference of a network for one shape in a CUDA graph, and returns what replays it.

    Args:
        net: any network in eval(), with its parameters on `device`; fused or not, folded or not.
        shape: of the pictures, [N, 3, H, W], each at least 1.
        dtype: of the pictures; None for that of the parameters.
        device: the GPU, which must be where the parameters are.
        memory_format: of the picture in the graph: torch.contiguous_format or torch.channels_last.
        autocast: captures under torch.autocast with this dtype.

    Returns:
        A callable of a picture [N, 3, H, W] of this shape, dtype and device, in any layout; its result
        [N, 3, scale*H, scale*W] is written over by the next call, unless it gets `clone=True`.

    Raises InputError for another device than a GPU, a network in train() or elsewhere, a bad shape or layout; and
    the callable for a picture of another shape, dtype or device.

    Example:
        >>> import lightsr, torch
        >>> net = lightsr.create("hasn", use_fused=True).fold().eval().cuda().half()  # doctest: +SKIP
        >>> enlarge = lightsr.capture(net, (1, 3, 180, 320), memory_format=torch.channels_last)  # doctest: +SKIP
        >>> enlarge(torch.rand(1, 3, 180, 320, device="cuda").half()).shape  # doctest: +SKIP
        torch.Size([1, 3, 720, 1280])
    """
    sides = _checked_shape(shape)
    place = torch.device(device)
    if place.type != "cuda":
        raise InputError(
            f"capture: device must be a GPU such as 'cuda'; got {str(place)!r}; elsewhere call the network"
        )
    if not torch.cuda.is_available():
        raise InputError("capture: this machine or this torch has no CUDA GPU; call the network itself")
    if memory_format not in LAYOUTS:
        raise InputError(
            f"capture: memory_format must be torch.contiguous_format or torch.channels_last; got {memory_format}"
        )
    if net.training:
        raise InputError("capture: the network is in train(); call net.eval() first")
    weight = next((each for each in net.parameters() if each.is_floating_point()), None)
    if place.index is None:
        place = (
            weight.device
            if weight is not None and weight.is_cuda
            else torch.device(place.type, torch.cuda.current_device())
        )
    elsewhere = {str(each.device) for each in (*net.parameters(), *net.buffers()) if each.device != place}
    if elsewhere:
        raise InputError(
            f"capture: the network is on {', '.join(sorted(elsewhere))}, not on {place}; call net.to({str(place)!r})"
        )
    dtype = dtype or (torch.float32 if weight is None else weight.dtype)
    if weight is not None and autocast is None and weight.dtype != dtype:
        raise InputError(
            f"capture: dtype must be the network's, {weight.dtype}; got {dtype}; cast the network with net.to()"
        )
    example = torch.zeros(sides, dtype=dtype, device=place).contiguous(memory_format=memory_format)
    return Captured(net, example, autocast)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in sides)
    if len(sides) != 4 or not whole or sides[1] != 3:
        raise InputError(f"capture: shape must be [N, 3, H, W] of whole numbers from 1; got {shape!r}")
    return sides


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"


def _state(net: nn.Module) -> list[tuple[int, torch.dtype, int]]:
    """Where every weight lies and how often it was written: the graph reads them there, or packed copies of them."""
    weights = (*net.parameters(), *net.buffers())
    return [(each.data_ptr(), each.dtype, 0 if each.is_inference() else each._version) for each in weights]
