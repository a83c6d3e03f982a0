"""What else computes a depthwise convolution: each way is prepared for a case, or says why it cannot.

Every one gets what it likes best: its own layout, a filter laid out beforehand, and memory for the result where its
interface takes that. Data-gradients are what PyTorch's autograd calls; for engines without gradients they are the
forward call with the filter flipped, which is the same sum.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .case import DTYPES, LAYOUTS, Case, Inputs
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


def convolve(case: Case, given: Inputs) -> Tensor:
    """The case as PyTorch computes it: F.conv2d, or the operator that its autograd calls."""
    pad, step, groups = [case.padding] * 2, [case.dilation] * 2, case.shape[1]
    if case.direction == "forward":
        return torch.conv2d(given.x, given.weight, None, 1, pad, step, groups)
    wanted = [case.direction == "backward-data", case.direction == "backward-weight", False]
    results: list[torch.Tensor] = torch.ops.aten.convolution_backward(
        given.grad, given.x, given.weight, None, [1, 1], pad, step, False, [0, 0], groups, wanted
    )
    return results[wanted.index(True)]


def pytorch(case: Case, given: Inputs, layout: str) -> Contender:
    own = given.laid_out(layout)
    return Contender(f"pytorch {layout}", lambda: convolve(case, own))


def compiled(case: Case, given: Inputs, layout: str) -> Contender:
    """torch.compile with autotuning; forward also with the filter frozen, so that it is packed beforehand."""
    own = given.laid_out(layout)
    if case.direction == "forward":
        conv = torch.nn.Conv2d(
            case.shape[1], case.shape[1], case.k, 1, case.padding, case.dilation, case.shape[1], False
        )
        conv.weight = torch.nn.Parameter(own.weight, requires_grad=False)
        function = torch.compile(conv.eval(), fullgraph=True, dynamic=False, options=options(freezing=True))
        return Contender(f"compiled {layout}", lambda: function(own.x))
    backward = torch.compile(convolve, fullgraph=True, dynamic=False, options=options())
    return Contender(f"compiled {layout}", lambda: backward(case, own))


def options(**more: bool) -> dict[str, Any]:
    return {"max_autotune": True, **more}


def flipped(case: Case, given: Inputs) -> tuple[Tensor, Tensor]:
    """Picture and filter of the forward call that computes this case, for engines of the CPU."""
    if given.x.is_cuda:
        raise NotHereError("it is compared on the CPU alone")
    if case.direction == "backward-weight":
        raise NotHereError("it has no gradient of the filter")
    if case.direction == "backward-data":
        return given.grad, given.weight.flip(2, 3).contiguous()
    return given.x, given.weight


def onnxruntime(case: Case, given: Inputs, layout: str) -> Contender:
    need("onnx", "onnxruntime")
    import onnx
    import onnxruntime as ort

    if layout != "nchw":
        raise NotHereError("it takes NCHW alone")
    if case.dtype == "bfloat16":
        raise NotHereError("it takes no bfloat16")
    x, weight = flipped(case, given)
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.numpy().dtype)
    attributes: dict[str, Any] = {"pads": [case.padding] * 4, "dilations": [case.dilation] * 2, "group": case.shape[1]}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "weight"], ["y"], **attributes)],
        "convolution",
        [onnx.helper.make_tensor_value_info("x", kind, case.shape)],
        [onnx.helper.make_tensor_value_info("y", kind, case.shape)],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    try:
        session = ort.InferenceSession(
            model.SerializeToString(), onnxruntime_settings(), providers=["CPUExecutionProvider"]
        )
    except ort.capi.onnxruntime_pybind11_state.NotImplemented:
        raise NotHereError(f"it takes no {case.dtype}") from None
    source = np.ascontiguousarray(x.numpy())
    result = np.empty(case.shape, source.dtype)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", ort.OrtValue.ortvalue_from_numpy(source))
    binding.bind_ortvalue_output("y", target := ort.OrtValue.ortvalue_from_numpy(result))
    keep = (source, result)  # OrtValues refer to this memory

    def run() -> Any:
        session.run_with_iobinding(binding)
        return keep

    return Contender("onnxruntime nchw", run, lambda _: torch.from_numpy(target.numpy()))


def openvino(case: Case, given: Inputs, layout: str) -> Contender:
    need("openvino")
    import openvino as ov
    from openvino import opset13 as operators

    x, weight = flipped(case, given)
    if case.dtype == "float64":
        raise NotHereError("it computes no float64")
    kind = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16, "float16": ov.Type.f16}[case.dtype]
    last = layout == "channels_last"
    if last:
        own = given.laid_out(layout)
        x = (own.grad if case.direction == "backward-data" else own.x).permute(0, 2, 3, 1)
    picture = operators.parameter(list(x.shape), kind)
    filters = operators.constant(tensor_of(weight[:, None].contiguous(), kind))
    pads = [case.padding] * 2
    inside = operators.transpose(picture, operators.constant(np.array([0, 3, 1, 2]))) if last else picture
    out = operators.group_convolution(inside, filters, [1, 1], pads, pads, [case.dilation] * 2)
    out = operators.transpose(out, operators.constant(np.array([0, 2, 3, 1]))) if last else out
    request = (
        ov.Core().compile_model(ov.Model([out], [picture]), "CPU", openvino_settings(case.dtype)).create_infer_request()
    )
    request.set_input_tensor(tensor_of(x, kind))

    def run() -> Tensor:
        request.infer()
        return x  # which the request refers to

    def tensor(_: Any) -> Tensor:
        got = as_torch(request.get_output_tensor(), DTYPES[case.dtype])
        return got.permute(0, 3, 1, 2) if last else got

    return Contender(f"openvino {layout}", run, tensor)


RIVALS: tuple[tuple[str, Prepare], ...] = tuple(
    (f"{rival.__name__} {layout}", partial(rival, layout=layout))
    for rival in (pytorch, compiled, onnxruntime, openvino)
    for layout in LAYOUTS
)
