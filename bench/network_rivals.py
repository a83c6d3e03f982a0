"""What a user would run instead of a fused network: plain PyTorch, torch.compile, engines for the exported graph."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightsr import export as exporting
from lightsr import networks
from lightsr.folders import cache_folder

from .case import LAYOUTS
from .contender import (
    Contender,
    NotHereError,
    Prepare,
    as_torch,
    need,
    onnxruntime_settings,
    openvino_settings,
    tensor_of,
)
from .network_case import Given, NetworkCase, loss, network, run

COMPILING: float = 300  # seconds that torch.compile gets for a network


def pytorch(case: NetworkCase, given: Given, layout: str) -> Contender:
    own, net = given.laid_out(layout), given.network(False, layout)
    return Contender(f"pytorch {layout}", lambda: run(case, net, own))


def graph(case: NetworkCase, given: Given, layout: str) -> Contender:
    """Plain PyTorch in a CUDA graph."""
    if not given.x.is_cuda:
        raise NotHereError("it is for GPUs")
    if case.way == "training":
        raise NotHereError("it is for inference")
    import lightsr

    own, net = given.laid_out(layout), given.network(False, layout)
    call = lightsr.capture(net, own.x.shape, dtype=own.x.dtype, memory_format=LAYOUTS[layout])
    return Contender(f"pytorch {layout} graph", lambda: [call(own.x)])


def compiled(case: NetworkCase, given: Given, layout: str) -> Contender:
    """torch.compile with the weights frozen, on a GPU with max-autotune (and CUDA graphs, which that brings)."""
    if not case.full:
        raise NotHereError("compiling takes long: run it with --full")
    own, net = given.laid_out(layout), given.network(False, layout)
    how: dict[str, Any] = {"mode": "max-autotune"} if given.x.is_cuda else {}
    if case.way == "inference":
        how = how or {"options": {"freezing": True}}
        function = torch.compile(net, fullgraph=True, dynamic=False, **how)
        within(COMPILING, lambda: run(case, function, own))
        return Contender(f"compiled {layout}", lambda: run(case, function, own), copied)

    def step(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        out = net(x)
        return loss(case, out, target), out

    function = torch.compile(step, fullgraph=True, dynamic=False, **how)
    if not given.x.is_cuda:
        try_apart(case, layout)

    def train() -> list[Tensor]:
        for each in net.parameters():
            each.grad = None
        found, out = function(own.x, own.target)
        found.backward()
        return [out.detach(), *(each.grad for each in net.parameters() if each.grad is not None)]

    within(COMPILING, train)
    return Contender(f"compiled {layout}", train, copied)


_APART = "LIGHTSR_BENCH_APART"  # in the environment of a process that tries a rival
_TRY = "from bench.network_rivals import *; case = {case!r}; compiled(case, case.inputs('cpu'), {layout!r})"


def try_apart(case: NetworkCase, layout: str) -> None:
    """Compiles in a process of its own first: what the compiler of torch 2.13 makes of IDSA-Net's step aborts it."""
    if os.environ.get(_APART):
        return
    code, root = _TRY.format(case=case, layout=layout), Path(__file__).parents[1]
    environment = {**os.environ, _APART: "1", "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    ) as child:
        try:
            _, told = child.communicate(timeout=COMPILING)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)  # and the compilers that it has started
            raise NotHereError(f"compiling takes more than {COMPILING:g} s") from None
    if child.returncode < 0:
        raise NotHereError(f"a process of its own ended by {signal.Signals(-child.returncode).name}")
    if child.returncode:
        raise NotHereError(f"it fails: {told.decode(errors='replace').strip().splitlines()[-1]}")


def within(seconds: float, call: Callable[[], Any]) -> None:
    """Calls, and says so where that was interrupted because it took longer."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        call()
        return
    rung: list[int] = []

    def ring(number: int, frame: Any) -> None:
        rung.append(number)
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
    except Exception:  # the compiler wraps what it is interrupted by
        if not rung:
            raise
        raise NotHereError(f"compiling takes more than {seconds:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def copied(result: list[Tensor]) -> list[Tensor]:
    return [each.clone() for each in result]  # CUDA graphs write over what they gave


def exported(case: NetworkCase, given: Given) -> Path:
    """The network as ONNX by `lightsr export`, kept in the cache: it takes up to a minute, and nothing else changes."""
    if given.x.is_cuda:
        raise NotHereError("it is compared on the CPU alone")
    if case.way == "training":
        raise NotHereError("it has no gradients")
    need("onnx", "onnxscript")
    parts = [Path(exporting.__file__), *sorted(Path(networks.__file__).parent.glob("*.py"))]
    sources = hashlib.sha256(b"".join(each.read_bytes() for each in parts) + torch.__version__.encode()).hexdigest()
    file = cache_folder() / "bench" / f"{case.network}-{sources[:16]}.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        exporting.export(network(case.network, case.way), file, check=False)
    return file


def onnxruntime(case: NetworkCase, given: Given, layout: str) -> Contender:
    need("onnxruntime")
    import onnxruntime as ort

    file, settings = exported(case, given), onnxruntime_settings()
    for name, side in zip(("batch", "height", "width"), (case.shape[0], *case.shape[2:]), strict=True):
        settings.add_free_dimension_override_by_name(name, side)  # it plans memory for sizes that it knows
    session = ort.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    source = np.ascontiguousarray(given.x.numpy())
    binding = session.io_binding()
    binding.bind_ortvalue_input(session.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(source))
    binding.bind_output(session.get_outputs()[0].name)

    def call() -> Any:
        session.run_with_iobinding(binding)
        return source  # which the binding refers to

    return Contender("onnxruntime nchw", call, lambda _: [torch.from_numpy(binding.copy_outputs_to_cpu()[0])])


def openvino(case: NetworkCase, given: Given, layout: str) -> Contender:
    need("openvino")
    import openvino as ov

    core = ov.Core()
    model = core.read_model(exported(case, given))
    model.reshape(list(case.shape))
    request = core.compile_model(model, "CPU", openvino_settings(case.dtype)).create_infer_request()
    request.set_input_tensor(tensor_of(given.x, ov.Type.f32))

    def call() -> Tensor:
        request.infer()
        return given.x  # which the request refers to

    return Contender("openvino nchw", call, lambda _: [as_torch(request.get_output_tensor(), torch.float32)])


RIVALS: tuple[tuple[str, Prepare], ...] = tuple(
    (f"{rival.__name__} {layout}", partial(rival, layout=layout))
    for rival in (pytorch, compiled, graph, onnxruntime, openvino)
    for layout in (LAYOUTS if rival in (pytorch, compiled, graph) else ("nchw",))
)
