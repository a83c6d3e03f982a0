"""accelerate: depthwise convolutions of any network swapped in place, and told why not where they are not."""

from __future__ import annotations

import copy
import doctest
import io
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import lightsr_kernels
from lightsr_kernels.accelerate import Acceleration, accelerate, restore
from lightsr_kernels.modules import DepthwiseConv2d


def depthwise(channels: int, k: int, **settings: object) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, k, padding=k // 2, groups=channels, **settings)  # type: ignore[arg-type]


class PictureNorm(nn.LayerNorm):
    """LayerNorm over the channels of [N, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise, norm, MLP, layer scale; the MLP by linear layers on pixels or by 1x1 convolutions."""

    def __init__(self, channels: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.dwconv = depthwise(channels, 7)
        self.norm = nn.LayerNorm(channels) if linear else PictureNorm(channels)
        narrow, wide = (channels, 4 * channels), (4 * channels, channels)
        self.first = nn.Linear(*narrow) if linear else nn.Conv2d(*narrow, 1)
        self.second = nn.Linear(*wide) if linear else nn.Conv2d(*wide, 1)
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        y = y.permute(0, 2, 3, 1) if self.linear else y
        y = self.second(F.gelu(self.first(self.norm(y))))
        return x + self.scale * (y.permute(0, 3, 1, 2) if self.linear else y)


def convnext(linear: bool) -> nn.Module:
    blocks = [ConvNeXtBlock(16, linear), ConvNeXtBlock(16, linear)]
    shrink = [PictureNorm(16), nn.Conv2d(16, 24, 2, stride=2)]
    return nn.Sequential(nn.Conv2d(3, 16, 2, stride=2), PictureNorm(16), *blocks, *shrink, ConvNeXtBlock(24, linear))


class LargeAndSmall(nn.Module):
    """31x31 and 5x5 depthwise branches with batch norms, added; merged into one 31x31 for use."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.large = nn.Sequential(depthwise(channels, 31, bias=False), nn.BatchNorm2d(channels))
        self.small = nn.Sequential(depthwise(channels, 5, bias=False), nn.BatchNorm2d(channels))
        self.merged: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.merged(x) if self.merged is not None else self.large(x) + self.small(x)

    def merge(self) -> None:
        (large, large_bias), (small, small_bias) = (self.folded(*branch) for branch in (self.large, self.small))
        self.merged = depthwise(large.shape[0], 31).to(large.dtype)
        with torch.no_grad():
            self.merged.weight.copy_(large + F.pad(small, [13] * 4))
            self.merged.bias.copy_(large_bias + small_bias)  # type: ignore[union-attr]
        del self.large, self.small

    @staticmethod
    def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
        return conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


class RepLKBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
        self.large = LargeAndSmall(channels)
        self.last = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(F.relu(self.large(self.first(x))))


def replk(merged: bool) -> nn.Module:
    stem = [nn.Conv2d(3, 8, 3, stride=2, padding=1), depthwise(8, 3), nn.Conv2d(8, 8, 3, 2, 1, groups=8)]
    model = nn.Sequential(*stem, RepLKBlock(8), RepLKBlock(8))
    for module in list(model.modules()):
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean, std=0.1)  # type: ignore[arg-type]
    if merged:
        for block in model[3:]:
            block.large.merge()
        model.eval()
    return model


STACKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # the model, how many are swapped, how many kept
    "convnext-linear": (lambda: convnext(True), 3, 2),
    "convnext-conv": (lambda: convnext(False), 3, 8),
    "replk-branches": (lambda: replk(False), 5, 6),
    "replk-merged": (lambda: replk(True), 3, 6),
}
each_stack = pytest.mark.parametrize("name", STACKS)


@each_stack
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
def test_outputs_and_gradients_are_those_of_before(name: str, layout: torch.memory_format) -> None:
    make, swapped, kept = STACKS[name]
    plain = make().to(torch.float64, memory_format=layout)
    mine = copy.deepcopy(plain)
    report = accelerate(mine)
    assert (len(report.swapped), len(report.kept)) == (swapped, kept)
    assert sum(type(each) is DepthwiseConv2d for each in mine.modules()) == swapped
    x = torch.randn(2, 3, 34, 26, dtype=torch.float64).to(memory_format=layout)
    results = []
    for model in (plain, mine):
        given = x.clone().requires_grad_()
        out = model(given)
        out.square().mean().backward()
        results.append([out, given.grad, *(each.grad for each in model.parameters()), *model.buffers()])
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


@each_stack
def test_float32_stays_within_tolerance(name: str) -> None:
    plain = STACKS[name][0]()
    mine, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    accelerate(mine)
    x = torch.randn(2, 3, 34, 26)
    got, wanted = mine(x), exact(x.double())
    assert (got - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@each_stack
def test_state_dict_goes_both_ways(name: str) -> None:
    plain, mine = STACKS[name][0](), STACKS[name][0]()
    accelerate(mine)
    mine.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 34, 26)
    torch.testing.assert_close(mine.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-4)
    again = STACKS[name][0]()
    again.load_state_dict(mine.state_dict())
    assert torch.equal(again.eval()(x), plain(x))


@each_stack
def test_copies_are_accelerated_too(name: str) -> None:
    mine = STACKS[name][0]().eval()
    accelerate(mine)
    x = torch.randn(1, 3, 34, 26)
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    for other in (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), torch.load(file, weights_only=False)):
        assert [type(each) for each in other.modules()] == [type(each) for each in mine.modules()]
        assert torch.equal(other(x), mine(x))


@pytest.mark.parametrize("name", ["convnext-linear", "replk-merged"])
def test_it_compiles_whole_and_exports(name: str) -> None:
    torch._dynamo.reset()
    mine = STACKS[name][0]().eval()
    x = torch.randn(2, 3, 34, 26)
    wanted = mine(x)
    accelerate(mine)
    torch.testing.assert_close(torch.compile(mine, backend="aot_eager", fullgraph=True)(x), wanted)
    torch.testing.assert_close(torch.export.export(mine, (x,)).module()(x), wanted)


def test_a_compiled_model_is_compiled_anew() -> None:
    torch._dynamo.reset()
    model, x = nn.Sequential(depthwise(4, 3)), torch.randn(1, 4, 5, 5)
    seen = []

    def look(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        seen.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=look, fullgraph=True)
    wanted = compiled(x)
    assert accelerate(compiled).swapped == ["_orig_mod.0"]
    torch.testing.assert_close(compiled(x), wanted)
    assert len(seen) == 2


@pytest.mark.parametrize("name", ["convnext-conv", "replk-merged"])
def test_autocast_gives_what_it_gave(name: str) -> None:
    plain = STACKS[name][0]().eval()
    mine, x = copy.deepcopy(plain), torch.randn(1, 3, 34, 26)
    accelerate(mine)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, got = plain(x), mine(x)
    assert got.dtype == wanted.dtype
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.05)


def test_nothing_else_changes() -> None:
    model = nn.Sequential(depthwise(4, 3), nn.ReLU(), nn.Conv2d(4, 8, 1))
    model[0].eval()
    model[0].weight.requires_grad_(False)
    modules, parameters, calls = list(model.modules()), list(model.parameters()), []
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].register_forward_pre_hook(lambda module, args: calls.append("before"))
    model[0].register_forward_hook(lambda module, args, out: calls.append("after"))
    model[0].register_full_backward_hook(lambda module, grads, more: calls.append("back"))
    assert accelerate(model).swapped == ["0"]
    assert all(one is other for one, other in zip(model.modules(), modules, strict=True))
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert (model[0].training, model.training, model[0].weight.requires_grad) == (False, True, False)
    model(torch.randn(1, 4, 5, 5, requires_grad=True)).sum().backward()
    assert calls == ["before", "after", "back"]


def test_an_optimizer_made_before_trains_the_same_weights() -> None:
    model = nn.Sequential(depthwise(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    accelerate(model)
    before = model[0].weight.detach().clone()
    model(torch.randn(1, 4, 5, 5)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model[0].weight, before)


def test_a_module_used_twice_is_told_once_and_stays_one() -> None:
    shared = depthwise(4, 3)
    model = nn.ModuleDict({"one": shared, "two": nn.Sequential(shared)})
    report = accelerate(model)
    assert report.swapped == ["one"]
    assert not report.kept
    assert model["one"] is model["two"][0] is shared
    assert type(shared) is DepthwiseConv2d


def test_the_model_may_be_a_convolution_itself() -> None:
    conv, x = depthwise(4, 3), torch.randn(1, 4, 5, 5)
    wanted = conv(x)
    report = accelerate(conv)
    assert report.swapped == [""]
    assert str(report) == "1 of 1 convolutions swapped\n  swapped (the model itself)"
    torch.testing.assert_close(conv(x), wanted)


class Flipped(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.flip(3))


def replaced() -> nn.Module:
    conv = depthwise(4, 3)
    conv.forward = lambda input: input  # type: ignore[method-assign]
    return conv


def prepared() -> nn.Module:
    conv = depthwise(4, 3)
    conv.qconfig = torch.ao.quantization.get_default_qconfig()  # type: ignore[assignment]
    return conv


class Half4(Tensor):
    pass


def with_a_weight_of_another_kind() -> nn.Module:
    conv = depthwise(4, 3)
    conv.weight = nn.Parameter(conv.weight.detach().as_subclass(Half4))
    return conv


KEPT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "ordinary": (lambda: nn.Conv2d(4, 4, 3, padding=1), "groups must equal in_channels and out_channels"),
    "stride": (lambda: nn.Conv2d(4, 4, 3, 2, 1, groups=4), "stride must be 1, got 2 x 2"),
    "padding": (lambda: nn.Conv2d(4, 4, 3, groups=4), "padding must be 'same' or 1 x 1"),
    "even": (lambda: nn.Conv2d(4, 4, 2, padding="same", groups=4), "kernel_size must be odd"),
    "reflect": (lambda: depthwise(4, 3, padding_mode="reflect"), "padding_mode must be 'zeros'"),
    "weight-norm": (lambda: weight_norm(depthwise(4, 3)), "weight_norm, spectral_norm and pruning"),
    "spectral-norm": (lambda: torch.nn.utils.spectral_norm(depthwise(4, 3)), "computed anew at each call"),
    "pruned": (lambda: prune.random_unstructured(depthwise(4, 3), "weight", 0.5), "computed anew at each call"),
    "parametrized": (lambda: parametrizations.weight_norm(depthwise(4, 3)), "it is parametrized"),
    "subclass": (lambda: Flipped(4, 4, 3, padding=1, groups=4), "test_accelerate.Flipped, which may compute"),
    "lazy": (lambda: nn.LazyConv2d(4, 3, padding=1, groups=4), "call the model once, then accelerate it"),
    "already": (lambda: DepthwiseConv2d(4, 4, 1, groups=4), "it is a DepthwiseConv2d already"),
    "replaced": (replaced, "its forward was replaced"),
    "prepared": (prepared, "prepared for quantization"),
    "quantized": (lambda: torch.ao.nn.quantized.Conv2d(4, 4, 3, padding=1, groups=4), "not an nn.Conv2d"),
    "scripted": (lambda: torch.jit.script(depthwise(4, 3)), "not an nn.Conv2d"),
    "other-weight": (with_a_weight_of_another_kind, "its weight is a Half4"),
    "complex": (lambda: depthwise(4, 3, dtype=torch.complex64), "its weight is torch.complex64"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_says_why(name: str) -> None:
    make, reason = KEPT[name]
    model = nn.Sequential(make())
    kind = type(model[0])
    report = accelerate(model)
    assert not report.swapped
    assert list(report.kept) == ["0"]
    assert reason in report.kept["0"]
    assert "\n" not in report.kept["0"]
    assert type(model[0]) is kind


def test_a_lazy_convolution_is_swapped_once_it_has_run() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3, padding=1, groups=4))
    model(torch.randn(1, 4, 5, 5))
    assert accelerate(model).swapped == ["0"]


def test_restore_undoes_it() -> None:
    model = nn.Sequential(depthwise(4, 3), DepthwiseConv2d(4, 4, 1, groups=4, activation="relu"), nn.Conv2d(4, 4, 1))
    x = torch.randn(1, 4, 5, 5)
    wanted = model(x)
    assert accelerate(model).swapped == ["0"]
    assert restore(model) == ["0"]
    assert [type(each) for each in model] == [nn.Conv2d, DepthwiseConv2d, nn.Conv2d]
    assert torch.equal(model(x), wanted)


def test_report_reads_well() -> None:
    report = Acceleration(["body.0"], {"head": "stride must be 1, got 2 x 2", "": "it is lazy"})
    assert str(report).splitlines() == [
        "1 of 3 convolutions swapped",
        "  swapped body.0",
        "  kept head: stride must be 1, got 2 x 2",
        "  kept (the model itself): it is lazy",
    ]


@pytest.mark.parametrize("function", [accelerate, restore])
def test_no_model(function: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=rf"^{function.__name__}: model must be a torch.nn.Module, got dict$"):
        function({})


@pytest.mark.parametrize("function", [accelerate, restore])
def test_docstring_examples(function: Callable[..., object]) -> None:
    assert getattr(lightsr_kernels, function.__name__) is function
    (example,) = doctest.DocTestFinder(recurse=False).find(function, globs={})
    failed, tried = doctest.DocTestRunner().run(example)
    assert tried and not failed
