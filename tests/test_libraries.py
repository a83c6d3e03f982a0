"""An op names the folders of csrc whose kernels it calls: in a new process no others are compiled or loaded for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch

import lightsr_kernels
from lightsr_kernels import build, dispatch
from lightsr_kernels.spec import SPECS, Make

NATIVE = [name for name, spec in SPECS.items() if "cpu" in spec.backends]


def counted(function: Any, folder: str, called: set[str]) -> Callable[..., None]:
    def run(*args: Any) -> None:
        called.add(folder)
        function(*args)

    return run


@pytest.mark.parametrize("op", NATIVE)
def test_the_libraries_of_an_op(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[op]
    for library in spec.libraries("cpu"):
        if (reason := build.why_not("cpu", library)) is not None:
            pytest.skip(reason)
    called: set[str] = set()
    for folder in NATIVE:
        module = import_module(f"lightsr_kernels.{folder}.native")
        for name, value in vars(module).items():
            if isinstance(value, torch._ops.OpOverload):
                monkeypatch.setattr(module, name, counted(value, folder, called))
    with lightsr_kernels.backend("cpu"):
        for sample in spec.samples(Make(requires_grad=True)):
            with torch.no_grad():
                dispatch.call(spec, *sample.args)  # where an op that is composed for gradients has its own kernels
            out = dispatch.call(spec, *sample.args)
            outs = [each for each in (out if isinstance(out, tuple) else (out,)) if each.requires_grad]
            torch.autograd.backward(outs, [torch.ones_like(each) for each in outs])
    assert called == set(spec.libraries("cpu"))
