"""The short way past torch's dispatcher: taken on plain tensors alone, and with the operator's own results."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import lightsr_kernels as ops
from lightsr_kernels import eager
from lightsr_kernels.dispatch import call
from lightsr_kernels.spec import SPECS, Make

SPEC = SPECS["depthwise_conv"]
CALLS: list[str] = []


def forward(*args: Any) -> Tensor:
    CALLS.append("kernel")
    return SPEC.reference(*args)


@pytest.fixture
def args() -> tuple[Any, ...]:
    CALLS.clear()
    return (*next(iter(SPEC.samples(Make(requires_grad=True)))).args,)


def test_plain_tensors_are_plain(args: tuple[Any, ...]) -> None:
    assert eager.is_plain(args)
    assert eager.is_plain(([args[0]], args[1], []))


def test_a_subclass_is_not(args: tuple[Any, ...]) -> None:
    class Named(Tensor):
        pass

    named = args[0].detach().as_subclass(Named)
    assert not eager.is_plain((named, *args[1:]))
    assert not eager.is_plain(([args[0], named], *args[1:]))


def test_autocast_is_not(args: tuple[Any, ...]) -> None:
    with torch.autocast("cpu"):
        assert not eager.is_plain(args)


def test_a_transform_is_not(args: tuple[Any, ...]) -> None:
    seen: list[bool] = []

    def function(x: Tensor) -> Tensor:
        seen.append(eager.is_plain((x, args[1])))
        return x

    torch.func.vmap(function)(args[0])
    assert seen == [False]


def test_forward_mode_is_not(args: tuple[Any, ...]) -> None:
    with forward_ad.dual_level():
        assert not eager.is_plain(args)


def test_a_dispatch_mode_is_not(args: tuple[Any, ...]) -> None:
    with FlopCounterMode(display=False):
        assert not eager.is_plain(args)


def test_no_graph_without_gradients(args: tuple[Any, ...]) -> None:
    with torch.no_grad():
        out = eager.run(SPEC, SimpleNamespace(forward=forward), args)
    assert CALLS == ["kernel"]
    assert out.grad_fn is None


def test_gradients_are_those_of_the_operator(args: tuple[Any, ...]) -> None:
    out = eager.run(SPEC, SimpleNamespace(forward=forward), args)
    assert CALLS == ["kernel"]
    inputs = [each for each in args if isinstance(each, Tensor)]
    got = torch.autograd.grad(out.square().sum(), inputs)
    wanted = torch.autograd.grad(SPEC.op(*args).square().sum(), inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_only_wanted_gradients_are_computed(args: tuple[Any, ...]) -> None:
    x, weight = args[0].detach(), args[1]
    out = eager.run(SPEC, SimpleNamespace(forward=forward), (x, weight, *args[2:]))
    out.sum().backward()
    assert x.grad is None
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_of_tensors_take_the_short_way(kind: type) -> None:
    spec = SPECS["distillation_fusion"]
    parts, weight, bias, scale, maps, *ends = next(
        each for each in spec.samples(Make(requires_grad=True)) if each.name == "everything"
    ).args
    args, seen = (kind(parts), weight, bias, scale, kind(maps), *ends), []

    def kernel(*given: Any) -> Tensor:
        seen.append(torch.is_grad_enabled())
        return spec.reference(*given)

    out = eager.run(spec, SimpleNamespace(forward=kernel), args)
    assert seen == [False]
    inputs = [
        each
        for each in (*parts, weight, bias, scale, *maps, *ends)
        if isinstance(each, Tensor) and each is not parts[1]
    ]
    got = torch.autograd.grad(out.square().sum(), inputs)
    wanted = torch.autograd.grad(spec.reference(*args).square().sum(), inputs)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other)


def test_a_gradient_in_a_list_is_enough() -> None:
    spec = SPECS["distillation_fusion"]
    parts, *others = next(iter(spec.samples(Make()))).args
    parts[1].requires_grad_()
    out = eager.run(spec, SimpleNamespace(forward=spec.reference), (parts, *others))
    out.sum().backward()
    assert parts[0].grad is None
    assert parts[1].grad.shape == parts[1].shape


class Keeping:
    """A backend of depthwise_conv that hands its result on to its own backward."""

    def __init__(self) -> None:
        self.kept: list[list[Tensor]] = []

    def forward(self, *args: Any) -> Tensor:
        raise AssertionError("a gradient is wanted")

    def forward_keeping(self, *args: Any) -> tuple[Tensor, list[Tensor]]:
        out = SPEC.reference(*args)
        return out, [out.clone()]

    def backward(self, grads: list[Tensor], wanted: list[bool], *args: Any, kept: list[Tensor]) -> list[Tensor]:
        self.kept.append(kept)
        operator: Any = torch.ops.lightsr.depthwise_conv_backward
        return list(operator(grads, wanted, *args))


def test_what_a_backend_keeps_comes_back(args: tuple[Any, ...]) -> None:
    kernels = Keeping()
    out = eager.run(SPEC, kernels, args)
    inputs = [each for each in args if isinstance(each, Tensor)]
    got = torch.autograd.grad(out.square().sum(), inputs)
    assert torch.equal(kernels.kept[0][0], out)
    wanted = torch.autograd.grad(SPEC.op(*args).square().sum(), inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_nothing_is_kept_without_gradients(args: tuple[Any, ...]) -> None:
    with torch.no_grad(), pytest.raises(AssertionError, match="a gradient is wanted"):
        eager.run(SPEC, Keeping(), args)


def test_kernels_that_keep_nothing_have_their_own_backward_called(args: tuple[Any, ...]) -> None:
    def backward(grads: list[Tensor], wanted: list[bool], *given: Any) -> list[Tensor]:
        CALLS.append("backward")
        return list(torch.ops.lightsr.depthwise_conv_backward(grads, wanted, *given))

    out = eager.run(SPEC, SimpleNamespace(forward=forward, backward=backward), args)
    inputs = [each for each in args if isinstance(each, Tensor)]
    got = torch.autograd.grad(out.square().sum(), inputs)
    assert CALLS == ["kernel", "backward"]
    wanted = torch.autograd.grad(SPEC.op(*args).square().sum(), inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


def test_the_operator_is_the_way_where_a_kept_backward_would_not_do(args: tuple[Any, ...]) -> None:
    kernels = Keeping()
    out = eager.run(SPEC, kernels, args)
    (grad,) = torch.autograd.grad(out.square().sum(), args[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^depthwise_conv: the fused operator differentiates once"):
        grad.sum().backward()
    for mode in (torch.autocast("cpu", torch.bfloat16), FlopCounterMode(display=False)):
        total = eager.run(SPEC, kernels, args).sum()
        with mode:
            total.backward()
    x = args[0].detach()[:0].requires_grad_()
    eager.run(SPEC, kernels, (x, *args[1:])).sum().backward()
    assert not kernels.kept


def test_second_gradients_are_refused(args: tuple[Any, ...]) -> None:
    out = eager.run(SPEC, SimpleNamespace(forward=forward), args)
    (grad,) = torch.autograd.grad(out.square().sum(), args[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"^depthwise_conv: the fused operator differentiates once"):
        grad.sum().backward()


@pytest.mark.parametrize("name", ["depthwise_conv", "large_kernel_attention"])
def test_forward_mode_has_the_values_of_the_reference(name: str) -> None:
    spec = SPECS[name]
    x, *others = next(iter(spec.samples(Make(torch.float64)))).args
    tangent = torch.randn_like(x)
    got = torch.func.jvp(lambda value: call(spec, value, *others), (x,), (tangent,))[1]
    wanted = torch.func.jvp(lambda value: spec.reference(value, *others), (x,), (tangent,))[1]
    assert wanted.any()
    torch.testing.assert_close(got, wanted)


def test_gradients_inside_autocast_are_those_outside() -> None:
    spec = SPECS["large_kernel_attention"]
    args = next(iter(spec.samples(Make(requires_grad=True)))).args
    inputs = [each for each in args if isinstance(each, Tensor)]
    wanted = torch.autograd.grad(call(spec, *args).square().sum(), inputs)
    out = call(spec, *args).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(out, inputs)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@pytest.mark.parametrize("name", ["distillation_fusion", "instance_norm_attention", "depthwise_conv"])
def test_torch_func_differentiates_by_the_reference(name: str) -> None:
    spec = SPECS[name]
    sample = next(iter(spec.samples(Make(torch.float64))))
    first = sample.args[0]
    x = first if isinstance(first, torch.Tensor) else first[0]

    def loss(value: torch.Tensor) -> torch.Tensor:
        given = value if isinstance(first, torch.Tensor) else [value, *first[1:]]
        total: torch.Tensor = call(spec, given, *sample.args[1:]).square().sum()
        return total

    y = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(y), y)
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(torch.stack([x, x]))[1], wanted)


def test_what_was_kept_goes_with_the_graph() -> None:
    spec = SPECS["instance_norm_attention"]
    sample = next(iter(spec.samples(Make(requires_grad=True))))
    out = call(spec, *sample.args)
    node, sizes = out.grad_fn, []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: sizes.append(each.shape) or each, lambda each: each):
        call(spec, *sample.args)
    assert len(sizes) > sum(isinstance(each, torch.Tensor) for each in sample.args)  # offloading sees what is kept
    out.sum().backward()
    with pytest.raises(RuntimeError, match="freed"):
        node.saved_tensors  # noqa: B018


def adding(name: str, x: Tensor, residual: Tensor) -> Tensor:
    """A call that adds a residual to what is a 3x3, or 1x1, convolution of x."""
    weight = torch.randn(3, 1 if name == "depthwise_conv" else 3, *[1 if name == "distillation_fusion" else 3] * 2)
    first: Any = [x] if name == "distillation_fusion" else x
    return cast(Tensor, getattr(ops, name)(first, weight.double(), residual=residual))


@pytest.mark.parametrize("name", ["distillation_fusion", "dense_conv", "depthwise_conv"])
@pytest.mark.parametrize("wanted", ["both", "x", "residual", "the same"])
def test_what_is_only_added_is_not_kept(name: str, wanted: str) -> None:
    kept: list[int] = []

    def see(value: Tensor) -> Tensor:
        kept.append(value.data_ptr())
        return value

    found = []
    for backend in ("auto", "reference"):
        torch.manual_seed(0)
        x = torch.randn(1, 3, 6, 7).double().requires_grad_(wanted != "residual")
        residual = x if wanted == "the same" else torch.randn(1, 3, 6, 7).double().requires_grad_(wanted != "x")
        with ops.backend(backend), torch.autograd.graph.saved_tensors_hooks(see, lambda value: value):
            out = adding(name, x, residual)
        leaves = list({id(each): each for each in (x, residual) if each.requires_grad}.values())
        found.append(torch.autograd.grad((out * torch.arange(7)).sum(), leaves))
        if backend == "auto" and wanted != "the same" and ops.explain(name).backend == "cpu":
            assert residual.data_ptr() not in kept and x.data_ptr() in kept
    for got, plain in zip(*found, strict=True):
        torch.testing.assert_close(got, plain)
