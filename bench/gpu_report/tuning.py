"""Which tile of the Triton depthwise kernels is fastest on this device, beside the one that the rule picks.

Compiling takes far longer than timing, so several processes compile into Triton's cache first:
`python -m bench.gpu_report.tuning SECONDS FIRST STEP` is one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor

from . import clock
from .store import Context

SHAPES = ((1, 64, 180, 320), (16, 64, 48, 48), (1, 64, 360, 640))
FILTERS = ((7, 1), (7, 3), (3, 1), (31, 1), (13, 1))  # side and dilation
DTYPES, LAYOUTS = ("float16", "float32"), ("channels_last", "contiguous")
FILE = "triton_tuning.json"
WORKERS = 8
KERNELS = ("forward", "weight")
Run = Callable[[Any], Any]  # a kernel with the tile it is given

Call = tuple[tuple[int, int], str, str, tuple[int, int, int, int]]


def calls(dry: bool) -> Iterator[Call]:
    """Filter, dtype, layout, shape; shapes last, for all of them take the same compiled kernels."""
    return iter(()) if dry else product(FILTERS, DTYPES, LAYOUTS, SHAPES)


def named(call: Call) -> str:
    """As the tables that the package ships name it (`triton_configs.name_of`)."""
    (side, dilation), dtype, layout, shape = call
    return f"{'x'.join(map(str, shape))}-k{side}x{side}-d{dilation}x{dilation}-{dtype}-{layout}"


def tuning(context: Context) -> None:
    if context.dry:
        context.put("why_not", "Triton's kernels are not timed on the CPU")
        return
    compile_ahead(0.5 * context.left(), min(WORKERS, os.cpu_count() or 1))
    for call in calls(context.dry):
        if context.has(named(call)) or not context.reaches(named(call), 2):
            continue
        context.put(named(call), {name: fastest(*way) for name, way in kernels(call, context.device).items()})
        (context.folder / FILE).write_text(json.dumps(table(context.data), indent=1) + "\n", encoding="utf-8")


def compile_ahead(seconds: float, workers: int) -> None:
    words = [sys.executable, "-m", "bench.gpu_report.tuning", str(seconds)]
    started = [subprocess.Popen([*words, str(first), str(workers)]) for first in range(workers)]
    for process in started:
        try:
            process.wait(timeout=seconds + 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kernels(call: Call, device: str) -> dict[str, tuple[Any, Any, Tensor, tuple[int, int], list[int], Run]]:
    """By name what `fastest` takes of each of the two kernels: tiles, the rule's, and the call."""
    from lightsr_kernels.depthwise_conv import triton
    from lightsr_kernels.depthwise_conv.triton_configs import CONFIGS, WEIGHT_CONFIGS, choose, choose_weight

    (side, dilation), dtype, layout, shape = call
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.randn(shape, device=device, dtype=getattr(torch, dtype)).contiguous(memory_format=memory_format)
    weight = torch.randn(shape[1], 1, side, side, device=device, dtype=x.dtype)
    grad, size, steps = torch.randn_like(x), (side, side), [dilation] * 2

    def forward(config: Any) -> Any:
        return triton.forward(x, weight, None, steps, "none", 0.0, None, None, config=config)

    def gradients(config: Any) -> Any:
        return triton.weight_gradients(grad, x, size, steps, False, config=config)

    return {
        "forward": (CONFIGS, choose(x, size, steps), x, size, steps, forward),
        "weight": (WEIGHT_CONFIGS, choose_weight(x, size, steps), x, size, steps, gradients),
    }


def fastest(
    configs: Any, rule: Any, x: Tensor, size: tuple[int, int], steps: list[int], run: Run, seconds: float = 0.02
) -> dict[str, Any]:
    """The times of all tiles that fit, measured in turn; the fastest one, which `tune` has taken from now on."""
    from lightsr_kernels.depthwise_conv.triton_configs import eligible, tune

    fitting = eligible(configs, x, size)
    times = clock.interleaved({str(i): [partial(run, each)] for i, each in enumerate(fitting)}, x.device.type, seconds)
    medians = {each: clock.described(times[str(i)])["seconds"] for i, each in enumerate(fitting)}
    best = tune(configs, x, size, steps, medians.__getitem__)
    return {
        "fastest": asdict(best),
        "seconds": medians[best],
        "rule": asdict(rule),
        "rule's seconds": medians.get(rule),
        "tried": len(fitting),
    }


def table(data: dict[str, Any]) -> dict[str, Any]:
    """What lightsr_kernels/depthwise_conv/tuned ships for a device: by call, the tile of each of the two kernels."""
    tiles = {key: {name: found[name]["fastest"] for name in KERNELS} for key, found in data.items()}
    return {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else None, "tiles": tiles}


def main(seconds: float, first: int, step: int) -> None:
    from lightsr_kernels.depthwise_conv.triton_configs import eligible

    end = time.monotonic() + seconds
    one_shape = (each for each in calls(False) if each[3] == SHAPES[0])
    for call in islice(one_shape, first, None, step):
        for configs, _, x, size, _, run in kernels(call, "cuda").values():
            for each in eligible(configs, x, size):
                if time.monotonic() > end:
                    return
                run(each)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
