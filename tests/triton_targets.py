"""Compiles Triton kernels for GPUs that are not here, as calls would launch them, and reads what ptxas says of each.

Run as a script, because a process that interprets Triton cannot compile it: `python triton_targets.py ROUND` prints
one line of JSON for each kernel. Rounds: `every` tile; the `chosen` tiles at more sizes and dtypes; other `variants`;
the `distillation` ops; those on `windows` and layer norms.
test_triton_targets.py says what must hold.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton_attention_calls import attention_calls, attention_variants
from triton_distillation_calls import distillation_calls
from triton_window_calls import WINDOW_OPS, window_calls

from lightsr_kernels import triton_common
from lightsr_kernels.depthwise_conv import triton as depthwise
from lightsr_kernels.depthwise_conv.triton_configs import CONFIGS, WEIGHT_CONFIGS, Config
from lightsr_kernels.functional import ACTIVATIONS
from lightsr_kernels.large_kernel_attention import triton as large_kernel

NAMES = {torch.float32: "fp32", torch.float64: "fp64", torch.float16: "fp16", torch.bfloat16: "bf16"}
NAMES |= {torch.int64: "i64"}
OPTIONS = ("num_warps", "maxnreg", "enable_fp_fusion")
SHAPE = (1, 64, 180, 320)


@dataclass(frozen=True)
class Launch:
    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What the compilers say of a kernel: registers of a thread, bytes it spills, bytes of shared memory."""

    name: str
    kernel: str
    capability: int
    registers: int
    spills: int
    shared: int
    local: bool  # whether its PTX asks for local memory
    conversions: int  # tiles that change their layout inside a loop


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """The launches inside, which do not happen."""
    found: list[Launch] = []
    real = triton.JITFunction.run

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        found.append(Launch(self, args, options))

    triton.JITFunction.run = run
    try:
        yield found
    finally:
        triton.JITFunction.run = real


