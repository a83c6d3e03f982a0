"""attended_conv: what its taps see, the gate in the filters by kernels and by torch, and which calls have it there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from op_cases import filled, of_tensors, tensors
from simd_levels import LEVELS, operators
from torch import Tensor, nn

import lightsr_kernels
from lightsr_kernels import attended_conv
from lightsr_kernels.attended_conv import native
from lightsr_kernels.attended_conv.composed import in_filters, scaled_filters, seen_by_taps
from lightsr_kernels.attended_conv.reference import reference
from lightsr_kernels.dispatch import why_not
from lightsr_kernels.spec import SPECS, Make

SPEC = SPECS["attended_conv"]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
SIZES = [(1, 1), (1, 5), (2, 2), (4, 7), (19, 83)]
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
each_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
needs_kernels = pytest.mark.skipif(why_not("cpu", SPEC, "cpu") is not None, reason="needs the compiled kernels")


def arguments(
    make: Make, size: tuple[int, int], c: int = 17, outs: int = 21, k: tuple[int, int] = (3, 3)
) -> list[Tensor]:
    """A call for one picture whose gates are all over 0 to 1."""
    convolution = make(outs, c, *k, scale=(c * k[0] * k[1]) ** -0.5), make(outs)
    x = make(1, c, *size, offset=0.5)
    return [x, *convolution, make(3, outs, 1, 1), make(3, offset=1.0), make(outs, 3, 1, 1), make(outs)]


@pytest.fixture(scope="module", params=LEVELS)
def at_level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The kernels compiled for one level of SIMD."""
    with operators(request.param, tmp_path_factory.mktemp(request.param), "attended_conv", native, ["filters"]):
        yield


def scaled(args: list[Tensor]) -> list[Tensor | None]:
    """What the kernel makes of weight and bias."""
    bias = args[2]
    out = [torch.full_like(args[1], 7.0), None if bias is None else torch.full_like(bias, 7.0)]
    native._filters(*args, *out)
    return out


@each_size
@pytest.mark.parametrize("k", [(1, 1), (3, 3), (5, 3), (7, 7)], ids=lambda k: f"k{k[0]}x{k[1]}")
def test_what_taps_see_gives_the_mean_of_a_convolution(size: tuple[int, int], k: tuple[int, int]) -> None:
    x = torch.randint(-9, 10, (2, 5, *size), dtype=torch.float64)
    weight = torch.randint(-9, 10, (4, 5, *k), dtype=torch.float64)
    sums = F.conv2d(x, weight, padding="same").sum((2, 3), keepdim=True)
    assert torch.equal(F.conv2d(seen_by_taps(x, *k), weight), sums)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@each_layout
@each_size
def test_kernels_scale_filters_at_every_level(
    at_level: None, size: tuple[int, int], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    rounding = torch.finfo(dtype).eps
    for k, outs in (((3, 3), 21), ((7, 5), 4), ((1, 1), 16)):
        exact = arguments(Make(torch.float64), size, outs=outs, k=k)
        args = [each.to(dtype) for each in exact]
        wanted = scaled_filters(*[each.double() for each in args])
        found = scaled([args[0].contiguous(memory_format=layout), *args[1:]])
        for got, want in zip(found, wanted, strict=True):
            assert got is not None and got.dtype == dtype
            torch.testing.assert_close(got.double(), want, rtol=0, atol=20 * rounding * float(want.abs().max()))


def test_kernels_do_without_biases(at_level: None) -> None:
    x, weight, _, down, _, up, _ = arguments(Make(torch.float64), (5, 9))
    args = [x, weight, None, down, None, up, None]
    torch.testing.assert_close(scaled(args)[0], scaled_filters(*args)[0])
    assert scaled(args)[1] is None


@needs_kernels
@each_layout
def test_results_do_not_depend_on_threads(layout: torch.memory_format) -> None:
    args = [each.contiguous(memory_format=layout) if each.dim() == 4 else each for each in arguments(Make(), (37, 50))]
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(attended_conv(*args))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)


@each_layout
@pytest.mark.parametrize("pictures", [1, 3])
def test_float32_errs_as_little_as_eager(pictures: int, layout: torch.memory_format) -> None:
    make = Make()
    args = [make(pictures, 17, 40, 53, offset=0.5).contiguous(memory_format=layout), *arguments(make, (1, 1))[1:]]
    exact = reference(*[each.double() for each in args])
    ours, eager = (float((each.double() - exact).abs().max()) for each in (attended_conv(*args), reference(*args)))
    assert ours <= 1.25 * eager


