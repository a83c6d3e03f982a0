"""MAFDN: its published figures, DO-Conv and its fold, the identities its fused path rests on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightsr.errors import InputError
from lightsr.networks.cost import multiply_adds
from lightsr.networks.mafdn import MAFDN, DOConv2d, MultiAttention, MultiAttentionDistillation, leaky_relu


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


def network(scale: int = 2, dtype: torch.dtype = torch.float64, **config: object) -> MAFDN:
    """MAFDN with every parameter, `depth` included, away from its initial value."""
    torch.manual_seed(1)
    net = MAFDN(scale, **config).to(dtype).eval()  # type: ignore[arg-type]
    for parameter in net.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return net


def picture(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def assert_same(out: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(out, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@pytest.mark.parametrize(
    ("scale", "folded", "training", "giga"),
    [(2, 580_020, 655_836, 131.12), (3, 587_055, 662_871, 59.04), (4, 596_904, 672_720, 33.751)],
)
def test_parameters_and_multiply_adds(scale: int, folded: int, training: int, giga: float) -> None:
    assert parameters(MAFDN(scale, folded=True)) == folded
    assert parameters(MAFDN(scale)) == training
    assert multiply_adds(MAFDN(scale)) / 1e9 == pytest.approx(giga, abs=0.005 if giga > 50 else 0.0005)


def test_parameters_of_the_parts() -> None:
    assert parameters(MultiAttentionDistillation(52, 26, 6, folded=True)) == 88_712
    assert parameters(MultiAttention(26, 6)) == 1_144


def test_do_conv_starts_as_the_plain_convolution() -> None:
    conv, x = DOConv2d(5, 7, 3, folded=False), torch.randn(2, 5, 6, 9)
    assert torch.equal(conv.merged_weight(), conv.weight)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1), rtol=0, atol=1e-6)


def test_do_conv_mixes_the_taps_of_each_input_channel() -> None:
    conv, x = DOConv2d(5, 7, 3, folded=False).double(), picture(2, 5, 6, 9)
    conv.depth.copy_(torch.randn_like(conv.depth))
    patches = F.unfold(x, 3, padding=1).unflatten(1, (5, 9))  # [N, C_in, taps m, pixels]
    mixed = torch.einsum("ims,nimp->nisp", conv.depth + torch.eye(9).double(), patches)
    expected = torch.einsum("ois,nisp->nop", conv.weight.flatten(2), mixed).unflatten(2, (6, 9))
    assert_same(conv(x), expected + conv.bias[:, None, None], 1e-13)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_folded_equals_training_form(dtype: torch.dtype, tolerance: float) -> None:
    net, x = network(dtype=dtype), picture(2, 3, 15, 18, dtype=dtype)
    before, keys = net(x), list(net.state_dict())
    assert any(module.depth.abs().max() > 0 for module in net.modules() if isinstance(module, DOConv2d))
    assert_same(net.fold()(x), before, tolerance)
    assert list(net.state_dict()) == [key for key in keys if not key.endswith(".depth")]
    plain = MAFDN(2, folded=True).to(dtype)
    plain.load_state_dict(net.state_dict())
    assert torch.equal(plain(x), net(x))


@pytest.mark.parametrize("folded", [False, True], ids=["training", "folded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=["f32", "f64"])
def test_fused_equals_plain(dtype: torch.dtype, tolerance: float, folded: bool) -> None:
    net, x = network(dtype=dtype, folded=folded), picture(2, 3, 15, 18, dtype=dtype)
    assert_same(net.set_fused()(x), net.set_fused(False)(x), tolerance)


def test_channel_attention_folds_into_the_columns_of_the_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(self: MultiAttention, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x * torch.sigmoid(self.pixel(x))
        z = z * torch.sigmoid(self.spatial(torch.cat([z.mean(1, keepdim=True), z.amax(1, keepdim=True)], 1)))
        return z, torch.sigmoid(self.up(F.relu(self.down(z.mean((2, 3), keepdim=True)))))

    def forward(self: MultiAttentionDistillation, x: Tensor) -> Tensor:
        parts, scales, rest = [], [], x
        for k, (distill, unit) in enumerate(zip(self.distill, self.attention, strict=True)):
            rest = leaky_relu(self.refine[k - 1](rest) + rest) if k else rest
            part, scale = attention(unit, leaky_relu(distill(rest)))
            parts.append(part)
            scales.append(scale)
        columns = torch.cat(scales, 1)  # [N, 4d, 1, 1]
        mixed = [
            F.conv2d(one, self.fusion.weight * column, self.fusion.bias)
            for one, column in zip(torch.cat(parts, 1).split(1), columns, strict=True)
        ]
        return x + torch.cat(mixed)

    net, x = network(), picture(2, 3, 15, 18)
    expected = net(x)
    monkeypatch.setattr(MultiAttentionDistillation, "forward", forward)
    assert_same(net(x), expected, 1e-12)


def test_global_concatenation_is_a_sum_of_partial_products() -> None:
    net, x = network(), picture(2, 3, 15, 18)
    shallow = y = net.head(x)
    mixed = net.fusion.bias[:, None, None]
    for block, columns in zip(net.blocks, net.fusion.weight.chunk(len(net.blocks), dim=1), strict=True):
        y = block(y)
        mixed = mixed + F.conv2d(y, columns)
    assert_same(net.tail(net.body_end(leaky_relu(mixed)) + shallow), net(x), 1e-12)


def test_radius_is_how_far_a_pixel_reaches() -> None:
    net = network(blocks=2, channels=12, distilled=6, squeezed=2)
    for unit in net.modules():
        if isinstance(unit, MultiAttention):
            unit.up.weight.zero_()  # the mean over the whole picture is left aside
    assert net.radius == 15 and MAFDN().radius == 39
    side = 2 * net.radius + 5
    x = picture(1, 3, side, side)
    moved = x.clone()
    moved[:, :, side // 2, side // 2] += 100
    changed = (F.pixel_unshuffle((net(moved) - net(x)).abs(), 2)[0].amax(0) > 0).nonzero() - side // 2
    assert changed.min() == -net.radius and changed.max() == net.radius


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_any_size_batch_and_layout(fused: bool) -> None:
    net = network(4, blocks=2).set_fused(fused)
    for n, h, w in [(1, 20, 33), (1, 1, 1), (2, 1, 9), (0, 5, 7)]:
        out = net(picture(n, 3, h, w))
        assert out.shape == (n, 3, 4 * h, 4 * w) and out.isfinite().all()
    x = picture(3, 3, 9, 11)
    expected = net(x)
    assert_same(torch.cat([net(one) for one in x.split(1)]), expected, 1e-12)
    last = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert_same(last(x.to(memory_format=torch.channels_last)), expected, 1e-12)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_autocast_and_compile(fused: bool) -> None:
    net, x = network(dtype=torch.float32, blocks=1).set_fused(fused), picture(1, 3, 9, 12, dtype=torch.float32)
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x)
    assert half.dtype == torch.bfloat16
    assert_same(half.float(), expected, 0.03)
    torch.compiler.reset()
    assert_same(torch.compile(net, fullgraph=True, backend="aot_eager")(x), expected, 1e-5)


@pytest.mark.parametrize("folded", [False, True], ids=["training", "folded"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_config_is_read_from_a_state_dict(scale: int, folded: bool) -> None:
    config = {"scale": scale, "channels": 20, "blocks": 3, "distilled": 9, "squeezed": 4, "folded": folded}
    assert MAFDN.config_of(MAFDN(**config).state_dict()) == config  # type: ignore[arg-type]


def test_config_of_another_network_is_none() -> None:
    state = MAFDN().state_dict()
    assert MAFDN.config_of({}) is None
    assert MAFDN.config_of({**state, "tail.0.weight": torch.zeros(5, 52, 3, 3)}) is None
    assert MAFDN.config_of({**state, "head.weight": torch.zeros(52)}) is None
    assert MAFDN.config_of({**state, "head.weight": torch.zeros(0, 3, 3, 3)}) is None
    assert MAFDN.config_of({key: value for key, value in state.items() if "attention" not in key}) is None


@pytest.mark.parametrize("key", ["channels", "blocks", "distilled", "squeezed"])
def test_widths_below_one_are_refused(key: str) -> None:
    with pytest.raises(InputError, match=f"{key}.* must be at least 1; got .*0"):
        MAFDN(**{key: 0})  # type: ignore[arg-type]
