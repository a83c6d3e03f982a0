"""Memory for large results on the CPU, kept for the next one when a tensor is gone.

The C library gives large blocks back to the system as soon as they are free and takes new pages for the next ones,
which the system clears at a fault for every 4 KB: a tenth to half of a network's inference, the larger the picture the
more. Engines such as ONNX Runtime keep an arena for the same reason, and torch does on CUDA.

glibc can be told to keep them (mallopt), but that is the whole process's affair, and then its heap grows: a block that
was asked for at a cache line, as torch does, does not serve the same request again once it is free (glibc 2.36).
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

SMALL = 1 << 20  # bytes; what is smaller the C library keeps anyway
LINE = 64  # bytes; where results begin
SLACK = 1.25  # a block may be so many times as large as what is asked for
SPARE = 1.5  # and all of them together as the most that tensors have had at once,
FORGOTTEN = 1 / 16  # of which each new block takes so much off: what one large picture took does not count for ever


@dataclass(eq=False, slots=True)
class Block:
    memory: np.ndarray[Any, np.dtype[np.uint8]]
    begin: int  # of the first cache line
    size: int  # from there on


class Pool:
    """Blocks that tensors have, and idle ones."""

    def __init__(self) -> None:
        self._idle: list[Block] = []  # the one that was free last comes last: some of it may be in the cache yet
        self._leased: dict[int, tuple[weakref.ref[Any], Block]] = {}  # by who would tell that it is over
        self._most = 0.0  # bytes leased at once
        self._taking = Lock()

    def lease(self, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """So many bytes of whatever contents, which are idle again once nothing refers to them any more."""
        with self._taking:
            block = self._take(size)
        if block is None:
            block = self._make(size)
        lease = block.memory[block.begin : block.begin + size]
        end = weakref.ref(lease, self._give_back)
        self._leased[id(end)] = end, block
        return lease

    def release(self) -> None:
        """Gives idle blocks back to the system."""
        with self._taking:
            self._most = 0.0
            gone = [self._idle.pop() for _ in range(len(self._idle))]
        del gone  # which takes a while, and nobody need wait for it

    def after_fork(self) -> None:
        self._taking = Lock()  # a thread of the parent may have held it, and that thread is not here

    def held(self) -> tuple[int, int]:
        """Bytes that are leased, and bytes that are idle."""
        return sum(each.size for _, each in list(self._leased.values())), sum(each.size for each in list(self._idle))

    def _give_back(self, end: weakref.ref[Any]) -> None:
        # Run by whoever drops the last reference, in any thread and also inside the lock: neither step needs it.
        self._idle.append(self._leased.pop(id(end))[1])

    def _take(self, size: int) -> Block | None:
        """The smallest idle block that is not much too large, of equals the one that was free last."""
        best = None
        for place in range(len(self._idle) - 1, -1, -1):
            found = self._idle[place].size
            if size <= found <= SLACK * size and (best is None or found < self._idle[best].size):
                best = place
                if found == size:
                    break
        return None if best is None else self._idle.pop(best)

    def _make(self, size: int) -> Block:
        gone = []
        with self._taking:
            leased, idle = self.held()
            self._most = max(self._most * (1 - FORGOTTEN), leased + size)
            while self._idle and leased + idle + size > SPARE * self._most:
                gone.append(self._idle.pop(0))
                idle -= gone[-1].size
        del gone
        try:
            memory = np.empty(size + LINE, dtype=np.uint8)
        except MemoryError:
            self.release()
            memory = np.empty(size + LINE, dtype=np.uint8)
        return Block(memory, -memory.ctypes.data % LINE, size)


_pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.after_fork)


def empty(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """An uninitialised tensor as of torch.empty; a large one on the CPU in memory that an earlier one had.

    The memory of such a large one is just as large as it is: it can be given another shape, but not a larger one.
    """
    # By fake tensors and whoever else sees what is called; and then torch fills memory with NaN.
    watched = torch._C._len_torch_dispatch_stack() or torch.are_deterministic_algorithms_enabled()
    if device.type == "cpu" and not watched:
        size = math.prod(shape) * dtype.itemsize
        if size >= SMALL:
            try:
                return torch.frombuffer(_pool.lease(size), dtype=dtype).resize_(shape, memory_format=layout)
            except MemoryError:
                pass  # torch's own words for it come below
    return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)


def release_memory() -> None:
    """Gives memory that is kept for coming results on the CPU back to the system, as torch.cuda.empty_cache() does.

    Results of 1 MB and more lie in blocks that the process keeps when they are gone, for the next ones. Together
    these are about 1.5 times as large as all such results that there were at once. The memory of such a result is
    just as large as itself: as the `out` of something larger, or for `resize_`, it cannot grow.

    Example:
        >>> import lightsr_kernels
        >>> lightsr_kernels.release_memory()
    """
    _pool.release()


def idle_memory() -> int:
    """Bytes that are kept for coming results."""
    return _pool.held()[1]
