"""`lightsr.capture`: a network's inference for one shape, recorded once and replayed without Python in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from itertools import chain
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

from lightsr_kernels import release_memory
from lightsr_kernels.dispatch import requested
from lightsr_kernels.eager import is_plain
from lightsr_kernels.recorder import NotRecordableError
from lightsr_kernels.recording import record

from .errors import InputError

WARM_UP = 3  # calls before a GPU's capture: kernels are built, algorithms chosen, workspaces made
LAYOUTS = (torch.contiguous_format, torch.channels_last)


class Captured:
    """A network captured for one shape. Calling it copies a picture in, replays the capture and returns the result.

    `input` and `output` are the capture's own tensors. `output` is written over by the next call.
    """

    input: Tensor  # [N, 3, H, W]
    output: Tensor  # [N, 3, scale*H, scale*W]

    def __init__(self, net: nn.Module) -> None:
        self._made_of = State(net)

    def __call__(self, x: Tensor, clone: bool = False) -> Tensor:
        """The result for a picture of the captured shape, dtype and device; on a GPU, on the current stream.

        Args:
            x: [N, 3, H, W], in any layout.
            clone: returns memory of its own; else the result is `output`, which the next call writes over.
        """
        own = self.input
        if x.shape != own.shape or x.dtype != own.dtype or x.device != own.device:
            raise InputError(
                f"captured network: x must be {_described(own)}; got {_described(x)}; capture the network for it too"
            )
        if self.stale():
            raise InputError("captured network: its parameters, modules or hooks have changed since; capture it again")
        with torch.no_grad():
            self._replay(x)
            return self.output.clone() if clone else self.output

    def stale(self) -> bool:
        """Whether the network has changed since: its parameters, modules, hooks, modes."""
        return self._made_of.changed()

    def _replay(self, x: Tensor) -> None:
        raise NotImplementedError


class CapturedOnCPU(Captured):
    """The calls of the network's kernels, in a row."""

    def __init__(self, net: nn.Module, example: Tensor, autocast: torch.dtype | None) -> None:
        try:
            with _autocast("cpu", autocast), torch.no_grad():
                self._recording = record(net, example)
        except NotRecordableError as error:
            raise InputError(f"capture: the network cannot be recorded: {error}; call the network itself") from None
        self.input, self.output = self._recording.input, self._recording.output
        self.size = self._recording.size  # bytes
        super().__init__(net)

    def _replay(self, x: Tensor) -> None:
        self.input.copy_(x)
        # What autocast does to the network is recorded, and is not to be done to the recording again.
        with torch.autocast("cpu", enabled=False) if torch.is_autocast_enabled("cpu") else nullcontext():
            self._recording.run()


class CapturedOnGPU(Captured):
    """A CUDA graph."""

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
        super().__init__(net)

    def _replay(self, x: Tensor) -> None:
        with torch.cuda.device(self.input.device):
            self.input.copy_(x)
            self._graph.replay()

    def _run(self) -> Tensor:
        with _autocast("cuda", self._autocast):
            out: Tensor = self._net(self.input)
        return out


class Repeated:
    """A fused network that is captured on a CPU when it gets a shape for the second time in a row: equal tiles."""

    def __init__(self) -> None:
        self._last: Any = None
        self._times = 0  # that it came in a row
        self._captured: CapturedOnCPU | None = None

    @property
    def held(self) -> int:
        """Bytes that the capture takes, which are free for another shape."""
        return 0 if self._captured is None else self._captured.size

    def __call__(self, net: nn.Module, x: Tensor) -> Tensor:
        """net(x), without gradients, in memory that the next call may write over."""
        this = (net, x.shape, x.stride(), x.dtype, requested())
        plain = x.is_cpu and is_plain((x,))
        if this != self._last or not plain or (self._captured is not None and self._captured.stale()):
            self.forget()
        self._last, self._times = this, self._times + plain
        if self._times == 2 and _may_be_recorded(net):
            release_memory()  # the capture has its own instead
            with suppress(InputError):  # it cannot be recorded
                self._captured = CapturedOnCPU(net, x, None)
        out: Tensor = (self._captured or net)(x)
        return out

    def forget(self) -> None:
        """Gives the capture's memory back."""
        self._last, self._times, self._captured = None, 0, None


def _may_be_recorded(net: nn.Module) -> bool:
    """Whether it is worth it, since what PyTorch runs is computed while it is recorded, and takes all that it does."""
    return bool(getattr(net, "use_fused", False)) and not any(
        each.training or each._forward_hooks or each._forward_pre_hooks for each in net.modules()
    )


