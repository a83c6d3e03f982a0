"""IDSA-Net and its parent ASID: their figures, the shared attention, the identities the fused path rests on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightsr.errors import InputError
from lightsr.networks.asid import ChannelAttention, LocalBlock, SharedAttention
from lightsr.networks.cost import multiply_adds
from lightsr.networks.idsa_net import (
    ASID,
    ASID_D8,
    R2,
    IDSANet,
    InstanceNormAttention,
    LargeKernelPurification,
    PointwiseFusion,
)
from lightsr.networks.spatial_gate import SpatialGate

R1: dict[str, Any] = {}
R2B = {**R2, "where": "distill"}
CONFIGS = [pytest.param(config, id=name) for name, config in {"R1": R1, "R2": R2, "R2b": R2B, "ASID": ASID}.items()]
DTYPES = [pytest.param(torch.float32, 1e-5, id="f32"), pytest.param(torch.float64, 1e-12, id="f64")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Hundreds of tiny convolutions spend their time waiting for other threads, on a busy machine most of all."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def disturbed(module: nn.Module, dtype: torch.dtype = torch.float64) -> Any:
    """The module with every parameter away from its initial value, so that nothing cancels by accident."""
    for parameter in module.to(dtype).parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    return module.eval()


def network(scale: int = 2, dtype: torch.dtype = torch.float64, **config: Any) -> IDSANet:
    torch.manual_seed(1)
    net: IDSANet = disturbed(IDSANet(scale, **config), dtype)
    return net


def picture(*size: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def parameters(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def assert_same(out: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        pytest.param(R1, (728_686, 737_341, 749_458), id="R1"),
        pytest.param(R2, (734_642, 741_137, 750_230), id="R2"),
        pytest.param(R2B, (737_714, 744_209, 753_302), id="R2b"),
        pytest.param(ASID, (297_516, 304_011, 313_104), id="ASID"),
        pytest.param(ASID_D8, (732_146, 738_641, 747_734), id="ASID-D8"),
    ],
)
def test_parameters(config: dict[str, Any], counts: tuple[int, int, int]) -> None:
    assert tuple(parameters(IDSANet(scale, **config)) for scale in (2, 3, 4)) == counts


def test_parameters_of_a_later_group() -> None:
    group: Any = IDSANet(4).groups[3]
    block = group.distillation
    assert parameters(group) == 111_226
    assert parameters(block.local) == 20_288
    assert parameters(block.windows) == parameters(block.grids) == 20_032
    assert parameters(block.fusions) == 45_392
    assert parameters(group.mix) == 4_160
    assert parameters(group.attention) == 1_322


def test_parameters_of_asid_groups() -> None:
    first, second, _ = IDSANet(4, **ASID).groups
    assert (parameters(first), parameters(second)) == (96_340, 86_926)
    block: Any = second.distillation
    assert parameters(block.local) == 11_736
    assert parameters(block.windows) == parameters(block.grids) == 11_664
    assert parameters(block.fusions) == 6_036
    assert parameters(block.channel_block) == 36_962
    assert parameters(second.attention) == 6_512  # type: ignore[arg-type]
    assert parameters(second.mix) == 2_352  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "scale", "giga"),
    [
        pytest.param(R1, 2, 177.6, id="R1-x2"),
        pytest.param(R1, 3, 80.8, id="R1-x3"),
        pytest.param(R1, 4, 46.6, id="R1-x4"),
        pytest.param(R2, 4, 51.2, id="R2-x4"),
        pytest.param(ASID, 4, 20.8, id="ASID-x4"),
        pytest.param(ASID_D8, 4, 49.6, id="ASID-D8-x4"),
    ],
)
def test_multiply_adds(config: dict[str, Any], scale: int, giga: float) -> None:
    assert multiply_adds(IDSANet(scale, **config)) / 1e9 == pytest.approx(giga, abs=0.05)


@pytest.mark.parametrize(
    ("config", "layers", "products"),
    [pytest.param(R1, 41.54, 5.06, id="R1"), pytest.param(R2, 42.0, 9.2, id="R2")],
)
def test_multiply_adds_of_layers_and_of_attention(config: dict[str, Any], layers: float, products: float) -> None:
    net = IDSANet(4, **config).to("meta")
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 180, 320, device="meta"))
    by_op = {str(op): flops / 2e9 for op, flops in counter.get_flop_counts()["Global"].items()}
    attention = by_op.pop("aten.bmm")
    assert attention == pytest.approx(products, abs=0.05 if products == 9.2 else 0.005)
    assert sum(by_op.values()) == pytest.approx(layers, abs=0.05 if layers == 42.0 else 0.005)


@pytest.mark.parametrize("config", CONFIGS)
def test_only_the_first_group_has_queries_and_keys(config: dict[str, Any]) -> None:
    keys = [key for key in IDSANet(4, **config).state_dict() if "query_key." in key or "position" in key]
    assert len(keys) == 12 and all(key.startswith("groups.0.") for key in keys)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_maps_depend_on_the_picture_and_are_passed_on(fused: bool) -> None:
    net = network(groups=2, use_fused=fused)
    first, second = (net.head(picture(1, 3, 16, 24, seed=seed)) for seed in (1, 2))
    y, maps = net.groups[0](first, None)
    others = net.groups[0](second, None)[1]
    assert [each.shape for each in maps] == [(6, 64, 64)] * 6
    for one, other in zip(maps, others, strict=True):
        torch.testing.assert_close(one.sum(-1), torch.ones_like(one[..., 0]))
        assert (one - other).abs().max() > 1e-3
    after, passed = net.groups[1](y, maps)
    assert all(one is other for one, other in zip(passed, maps, strict=True))
    assert (net.groups[1](y, others)[0] - after).abs().max() > 1e-6


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("grid", [False, True], ids=["window", "grid"])
def test_shared_attention_pixel_by_pixel(grid: bool, fused: bool) -> None:
    torch.manual_seed(0)
    unit: SharedAttention = disturbed(SharedAttention(6, grid, makes_maps=True))
    unit.use_fused = fused
    x = picture(1, 6, 16, 24)
    normed = F.layer_norm(x[0].permute(1, 2, 0), (6,), unit.norm.weight, unit.norm.bias, 1e-5)
    expected = x.clone()
    tokens = list(itertools.product(range(8), repeat=2))
    for row, column in itertools.product(range(2), range(3)):
        if grid:
            pixels = [(i * 2 + row, j * 3 + column) for i, j in tokens]
        else:
            pixels = [(row * 8 + i, column * 8 + j) for i, j in tokens]
        values = torch.stack([normed[pixel] for pixel in pixels])
        query, key = (values @ unit.query_key.weight.T).split(6, dim=1)
        bias = torch.stack(
            [unit.position[15 * (a - c + 7) + b - d + 7] for (a, b), (c, d) in itertools.product(tokens, repeat=2)]
        )
        attention = (query @ key.T / 6**0.5 + bias.reshape(64, 64)).softmax(1)
        out = attention @ (values @ unit.value.weight.T) @ unit.project.weight.T
        for pixel, value in zip(pixels, out, strict=True):
            expected[0, :, pixel[0], pixel[1]] += value
    assert_same(unit(x, None)[0], unit.feed_forward(expected), 1e-12)


@pytest.mark.parametrize("grid", [False, True], ids=["window", "grid"])
def test_channel_attention_set_by_set(grid: bool) -> None:
    torch.manual_seed(0)
    unit: ChannelAttention = disturbed(ChannelAttention(6, grid))
    x = picture(2, 6, 16, 24)
    parts = unit.depthwise(unit.query_key_value(unit.norm(x, 1e-6)))
    attended = torch.zeros_like(x)
    for n, row, column in itertools.product(range(2), range(8 if grid else 2), range(8 if grid else 3)):
        rows = slice(row, None, 8) if grid else slice(8 * row, 8 * row + 8)
        columns = slice(column, None, 8) if grid else slice(8 * column, 8 * column + 8)
        query, key, value = parts[n, :, rows, columns].flatten(1).split(6)
        maps = (query / query.norm(dim=1, keepdim=True)) @ (key / key.norm(dim=1, keepdim=True)).T * unit.temperature
        out = maps.softmax(1) @ value
        attended[n, :, rows, columns] = out.reshape(attended[n, :, rows, columns].shape)
    assert_same(unit(x), x + unit.project(attended), 1e-12)


@pytest.mark.parametrize("config", CONFIGS)
def test_pads_with_zeros_to_windows_and_crops(config: dict[str, Any]) -> None:
    net, x = network(4, **{**config, "groups": 2}), picture(1, 3, 20, 33)
    out = net(x)
    assert out.shape == (1, 3, 80, 132)
    assert_same(out, net(F.pad(x, (0, 7, 0, 4)))[:, :, :80, :132], 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("config", CONFIGS)
def test_fused_equals_plain(config: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    net, x = network(dtype=dtype, **config), picture(2, 3, 20, 33, dtype=dtype)
    assert_same(net.set_fused()(x), net.set_fused(False)(x), tolerance)


def test_channel_shuffle_is_shufflenets() -> None:
    purify: LargeKernelPurification = LargeKernelPurification(12, 4, full=True)
    x = picture(2, 12, 3, 5)
    assert torch.equal(x[:, purify.order], F.channel_shuffle(x, 4))


def test_channel_shuffle_folds_into_the_rows_of_the_entry() -> None:
    net, x = network(), picture(2, 3, 20, 33)
    expected, changed = net(x), 0
    for module in net.modules():
        if isinstance(module, LargeKernelPurification):
            module.entry.weight.copy_(module.entry.weight[module.order])
            module.entry.bias.copy_(module.entry.bias[module.order])  # type: ignore[union-attr, index]
            module.order = torch.arange(len(module.order))
            changed += 1
    assert changed == 18
    assert_same(net(x), expected, 1e-12)


def test_squeeze_and_excitation_folds_into_the_columns_of_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: LocalBlock, x: Tensor) -> Tensor:
        h = F.gelu(self.depthwise(F.gelu(self.expand(x))))
        projected = [
            F.conv2d(one, self.project.weight * gate, self.project.bias)
            for one, gate in zip(h.split(1), self.gate(h), strict=True)
        ]
        return torch.cat(projected) + x

    net, x = network(), picture(2, 3, 20, 33)
    expected = net(x)
    monkeypatch.setattr(LocalBlock, "forward", forward)
    assert_same(net(x), expected, 1e-12)


def test_inam_is_two_passes_after_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: InstanceNormAttention, x: Tensor) -> Tensor:
        count = x.shape[2] * x.shape[3]
        mean = x.sum((2, 3), keepdim=True) / count
        variance = x.square().sum((2, 3), keepdim=True) / count - mean.square()
        gate = torch.sigmoid(self.up(F.relu(self.down(mean + variance.sqrt()))))
        a = gate * self.weight[:, None, None] / (variance + 1e-5).sqrt()
        b = gate * self.bias[:, None, None] - a * mean
        pooled = torch.cat([(a * x + b).mean(1, keepdim=True), (a * x + b).amax(1, keepdim=True)], 1)
        return x + (a * x + b) * torch.sigmoid(self.spatial(pooled))

    net, x = network(), picture(2, 3, 20, 33)
    expected = net(x)
    monkeypatch.setattr(InstanceNormAttention, "forward", forward)
    assert_same(net(x), expected, 1e-12)


def test_fusion_of_parts_is_a_sum_of_partial_products(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(self: PointwiseFusion, parts: list[Tensor]) -> Tensor:
        columns = self.mix.weight.split([part.shape[1] for part in parts], dim=1)
        products = [F.conv2d(part, each) for part, each in zip(parts, columns, strict=True)]
        return sum(products, self.mix.bias[:, None, None])  # type: ignore[index]

    net, x = network(**R2), picture(2, 3, 20, 33)
    expected = net(x)
    monkeypatch.setattr(PointwiseFusion, "forward", forward)
    assert_same(net(x), expected, 1e-12)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_inam_has_gradients_on_a_constant_plane(fused: bool) -> None:
    unit = InstanceNormAttention(8, 2)
    unit.use_fused = fused
    x = torch.full((1, 8, 4, 4), 0.5, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(unit(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("config", "radius"), [(R1, 399), (R2, 443), (ASID, 126)], ids=["R1", "R2", "ASID"])
def test_radius_adds_convolutions_and_windows(config: dict[str, Any], radius: int) -> None:
    assert IDSANet(4, **config).radius == radius


def test_nothing_local_reaches_beyond_the_radius() -> None:
    net = network(groups=1, channels=16, reduction=4)
    for module in net.modules():  # what sees the whole picture is left aside
        if isinstance(module, SharedAttention) and module.grid:
            module.project.weight.zero_()
        elif isinstance(module, LocalBlock):
            module.excite.weight.zero_()
        elif isinstance(module, InstanceNormAttention):  # and with it the 3 pixels of its own convolution
            module.weight.zero_()
            module.bias.zero_()
    assert net.radius == 69
    side = 160
    x = picture(1, 3, side, side)
    moved = x.clone()
    moved[:, :, side // 2, side // 2] += 100
    changed = (F.pixel_unshuffle((net(moved) - net(x)).abs(), 2)[0].amax(0) > 0).nonzero() - side // 2
    convolutions = 3 + 3 * (3 + 11)
    assert convolutions < changed.abs().max() <= net.radius - 3


def test_slim_spatial_gate_at_its_least_size() -> None:
    gate: SpatialGate = disturbed(SpatialGate(8, 16))
    assert gate(picture(2, 8, 15, 15)).shape == (2, 8, 15, 15)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("config", CONFIGS)
def test_any_size_batch_and_layout(config: dict[str, Any], fused: bool) -> None:
    net = network(4, use_fused=fused, **{**config, "groups": 2})
    for n, h, w in [(1, 1, 1), (2, 1, 9), (0, 5, 7)]:
        out = net(picture(n, 3, h, w))
        assert out.shape == (n, 3, 4 * h, 4 * w) and out.isfinite().all()
    x = picture(2, 3, 9, 11)
    expected = net(x)
    assert_same(torch.cat([net(one) for one in x.split(1)]), expected, 1e-12)
    last = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_same(last(x.to(memory_format=torch.channels_last)), expected, 1e-12)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("config", [{"groups": 2}, {**R2, "groups": 1}], ids=["R1", "R2"])
def test_autocast_and_compile(config: dict[str, Any], fused: bool) -> None:
    net = network(dtype=torch.float32, use_fused=fused, **config)
    x = picture(1, 3, 9, 12, dtype=torch.float32)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    assert half.dtype == torch.bfloat16
    assert_same(half.float(), expected, 0.05)
    torch.compiler.reset()
    assert_same(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected, 1e-5)


def test_exports_with_sizes_that_fill_windows_and_sizes_that_do_not() -> None:
    net, dynamic = network(dtype=torch.float32, groups=1, channels=8, reduction=2), torch.export.Dim.DYNAMIC
    sizes = ({2: dynamic, 3: dynamic},)
    program = torch.export.export(net, (picture(1, 3, 20, 33, dtype=torch.float32),), dynamic_shapes=sizes).module()
    for h, w in [(16, 24), (16, 25), (19, 24), (40, 40)]:
        x = picture(1, 3, h, w, dtype=torch.float32)
        assert_same(program(x), net(x), 1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("config", [*CONFIGS, pytest.param({**R1, "channels": 24, "reduction": 5}, id="narrow")])
def test_config_is_read_from_a_state_dict(config: dict[str, Any], scale: int) -> None:
    state = IDSANet(scale, **config).state_dict()
    found = IDSANet.config_of(state)
    assert found is not None and {key: found[key] for key in config if key != "reduction"} == {
        key: value for key, value in config.items() if key != "reduction"
    }
    assert found["scale"] == scale
    IDSANet(**found).load_state_dict(state)


def test_config_of_another_network_is_none() -> None:
    state = IDSANet(2).state_dict()
    assert IDSANet.config_of({}) is None
    assert IDSANet.config_of({**state, "tail.0.weight": torch.zeros(5, 64, 3, 3)}) is None
    assert IDSANet.config_of({**state, "head.weight": torch.zeros(6, 3, 3, 3)}) is None
    assert IDSANet.config_of({key: value for key, value in state.items() if "position" not in key}) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"channels": 30}, "channels must be a multiple of 4.* got channels 30"),
        ({"groups": 0}, "groups at least 1.* groups 0"),
        ({"reduction": 65}, "reduction from 1 to channels.* reduction 65"),
        ({"lcipb": "half"}, "lcipb must be one of full, lka, none; got 'half'"),
        ({"where": "here"}, "where must be one of all, distill, end; got 'here'"),
        ({"attention": "cbam"}, "attention must be one of inam, esa; got 'cbam'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configurations_that_do_not_exist_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IDSANet(4, **config)
