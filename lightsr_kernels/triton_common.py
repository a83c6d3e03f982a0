"""What the Triton kernels of every op share: dtypes, index widths, launches.

With TRITON_INTERPRET=1, set before triton is imported, the same kernels run on CPU tensors, slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

# A 32-bit index also has to hold what lies beyond the last element before it is masked: a tile and a filter's reach.
NARROW = 2**31 - 2**26
MOST_PROGRAMS = 2**31 - 1  # in one launch


def accumulator(dtype: torch.dtype) -> tl.dtype:
    """What sums are kept in: float64 for float64, float32 for everything else."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def factor(dtype: torch.dtype) -> tl.dtype:
    """What matrix products multiply: the dtype itself, but the interpreter takes bfloat16 for whole numbers there."""
    names = {torch.float64: tl.float64, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return names.get(stored(dtype), tl.float32)


def stored(dtype: torch.dtype) -> torch.dtype:
    """What kernels write results in: the dtype itself, but the interpreter cuts bfloat16 off instead of rounding it."""
    return torch.float32 if triton.knobs.runtime.interpret and dtype == torch.bfloat16 else dtype


def wide(*pictures: Tensor | None) -> bool:
    """Whether offsets into these tensors need 64 bits."""
    return any(each is not None and each.numel() > NARROW for each in pictures)


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """The device that Triton launches on: that of x, whichever is the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def options(warps: int) -> dict[str, object]:
    """How a kernel is compiled. Without a limit of its own ptxas may spill registers to make room for more warps."""
    limit = {} if torch.version.hip else {"maxnreg": 255}
    return {"num_warps": warps, "enable_fp_fusion": True, **limit}


def launches(programs: int, most: int) -> Iterator[tuple[int, int]]:
    """(first, count) of each launch that `programs` programs take."""
    for first in range(0, programs, most):
        yield first, min(most, programs - first)


def up(value: int, step: int) -> int:
    """How many steps reach `value`."""
    return -(-value // step)
