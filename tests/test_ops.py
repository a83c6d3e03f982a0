"""One matrix over every OpSpec: what holds for one op holds for all."""

from __future__ import annotations

import doctest
import inspect
import io
from typing import Any

import pytest
import torch
from op_cases import (
    LAYOUTS,
    Runner,
    change,
    doubled,
    each_op,
    each_runner,
    filled,
    largest,
    lay_out,
    of_tensors,
    outputs,
    picture,
    tensors,
)
from torch import Tensor
from torch.fx.experimental import _config as shapes

import lightsr_kernels
from lightsr_kernels.dispatch import call
from lightsr_kernels.functional import layout_of
from lightsr_kernels.spec import SPECS, BadInput, Make, OpSpec

BAD_INPUTS = [
    pytest.param(spec, bad, id=f"{spec.name}-{bad.name}") for spec in SPECS.values() for bad in spec.bad_inputs(Make())
]
BAD_NAMES = [(param.values[0].name, param.values[1].name) for param in BAD_INPUTS]


def same(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> bool:
    """Equal to the bit, NaN equal to NaN."""
    return all(
        torch.equal(torch.nan_to_num(a, 7e7), torch.nan_to_num(b, 7e7)) for a, b in zip(got, wanted, strict=True)
    )


def public(spec: OpSpec) -> Any:
    return getattr(lightsr_kernels, spec.name)


@each_op
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("grad", [False, True], ids=["no-grad", "grad"])
def test_opcheck(spec: OpSpec, layout: str, grad: bool) -> None:
    samples = list(spec.samples(Make(requires_grad=grad)))
    for sample in samples if layout == "contiguous" else samples[:1]:
        torch.library.opcheck(spec.op, lay_out(sample.args, layout))


@each_op
def test_gradients(spec: OpSpec) -> None:
    for sample in filled(spec.samples(Make(torch.float64, requires_grad=True))):
        for function in (spec.op, spec.reference):
            torch.autograd.gradcheck(of_tensors(function, sample.args), tensors(sample.args), fast_mode=True)


@each_op
def test_second_gradients_of_the_reference(spec: OpSpec) -> None:
    for sample in filled(spec.samples(Make(torch.float64, requires_grad=True))):
        torch.autograd.gradgradcheck(of_tensors(spec.reference, sample.args), tensors(sample.args), fast_mode=True)


@each_op
def test_second_gradients_of_the_operator_are_refused(spec: OpSpec) -> None:
    sample = next(filled(spec.samples(Make(requires_grad=True))))
    out = outputs(spec.op(*sample.args))[0]
    (grad,) = torch.autograd.grad(out.square().sum(), picture(sample.args), create_graph=True)
    with pytest.raises(RuntimeError, match=rf"^{spec.name}: the fused operator differentiates once"):
        grad.sum().backward()


def equal_in_float64(got: Tensor, wanted: Tensor) -> None:
    """To 1e-11 of the largest value, or of 1: what is small by cancellation has the error of what was cancelled."""
    largest = float(wanted.abs().max()) if wanted.numel() else 0.0
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11 * max(1.0, largest))


@each_op
def test_gradients_of_the_operator_equal_those_of_the_reference(spec: OpSpec) -> None:
    for sample in spec.samples(Make(torch.float64, requires_grad=True)):
        inputs = tensors(sample.args)
        for index in range(len(outputs(spec.op(*sample.args)))):  # one result may be used and the other not
            got, wanted = (
                torch.autograd.grad(
                    outputs(function(*sample.args))[index].square().sum(),
                    inputs,
                    allow_unused=True,
                    materialize_grads=True,
                )
                for function in (spec.op, spec.reference)
            )
            for one, other in zip(got, wanted, strict=True):
                equal_in_float64(one, other)


@each_op
def test_each_argument_may_be_the_only_one_with_a_gradient(spec: OpSpec) -> None:
    for sample in list(filled(spec.samples(Make(torch.float64))))[:3]:
        for index in range(len(tensors(sample.args))):
            grads = []
            for function in (spec.op, spec.reference):
                inputs = [each.clone() for each in tensors(sample.args)]
                inputs[index].requires_grad_()
                out = of_tensors(function, sample.args)(*inputs)
                loss = sum(each.square().sum() for each in out if each.requires_grad)
                grads.append(torch.autograd.grad(loss, inputs[index])[0])
            equal_in_float64(*grads)