def compiled(launch: Launch, capability: int) -> Any:
    """A launch compiled as Triton's own run would: sizes of 1 are constants, multiples of 16 are known to be."""
    function, signature, constants, attributes = launch.kernel, {}, {}, {}
    given = dict(zip(function.arg_names, launch.args, strict=False)) | launch.options

    def kind_of(value: Any, place: tuple[int, ...], constant: bool, known: bool) -> Any:
        if isinstance(value, tuple):
            return tuple(kind_of(each, (*place, i), constant, known) for i, each in enumerate(value))
        if constant or value is None or (type(value) is int and value == 1 and known):
            constants[place] = value
            return "constexpr"
        if isinstance(value, Tensor) or (known and value % 16 == 0):
            attributes[place] = [["tt.divisibility", 16]]
        if isinstance(value, Tensor):
            return "*" + NAMES[value.dtype]
        return "i32" if -(2**31) <= value < 2**31 else "i64"

    for index, parameter in enumerate(function.params):
        known, value = not parameter.do_not_specialize, given[parameter.name]
        signature[parameter.name] = kind_of(value, (index,), parameter.is_constexpr, known)
    options = {name: given[name] for name in OPTIONS if name in given}
    source = ASTSource(function, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def distinct(launches: list[Launch], ops: tuple[str, ...]) -> list[Launch]:
    """Those of kernels of these ops, one for each set of types and other arguments."""

    def described(value: Any) -> str:
        if isinstance(value, tuple):
            return str([described(each) for each in value])
        return str(value.dtype) if isinstance(value, Tensor) else repr(value)

    own = [each for each in launches if each.kernel.fn.__module__.split(".")[1] in ops]
    return list({f"{each.kernel} {described(each.args)} {each.options}": each for each in own}.values())


def examined(launch: Launch, capability: int, name: str = "") -> Found:
    binary = compiled(launch, capability)
    ptx = binary.asm["ptx"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]  # type: ignore[index]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.ptx"
        file.write_text(ptx)
        command = [get_ptxas(capability).path, "-v", f"--gpu-name={target}", str(file), "-o", f"{folder}/kernel.cubin"]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return Found(
        name=name,
        kernel=launch.kernel.__name__,
        capability=capability,
        registers=int(re.search(r"Used (\d+) registers", said)[1]),  # type: ignore[index]
        spills=sum(map(int, re.findall(r"(\d+) bytes spill", said))),
        shared=binary.metadata.shared,
        local=".local" in ptx,
        conversions=sum(part.count("convert_layout") for part in loops(binary.asm["ttgir"])),
    )


def loops(text: str) -> Iterator[str]:
    """The innermost loops of a module of Triton's."""
    for part in text.split("scf.for")[1:]:
        yield part.split("scf.yield")[0]


def picture(dtype: torch.dtype, last: bool) -> Tensor:
    return torch.empty(SHAPE, dtype=dtype).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def depthwise_calls(dtype: torch.dtype, last: bool, side: int, configs: bool) -> Iterator[Callable[[], object]]:
    """One call of each kernel with the tile that the rule picks, or with each tile there is."""
    x, weight, bias = picture(dtype, last), torch.empty(64, 1, side, side, dtype=dtype), torch.empty(64, dtype=dtype)
    everything = (x, weight, bias, [1, 1], "gelu", 0.0, x, x)

    def of_layout(given: tuple[Config, ...]) -> list[Config | None]:
        return [each for each in given if each.channels_last == last] if configs else [None]

    for config in of_layout(CONFIGS):
        yield lambda config=config: depthwise.forward(*everything, config=config)  # type: ignore[misc]
    for config in of_layout(WEIGHT_CONFIGS):
        yield lambda config=config: depthwise.weight_gradients(x, x, (side, side), [1, 1], True, config)  # type: ignore[misc]


def mix_calls(dtype: torch.dtype, last: bool, configs: bool) -> Iterator[Callable[[], object]]:
    x, matrix, bias = picture(dtype, last), torch.empty(64, 64, 1, 1, dtype=dtype), torch.empty(64, dtype=dtype)
    for config in large_kernel.CONFIGS if configs else (None,):
        for ends in ((None, None, x), (matrix, bias, x)):
            yield lambda ends=ends, config=config: large_kernel.mix(x, x, matrix, bias, *ends, config)  # type: ignore[misc]


def variant_calls() -> Iterator[tuple[str, Callable[[], object]]]:
    """What the other rounds leave out: odd sizes and sizes of 1, dilation, reversed taps, activations, wide offsets."""
    for activation, shape in zip(
        ACTIVATIONS, [(2, 17, 33, 45)] * 3 + [(1, 1, 1, 1), (2, 3, 1, 5), (1, 5, 7, 1)], strict=True
    ):
        for last in (False, True):
            layout = torch.channels_last if last else torch.contiguous_format
            x, c = torch.empty(shape, dtype=torch.bfloat16).contiguous(memory_format=layout), shape[1]
            weight, matrix = torch.empty(c, 1, 3, 5, dtype=x.dtype), torch.empty(c, c, 1, 1, dtype=x.dtype)
            args = (x, weight, None, [2, 3], activation, 0.01, None, None, True)
            name = f"{activation} {shape} {last=}"
            yield from ((f"attention {shape} {last=}", each) for each in attention_variants(x))
            yield name, lambda args=args: depthwise.forward(*args)  # type: ignore[misc]
            yield name, lambda x=x: depthwise.weight_gradients(x, x, (3, 5), [2, 3], False)  # type: ignore[misc]
            yield name, lambda x=x, m=matrix: large_kernel.mix(x, x, m, None, m, None, None)  # type: ignore[misc]


def calls_of(which: str) -> Iterator[tuple[str, Callable[[], object]]]:
    if which == "variants":
        yield from variant_calls()
        return
    if which == "distillation":
        yield from distillation_calls()
        return
    if which == "windows":
        yield from window_calls()
        return
    every = which == "every"
    for dtype in (torch.float32,) if every else (torch.float32, torch.float64, torch.bfloat16):
        for last in (False, True):
            yield from ((f"mix {NAMES[dtype]} {last=}", each) for each in mix_calls(dtype, last, every))
            attention = attention_calls(picture(dtype, last), every)
            yield from ((f"attention {NAMES[dtype]} {last=}", each) for each in attention)
            for side in (7,) if every else (3, 31):
                for each in depthwise_calls(dtype, last, side, every):
                    yield f"depthwise {side}x{side} {NAMES[dtype]} {last=}", each


def main(which: str) -> None:
    if which == "variants":
        triton_common.NARROW = 1000
    for name, call in calls_of(which):
        with recorded() as launches:
            call()
        for capability in (80, 90) if which in ("every", "distillation") else (90,):
            for launch in distinct(launches, WINDOW_OPS) if which == "windows" else launches:
                print(json.dumps(asdict(examined(launch, capability, name))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
