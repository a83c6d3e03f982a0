"""What a user would run instead of a fused op: plain PyTorch, torch.compile, and engines that take the exported graph.

An op's reference is its plain PyTorch, except where that takes pains over digits that a user's own code would not take:
there stands below what people write. Parameters are constants to the engines, which may fold and pack them.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from .case import DTYPES, LAYOUTS
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
from .op_case import Given, OpCase


def instance_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return F.instance_norm(x, weight=weight, bias=bias, eps=eps)


def gate_of(statistic: Tensor, *weights: Tensor | None) -> Tensor:
    down_weight, down_bias, up_weight, up_bias = weights
    assert down_weight is not None and up_weight is not None
    return torch.sigmoid(F.conv2d(F.relu(F.conv2d(statistic, down_weight, down_bias)), up_weight, up_bias))


def contrast(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True) + x.std((2, 3), correction=0, keepdim=True)


def channel_attention(x: Tensor, *rest: Any) -> Tensor:
    *weights, statistic = rest
    return x * gate_of(x.mean((2, 3), keepdim=True) if statistic == "mean" else contrast(x), *weights)


def instance_norm_attention(x: Tensor, *rest: Any) -> Tensor:
    norm_weight, norm_bias, down_weight, down_bias, up_weight, up_bias, spatial_weight, eps = rest
    gate = gate_of(contrast(x), down_weight, down_bias, up_weight, up_bias)
    y = gate * F.instance_norm(x, weight=norm_weight, bias=norm_bias, eps=eps)
    pooled = torch.cat([y.mean(1, keepdim=True), y.amax(1, keepdim=True)], 1)
    return x + y * torch.sigmoid(F.conv2d(pooled, spatial_weight, padding=spatial_weight.shape[-1] // 2))


def spatial_attention(x: Tensor, weight: Tensor) -> Tensor:
    pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * torch.sigmoid(F.conv2d(pooled, weight, padding=weight.shape[-1] // 2))


WRITTEN = {
    each.__name__: each for each in (instance_norm, channel_attention, instance_norm_attention, spatial_attention)
}


def plain(case: OpCase) -> Callable[..., Any]:
    return WRITTEN.get(case.op, case.spec.reference)


def pytorch(case: OpCase, given: Given, layout: str) -> Contender:
    own = given.laid_out(layout)
    return Contender(f"pytorch {layout}", lambda: case.run(plain(case), own))


def compiled(case: OpCase, given: Given, layout: str) -> Contender:
    own = given.laid_out(layout)
    function = torch.compile(plain(case), fullgraph=True, dynamic=False)
    return Contender(f"compiled {layout}", lambda: case.run(function, own))


class Graph(torch.nn.Module):
    """The plain op as a module: pictures come in, everything else is its own."""

    def __init__(self, case: OpCase, given: Given) -> None:
        super().__init__()
        self.function = plain(case)
        leaves, self.structure = tree_flatten(given.args)
        n, _, h, w = given.x.shape

        def comes_in(each: Any) -> bool:
            return isinstance(each, Tensor) and each.dim() == 4 and (each.shape[0], *each.shape[2:]) == (n, h, w)

        self.pictures = [each for each in leaves if comes_in(each)]
        self.leaves = [None if comes_in(each) else each for each in leaves]
        self.places = [i for i, each in enumerate(leaves) if comes_in(each)]

    def forward(self, *pictures: Tensor) -> Any:
        leaves = list(self.leaves)
        for i, picture in zip(self.places, pictures, strict=True):
            leaves[i] = picture
        return self.function(*tree_unflatten(leaves, self.structure))


@lru_cache(maxsize=2)
def exported(case: OpCase) -> tuple[bytes, list[Tensor]]:
    """The graph as ONNX, and the pictures that go into it; bfloat16 as float32, which no engine takes otherwise."""
    need("onnx", "onnxscript")
    if case.way != "forward":
        raise NotHereError("it has no gradients")
    given = case.inputs("cpu")
    if case.dtype == "bfloat16":
        given = Given(torch.utils._pytree.tree_map(as_float32, given.args), [])
    graph, file = Graph(case, given).eval(), io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells what other packages are not there
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(graph, tuple(graph.pictures), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)  # type: ignore[arg-type]  # it takes files too
    return file.getvalue(), graph.pictures


def as_float32(each: Any) -> Any:
    return each.float() if isinstance(each, Tensor) else each


def for_engine(case: OpCase, given: Given, layout: str) -> tuple[bytes, list[Tensor]]:
    if given.x.is_cuda:
        raise NotHereError("it is compared on the CPU alone")
    if layout != "nchw":
        raise NotHereError("it takes NCHW alone")
    return exported(case)


def onnxruntime(case: OpCase, given: Given, layout: str) -> Contender:
    need("onnxruntime")
    import onnxruntime as ort

    if case.dtype == "bfloat16":
        raise NotHereError("it takes no bfloat16")
    model, pictures = for_engine(case, given, layout)
    try:
        session = ort.InferenceSession(model, onnxruntime_settings(), providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        raise NotHereError(f"it takes no {case.dtype}") from None
    binding = session.io_binding()
    keep = [each.numpy() for each in pictures]  # OrtValues refer to this memory
    for each, value in zip(session.get_inputs(), keep, strict=True):
        binding.bind_ortvalue_input(each.name, ort.OrtValue.ortvalue_from_numpy(value))
    for result in session.get_outputs():
        binding.bind_output(result.name)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return keep

    return Contender(
        "onnxruntime nchw", run, lambda _: [torch.from_numpy(each) for each in binding.copy_outputs_to_cpu()]
    )


def openvino(case: OpCase, given: Given, layout: str) -> Contender:
    need("openvino")
    import openvino as ov

    if case.dtype == "float64":
        raise NotHereError("it computes no float64")
    model, pictures = for_engine(case, given, layout)
    core = ov.Core()
    network = core.compile_model(core.read_model(io.BytesIO(model)), "CPU", openvino_settings(case.dtype))
    request = network.create_infer_request()
    kind = {torch.float32: ov.Type.f32, torch.float16: ov.Type.f16}[pictures[0].dtype]
    for i, each in enumerate(pictures):
        request.set_input_tensor(i, tensor_of(each, kind))

    def run() -> Any:
        request.infer()
        return pictures  # which the request refers to

    def result(_: Any) -> list[Tensor]:
        return [as_torch(request.get_output_tensor(i), DTYPES["float32"]) for i in range(len(network.outputs))]

    return Contender("openvino nchw", run, result)


RIVALS: tuple[tuple[str, Prepare], ...] = tuple(
    (f"{rival.__name__} {layout}", partial(rival, layout=layout))
    for rival in (pytorch, compiled, onnxruntime, openvino)
    for layout in (LAYOUTS if rival in (pytorch, compiled) else ("nchw",))
)