class Block(nn.Module):
    """As RCAN's: a convolution, then squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(y, 1)))))


@pytest.mark.parametrize("pictures", [1, 2])
@pytest.mark.parametrize("grad", [False, True], ids=["no-grad", "grad"])
def test_it_is_the_block_that_people_write(pictures: int, grad: bool) -> None:
    torch.manual_seed(0)
    block = Block().double()
    x = torch.randn(pictures, 6, 11, 14, dtype=torch.float64, requires_grad=grad)
    parameters = [each for layer in (block.conv, block.down, block.up) for each in (layer.weight, layer.bias)]
    with torch.set_grad_enabled(grad):
        got, wanted = attended_conv(x, *parameters), block(x)
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-11)
    if grad:
        inputs = [x, *parameters]
        ours, theirs = (torch.autograd.grad(each.square().sum(), inputs) for each in (got, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_pixel_that_is_no_number_spreads_everywhere() -> None:
    """As in plain PyTorch, where it is in the mean."""
    args = arguments(Make(), (12, 15))
    args[0][0, 3, 4, 5] = float("nan")
    assert reference(*args).isnan().all() and attended_conv(*args).isnan().all()


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The pictures whose gates the kernel has put into filters."""
    calls: list[Tensor] = []
    kernel = native._filters

    def counted(x: Tensor, *others: Tensor | None) -> None:
        calls.append(x)
        kernel(x, *others)

    monkeypatch.setattr(native, "_filters", counted)
    return calls


@needs_kernels
def test_which_calls_have_the_gate_by_the_kernel(kernel_calls: list[Tensor]) -> None:
    """One picture in float32 or float64 where no gradients are wanted."""
    args = arguments(Make(), (9, 9))
    attended_conv(*args)
    SPEC.op(*[each.double() for each in args])
    assert [each.dtype for each in kernel_calls] == [torch.float32, torch.float64]
    x, weight, *others = args
    attended_conv(torch.cat([x, x]), weight, *others)
    attended_conv(*[each.bfloat16() for each in args])
    attended_conv(x, weight.clone().requires_grad_(), *others)
    with torch.autocast("cpu", torch.bfloat16):
        attended_conv(*args)
    with lightsr_kernels.backend("reference"):
        attended_conv(*args)
    assert len(kernel_calls) == 2


def test_a_compiled_call_is_the_operator_unless_gradients_are_wanted() -> None:
    args, graphs = arguments(Make(), (9, 9)), []

    def keep(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append({str(node.target) for node in graph.graph.nodes})
        return graph.forward

    compiled = torch.compile(attended_conv, backend=keep, fullgraph=True)
    with torch.no_grad():
        compiled(*args)
    args[1].requires_grad_()
    compiled(*args)
    whole, parts = graphs
    assert "lightsr.attended_conv" in whole and "lightsr.dense_conv" not in whole
    assert "lightsr.dense_conv" in parts and "lightsr.attended_conv" not in parts


def test_gradients_of_the_function() -> None:
    for sample in filled(SPEC.samples(Make(torch.float64, requires_grad=True))):
        flat = of_tensors(attended_conv, sample.args)
        torch.autograd.gradcheck(flat, tensors(sample.args), fast_mode=True)
        with lightsr_kernels.backend("reference"):
            torch.autograd.gradgradcheck(flat, tensors(sample.args), fast_mode=True)


def test_another_device_has_shapes() -> None:
    args = [each.to("meta") for each in arguments(Make(), (9, 11))]
    assert attended_conv(*args).shape == (1, 21, 9, 11)


def test_where_the_gate_is_in_the_filters() -> None:
    """For one picture, but not where filters would be rounded once more, or cast by autocast."""
    args = arguments(Make(), (9, 9))
    x = args[0]
    assert in_filters(x) and in_filters(x.double())
    assert not (in_filters(x.bfloat16()) or in_filters(x.half()) or in_filters(torch.cat([x, x])))
    with torch.autocast("cpu", torch.bfloat16):
        assert not in_filters(x)
        out = attended_conv(*args)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), reference(*args), rtol=0.05, atol=0.05)