@each_runner
@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_of_wider"])
def test_layouts(run: Runner, layout: str) -> None:
    for sample in run.samples(torch.float64):
        args = lay_out(sample.args, layout)
        plain = change(args, lambda each: each.clone(memory_format=torch.contiguous_format))
        for got, wanted in zip(run(*args), run(*plain), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
            if got.dim() == 4:
                assert got.is_contiguous(memory_format=layout_of(picture(args))), sample.name


def test_some_channels_of_a_channels_last_picture_are_channels_last() -> None:
    x = torch.randn(2, 12, 5, 7).contiguous(memory_format=torch.channels_last)
    for each in (x, x[:, 3:7], x[:1, 3:7], x[:, 3:7, 1:4, 2:6], x[:, 3:7, :1], x[:, 3:7, :, :1], x[:1, :, :1]):
        assert layout_of(each) == torch.channels_last
    tokens = torch.randn(2, 5, 12)[:, :, 3:7].mT.unsqueeze(-1)  # a slice whose only column has any stride
    assert layout_of(tokens) == torch.channels_last
    for each in (
        x[:, 3:7, :1, :1],
        x.contiguous()[:, 3:7],
        x.contiguous()[:, :, 1:4],
        x[:, :1],
        x[:, :1].expand(-1, 3, -1, -1),
        x.mT,
    ):
        assert layout_of(each) == torch.contiguous_format


@each_runner
def test_first_picture_sets_the_layout(run: Runner) -> None:
    for sample in run.samples():
        first = picture(sample.args)
        mixed = change(
            sample.args,
            lambda each, first=first: (
                each.contiguous(memory_format=torch.channels_last) if each.dim() == 4 and each is not first else each
            ),
        )
        for got in run(*mixed):
            assert got.is_contiguous(), sample.name


@each_runner
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_low_precision_is_as_exact_as_eager(run: Runner, dtype: torch.dtype) -> None:
    for sample in filled(run.samples(dtype)):
        exact = outputs(run.spec.reference(*change(sample.args, Tensor.double)))
        eager, mine = outputs(run.spec.reference(*sample.args)), run(*sample.args)
        for got, plain, wanted in zip(mine, eager, exact, strict=True):
            assert got.dtype == dtype
            error, allowed = got.double() - wanted, plain.double() - wanted
            if wanted.numel():
                assert error.abs().max() <= 1.25 * allowed.abs().max(), sample.name
                assert error.norm() <= 1.25 * allowed.norm(), sample.name


@each_runner
def test_whole_numbers_are_exact(run: Runner) -> None:
    if not run.spec.exact_on_integers:
        pytest.skip("it rounds")
    for layout in LAYOUTS:
        for sample in run.samples(integers=True):
            args = lay_out(sample.args, layout)
            exact = outputs(run.spec.reference(*change(args, Tensor.double)))
            assert same(run(*args), tuple(each.float() for each in exact)), (sample.name, layout)


@each_runner
def test_twenty_runs_give_the_same_bits(run: Runner) -> None:
    for sample in run.samples(requires_grad=True):
        inputs, runs = tensors(sample.args), []
        for _ in range(20):
            out = run(*sample.args)
            loss = sum(each.square().sum() for each in out)
            grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
            runs.append((*(each.detach() for each in out), *grads))
        assert all(same(each, runs[0]) for each in runs), sample.name


@each_runner
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_a_pixel_that_is_no_number_spreads_as_in_the_reference(run: Runner, value: float) -> None:
    for sample in filled(run.samples()):
        x = picture(sample.args)
        x[-1, 0, x.shape[2] // 2, x.shape[3] // 2] = value
        exact = outputs(run.spec.reference(*change(sample.args, Tensor.double)))
        for got, wanted, right in zip(run(*sample.args), outputs(run.spec.reference(*sample.args)), exact, strict=True):
            assert torch.equal(got.isfinite(), wanted.isfinite()), sample.name
            # PyTorch's float32 gelu of infinity is NaN or infinity, by where in memory the number lies.
            assert any(torch.equal(got.isnan(), each.isnan()) for each in (wanted, right)), sample.name
            assert got[: x.shape[0] - 1].isfinite().all() or got.dim() != 4, sample.name  # the pictures before it


@pytest.mark.parametrize(("spec", "bad"), BAD_INPUTS)
def test_bad_input(spec: OpSpec, bad: BadInput) -> None:
    with pytest.raises(bad.error, match=bad.match) as caught:
        public(spec)(**dict(zip(inspect.signature(public(spec)).parameters, bad.args, strict=True)))
    message = str(caught.value)
    assert message.startswith(f"{spec.name}: ")
    assert "\n" not in message


def test_bad_inputs_have_names_of_their_own() -> None:
    assert len(set(BAD_NAMES)) == len(BAD_NAMES)


@each_op
def test_public_function_takes_the_arguments_of_the_schema(spec: OpSpec) -> None:
    arguments = [each.name for each in spec.op.default._schema.arguments]
    parameters = inspect.signature(public(spec)).parameters
    assert list(parameters) == arguments
    for sample in spec.samples(Make()):
        got = public(spec)(**dict(zip(arguments, sample.args, strict=True)))
        assert same(outputs(got), outputs(call(spec, *sample.args)))


@each_op
def test_missing_options_are_those_of_the_first_call(spec: OpSpec) -> None:
    """An optional tensor left out, None or an empty list given: the same call."""
    function = public(spec)
    parameters = inspect.signature(function).parameters
    optional = [each.name for each in parameters.values() if each.default is None]
    required = [each.name for each in parameters.values() if each.default is inspect.Parameter.empty]
    for sample in spec.samples(Make()):
        given = dict(zip(parameters, sample.args, strict=True))
        if all(given[name] is None or given[name] == [] for name in optional):
            others = {name: value for name, value in given.items() if name not in (*optional, *required)}
            short = function(**{name: given[name] for name in required}, **others)
            assert same(outputs(short), outputs(function(**given)))


@each_runner
def test_no_pictures(run: Runner) -> None:
    empty = [sample for sample in run.samples(requires_grad=True) if picture(sample.args).shape[0] == 0]
    assert empty
    for sample in empty:
        out = run(*sample.args)
        assert all(each.numel() == 0 for each in out)
        grads = torch.autograd.grad(
            sum(each.sum() for each in out), tensors(sample.args), allow_unused=True, materialize_grads=True
        )
        assert all(not grad.any() for grad in grads)


@each_op
def test_compiles_without_a_break(spec: OpSpec) -> None:
    torch._dynamo.reset()
    function, parameters = public(spec), list(inspect.signature(public(spec)).parameters)
    for sample in list(filled(spec.samples(Make(requires_grad=True))))[:2]:
        keywords = dict(zip(parameters, sample.args, strict=True))
        compiled = torch.compile(lambda given: function(**given), backend="aot_eager", fullgraph=True)
        for got, wanted in zip(outputs(compiled(keywords)), outputs(function(**keywords)), strict=True):
            torch.testing.assert_close(got, wanted)
            assert got.stride() == wanted.stride()


@each_op
def test_operator_compiles_once_for_all_sizes(spec: OpSpec) -> None:
    torch._dynamo.reset()
    sample = largest(spec.samples(Make(requires_grad=True)))
    function, twice = of_tensors(spec.op, sample.args), doubled(sample.args)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    once = torch._dynamo.config.patch(error_on_recompile=True)
    independent = shapes.patch(use_duck_shape=False)  # sizes that happen to be equal in the first call
    with once, independent:
        for args in (sample.args, twice, doubled(twice)):
            for got, wanted in zip(compiled(*tensors(args)), function(*tensors(args)), strict=True):
                torch.testing.assert_close(got, wanted)


class Exported(torch.nn.Module):
    def __init__(self, function: Any, args: Any) -> None:
        super().__init__()
        self.flat = of_tensors(function, args)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return self.flat(*values)


@each_op
@pytest.mark.parametrize("way", ["public", "operator"])
def test_export_round_trip(spec: OpSpec, way: str) -> None:
    function = spec.op if way == "operator" else lambda *args: call(spec, *args)
    sample = largest(spec.samples(Make()))
    usual = doubled(sample.args)  # so that no number of windows or pooled pixels is 1, which is a size of its own
    values, twice = tensors(usual), tensors(doubled(usual))
    auto = torch.export.Dim.AUTO
    shapes = [
        {axis: auto for axis, (one, two) in enumerate(zip(small.shape, large.shape, strict=True)) if one != two}
        for small, large in zip(values, twice, strict=True)
    ]
    program = torch.export.export(Exported(function, sample.args), tuple(values), dynamic_shapes=(tuple(shapes),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for inputs in (values, twice):
        wanted = of_tensors(spec.reference, sample.args)(*inputs)
        for got, each in zip(loaded(*inputs), wanted, strict=True):
            torch.testing.assert_close(got, each)


@each_runner
def test_vmap_works_or_raises(run: Runner) -> None:
    for sample in list(filled(run.samples()))[:3]:
        flat, values = of_tensors(run, sample.args), tensors(sample.args)
        try:
            got = torch.func.vmap(flat)(*[torch.stack([each, -each]) for each in values])
        except RuntimeError as error:  # torch has no rule for operators that take lists
            assert run.backend != "reference"
            assert "Batching rule not implemented" in str(error)
            continue
        for index, sign in enumerate((1, -1)):
            for one, wanted in zip(got, flat(*[sign * each for each in values]), strict=True):
                torch.testing.assert_close(one[index], wanted, rtol=1e-4, atol=1e-4)


@each_runner
def test_autocast_gives_the_dtype_of_eager(run: Runner) -> None:
    for sample in run.samples(requires_grad=True):
        first = picture(sample.args)
        exact = outputs(run.spec.reference(*change(sample.args, Tensor.double)))
        for args in (
            sample.args,
            change(sample.args, lambda each, first=first: each.bfloat16() if each.shape == first.shape else each),
        ):
            with torch.autocast(run.device, torch.bfloat16):
                eager, mine = outputs(run.spec.reference(*args)), run(*args)
            for got, plain, wanted in zip(mine, eager, exact, strict=True):
                assert got.dtype == plain.dtype, sample.name
                if wanted.numel():
                    error, allowed = got.double() - wanted, plain.double() - wanted
                    assert error.norm() <= 1.25 * allowed.norm(), sample.name
            sum(each.sum() for each in mine).backward()
            assert all(each.grad is None or each.grad.dtype == torch.float32 for each in tensors(sample.args))


@each_op
def test_docstring(spec: OpSpec) -> None:
    function = public(spec)
    text = inspect.getdoc(function) or ""
    for section in (
        "Equivalent to::",
        "Args:",
        "Returns:",
        "Dtypes:",
        "Gradients:",
        "Deterministic",
        "Raises ",
        "Source:",
    ):
        assert section in text, section
    for name in inspect.signature(function).parameters:
        assert f"\n    {name}: " in text, name
    (example,) = doctest.DocTestFinder(recurse=False).find(function, spec.name, globs={})
    report: list[str] = []
    failed, tried = doctest.DocTestRunner().run(example, out=report.append)
    assert not failed, "".join(report)
    assert tried and any(each.want for each in example.examples)
    assert spec.source


@each_op
def test_cost(spec: OpSpec) -> None:
    costs = []
    for sample in spec.samples(Make()):
        cost = spec.cost(*sample.args)
        x = picture(sample.args)
        assert cost.bytes >= x.numel() * x.element_size(), sample.name
        assert cost.bytes == 2 * spec.cost(*change(sample.args, Tensor.half)).bytes, sample.name
        assert cost.flops >= 0 and (cost.flops > 0) <= (x.numel() > 0), sample.name
        costs.append(cost.flops)
    assert max(costs) > 0