class State:
    """What a network was: a capture reads its parameters where they lay, or packed copies of them."""

    def __init__(self, net: nn.Module) -> None:
        self._parts = list(net.modules())
        self._holders: list[dict[Any, Any]] = []
        for each in self._parts:
            self._holders += [each._modules, each._parameters, each._buffers]
            self._holders += [each._forward_pre_hooks, each._forward_hooks]
        self._held = self._found()
        self._tensors = [each for each in self._held if isinstance(each, Tensor)]
        self._counting = [each for each in self._tensors if not each.is_inference()]
        self._state = self._written()

    def changed(self) -> bool:
        """Whether any of them is another one, lies elsewhere or was written to."""
        found = self._found()
        same = len(found) == len(self._held) and all(map(is_, found, self._held))
        return not same or self._written() != self._state

    def _found(self) -> list[Any]:
        return list(chain.from_iterable(each.values() for each in self._holders))

    def _written(self) -> tuple[list[int], ...]:
        modes = [2 * each.training + bool(getattr(each, "use_fused", False)) for each in self._parts]
        return [each.data_ptr() for each in self._tensors], [each._version for each in self._counting], modes


def capture(
    net: nn.Module,
    shape: Sequence[int],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    autocast: torch.dtype | None = None,
) -> Callable[..., Tensor]:
    """Captures the inference of a network for one shape, and returns what replays it.

    On a GPU that is a CUDA graph. On a CPU it is the list of the kernels' calls, on memory that is planned once, and
    what depends on weights alone is computed once: without modules, checks and dispatch in between.

    Args:
        net: any network in eval(), with its parameters on `device`; fused or not, folded or not.
        shape: of the pictures, [N, 3, H, W], each at least 1.
        dtype: of the pictures; None for that of the parameters.
        device: a CPU or an NVIDIA GPU, which must be where the parameters are; None for that place.
        memory_format: of the picture in the capture: torch.contiguous_format or torch.channels_last.
        autocast: captures under torch.autocast with this dtype.

    Returns:
        A callable of a picture [N, 3, H, W] of this shape, dtype and device, in any layout; its result
        [N, 3, scale*H, scale*W] is written over by the next call, unless it gets `clone=True`. One call at a time.

    Raises InputError for another device, a network in train() or elsewhere, one that looks at its numbers to decide
    what to do, a bad shape or layout; and the callable for a picture of another shape, dtype or device, or when the
    network's parameters have changed since.

    Example:
        >>> import lightsr, torch
        >>> net = lightsr.create("lmswn", use_fused=True).fold().eval()
        >>> enlarge = lightsr.capture(net, (1, 3, 18, 32))
        >>> enlarge(torch.rand(1, 3, 18, 32)).shape
        torch.Size([1, 3, 72, 128])
    """
    sides = _checked_shape(shape)
    weight = next((each for each in net.parameters() if each.is_floating_point()), None)
    place = _place(device, weight)
    if memory_format not in LAYOUTS:
        raise InputError(
            f"capture: memory_format must be torch.contiguous_format or torch.channels_last; got {memory_format}"
        )
    if any(each.training for each in net.modules()):
        raise InputError("capture: the network, or a part of it, is in train(); call net.eval() first")
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
    return (CapturedOnGPU if place.type == "cuda" else CapturedOnCPU)(net, example, autocast)


def _place(device: str | torch.device | None, weight: Tensor | None) -> torch.device:
    own = torch.device("cpu") if weight is None else weight.device
    place = own if device is None else torch.device(device)
    if place.type not in ("cpu", "cuda"):
        raise InputError(f"capture: device must be 'cpu' or a GPU such as 'cuda'; got {str(place)!r}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError("capture: this machine or this torch has no CUDA GPU; capture the network on the CPU")
    if place.type == "cuda" and place.index is None:
        place = own if own.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
    return place


def _autocast(device: str, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    # A cache of cast weights would outlive the memory of a graph.
    return nullcontext() if dtype is None else torch.autocast(device, dtype, cache_enabled=False)


def _checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    sides = tuple(shape) if isinstance(shape, Sequence) and not isinstance(shape, str) else ()
    whole = all(isinstance(each, int) and not isinstance(each, bool) and each >= 1 for each in sides)
    if len(sides) != 4 or not whole or sides[1] != 3:
        raise InputError(f"capture: shape must be [N, 3, H, W] of whole numbers from 1; got {shape!r}")
    return sides


def _described(x: Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)} on {x.device}"
