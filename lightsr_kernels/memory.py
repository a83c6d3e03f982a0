"""Memory for large results on the CPU, kept for the next one when a tensor is gone.

The C library gives large blocks back to the system as soon as they are free and takes new pages for the next ones,
which the system clears at a fault for every 4 KB: a tenth to half of a network's inference, the larger the picture the
more. Engines such as ONNX Runtime keep an arena for the same reason, and torch does on CUDA.

glibc can be told to keep them (mallopt), but that is the whole process's affair, and then its heap grows: a block that
was asked for at a cache line, as torch does, does not serve the same request again once it is free (glibc 2.36).
"""

from __future__ import annotations

import math
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
SPARE = 1.5  # and all of them together as the most that tensors have had at once


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
        self._most = 0  # bytes leased at once
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
            self._idle.clear()

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
        leased, idle = self.held()
        self._most = max(self._most, leased + size)
        with self._taking:
            while self._idle and leased + idle + size > SPARE * self._most:
                idle -= self._idle.pop(0).size
        try:
            memory = np.empty(size + LINE, dtype=np.uint8)
        except MemoryError:
            self.release()
            memory = np.empty(size + LINE, dtype=np.uint8)
        return Block(memory, -memory.ctypes.data % LINE, size)


_pool = Pool()


def empty(
    shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """An uninitialised tensor as torch.empty makes it; a large one on the CPU in memory that an earlier one had."""
    size = 0
    if device.type == "cpu" and not torch._C._len_torch_dispatch_stack():  # of fake tensors, or whoever traces
        size = math.prod(shape) * dtype.itemsize
    if size < SMALL:
        return torch.empty(shape, dtype=dtype, device=device, memory_format=layout)
    return torch.frombuffer(_pool.lease(size), dtype=dtype).resize_(shape, memory_format=layout)


def release_memory() -> None:
    """Gives memory that is kept for coming results on the CPU back to the system, as torch.cuda.empty_cache() does.

    Results of 1 MB and more come from blocks that this process keeps when they are gone. Together these are at most 1.5
    times as large as all such results that were there at once.
    """
    _pool.release()


def idle_memory() -> int:
    """Bytes that are kept for coming results."""
    return _pool.held()[1]
