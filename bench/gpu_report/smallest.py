"""`python -m bench.gpu_report.smallest OP...`: each op's smallest call with its gradients, for compute-sanitizer."""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import BACKENDS, call, why_not
from lightsr_kernels.spec import SPECS, Make, OpSpec

from ..op_case import outputs, tensors

DTYPES = (torch.float32, torch.float16)


def smallest(spec: OpSpec, dtype: torch.dtype, device: str) -> tuple[object, ...]:
    """The arguments of the sample with the fewest values, of those that have any."""
    samples = [each.args for each in spec.samples(Make(dtype, device, requires_grad=True))]
    filled = [each for each in samples if all(value.numel() for value in tensors(each))]
    return min(filled, key=lambda args: sum(each.numel() for each in tensors(args)))


def run(spec: OpSpec, backend: str, device: str) -> None:
    for dtype in DTYPES:
        args = smallest(spec, dtype, device)
        with lightsr_kernels.backend(backend):
            loss: Tensor = sum(each.float().sum() for each in outputs(call(spec, *args)))  # type: ignore[assignment]
            torch.autograd.grad(loss, tensors(args), allow_unused=True)


def main(names: list[str], device: str = "cuda") -> None:
    for backend in BACKENDS[:2] if device == "cuda" else ("reference",):
        for spec in (SPECS[name] for name in names):
            if why_not(backend, spec, device) is None:
                run(spec, backend, device)
                if device == "cuda":
                    torch.cuda.synchronize()
                print(f"done {spec.name}-{backend}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
