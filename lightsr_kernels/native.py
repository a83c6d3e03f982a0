"""What the compiled kernels of every op share on their way into Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_library: Any = torch.library.Library("lightsr", "FRAGMENT")  # type: ignore[no-untyped-call]


def raw_operator(schema: str) -> Callable[..., None]:
    """Declares a raw operator, which csrc/<op>/register.cpp implements for the devices it was compiled for.

    It writes its result into arguments, knows nothing of gradients and trusts its caller.
    """
    _library.define(schema)
    operator: Callable[..., None] = getattr(torch.ops.lightsr, schema.partition("(")[0]).default
    return operator
