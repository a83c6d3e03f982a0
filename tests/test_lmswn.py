"""LMSWN: its size, its two forms and two paths, and the identities that fused kernels rely on."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightsr.errors import InputError
from lightsr.networks.cost import multiply_adds
from lightsr.networks.hasn import HASN
from lightsr.networks.lmswn import LMSWN, AsymmetricConv2d


def make(dtype: torch.dtype = torch.float64, **config) -> LMSWN:
    """A network with random gains: 1, where they start, would hide a gain that is forgotten."""
    torch.manual_seed(0)
    net = LMSWN(**config).to(dtype).eval()
    with torch.no_grad():
        for block in net.blocks:
            block.fusion_gain.uniform_(0.5, 1.5)
            block.residual_gain.uniform_(0.5, 1.5)
    return net


def assert_close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


COUNTS = [  # scale, blocks, folded, training form, multiply-adds in G
    (2, 6, 522_680, 799_160, 119.98),
    (3, 6, 531_335, 807_815, 54.25),
    (4, 6, 543_452, 819_932, 31.19),
    (2, 8, 679_388, 1_048_028, 155.96),
    (3, 8, 688_043, 1_056_683, 70.26),
    (4, 8, 700_160, 1_068_800, 40.19),
]


@pytest.mark.parametrize(("scale", "blocks", "folded", "training", "giga"), COUNTS)
def test_parameters_and_multiply_adds(scale: int, blocks: int, folded: int, training: int, giga: float) -> None:
    net = LMSWN(scale, blocks=blocks)
    assert sum(each.numel() for each in net.parameters()) == training
    assert abs(multiply_adds(net) / 1e9 - giga) <= 0.005
    assert not net.folded  # counting left the network as it was
    assert sum(each.numel() for each in net.fold().parameters()) == folded
    assert sum(each.numel() for each in LMSWN(scale, blocks=blocks, folded=True).parameters()) == folded


def three_convolutions(conv: AsymmetricConv2d, x: Tensor) -> Tensor:
    """The training form as ACNet draws it, nothing merged."""
    square = F.conv2d(x, conv.weight, conv.bias, padding=1)
    return square + F.conv2d(x, conv.horizontal, padding=(0, 1)) + F.conv2d(x, conv.vertical, padding=(1, 0))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_folded_equals_training_form(dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(dtype)
    x = torch.rand(1, 3, 17, 23, dtype=dtype)
    plain = LMSWN(folded=True).to(dtype)
    with torch.no_grad():
        merged = net(x)
        with monkeypatch.context() as patch:
            patch.setattr(AsymmetricConv2d, "forward", three_convolutions)
            separate = net(x)
        assert_close(merged, separate, tolerance)
        plain.load_state_dict(net.fold().state_dict(), strict=True)
        assert net.folded and plain.folded
        assert_close(plain(x), separate, tolerance)
        assert torch.equal(net.fold()(x), plain(x))  # a second fold does nothing


CONFIGS = [{"scale": 2}, {"scale": 3, "folded": True}, {"channels": 22, "distilled": 7, "blocks": 2}]


@pytest.mark.parametrize("config", CONFIGS, ids=["training", "folded", "small"])
def test_config_of(config: dict[str, int]) -> None:
    state = LMSWN(**config).state_dict()
    found = LMSWN.config_of(state)
    assert found is not None and found | config == found
    LMSWN(**found).load_state_dict(state, strict=True)


def test_config_of_other_things() -> None:
    assert LMSWN.config_of({}) is None
    assert LMSWN.config_of(HASN().state_dict()) is None
    state = LMSWN(blocks=1).state_dict()
    assert LMSWN.config_of(state | {"head.mix.weight": torch.zeros(64)}) is None
    assert LMSWN.config_of(state | {"head.mix.weight": torch.zeros(1, 1, 1, 1).expand(10**9, 1, 1, 1)}) is None
    assert LMSWN.config_of(state | {"blocks.0.stages.0.distill.weight": torch.zeros(22, 22, 1, 1)}) is None


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 1"):
        LMSWN(1)
    with pytest.raises(InputError, match="got blocks 6, distilled 16, channels 48"):
        LMSWN(channels=48)
    with pytest.raises(InputError, match="blocks"):
        LMSWN(blocks=0)


SIZES = [(1, 1), (1, 9), (20, 1), (14, 14), (15, 16), (20, 33)]


@pytest.mark.parametrize("use_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_any_size(size: tuple[int, int], use_fused: bool) -> None:
    h, w = size
    net = make(scale=3, blocks=1, use_fused=use_fused)
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    with torch.no_grad():
        out = net(x)
        assert out.shape == (2, 3, 3 * h, 3 * w)
        assert_close(out[1:], net(x[1:]), 1e-12)
        assert net(x[:0]).shape == (0, 3, 3 * h, 3 * w)


@pytest.mark.parametrize("use_fused", [False, True], ids=["plain", "fused"])
def test_layout_and_autocast(use_fused: bool) -> None:
    net = make(torch.float32, scale=2, blocks=2, use_fused=use_fused)
    x = torch.rand(1, 3, 17, 19)
    with torch.no_grad():
        wanted = net(x)
        assert_close(net(x.to(memory_format=torch.channels_last)), wanted, 1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x)
        assert_close(net.to(memory_format=torch.channels_last)(x), wanted, 1e-5)
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), wanted, 0.05)


@pytest.mark.parametrize("use_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("folded", [False, True], ids=["training", "folded"])
def test_compiles_in_one_graph(use_fused: bool, folded: bool) -> None:
    net = make(torch.float32, scale=2, blocks=1, folded=folded, use_fused=use_fused)
    x = torch.rand(1, 3, 16, 20)
    with torch.no_grad():
        assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x), 1e-5)


@pytest.mark.parametrize("folded", [False, True], ids=["training", "folded"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_fused_equals_plain(dtype: torch.dtype, tolerance: float, folded: bool) -> None:
    net = make(dtype, folded=folded)
    keys = list(net.state_dict())
    for size in ((20, 33), (1, 5)):
        x = torch.rand(2, 3, *size, dtype=dtype)
        with torch.no_grad():
            assert_close(net.set_fused(True)(x), net.set_fused(False)(x), tolerance)
    assert list(net.set_fused().state_dict()) == keys


def test_fused_gradients_equal_plain() -> None:
    net = make(blocks=2)
    x = torch.rand(1, 3, 9, 10, dtype=torch.float64)
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    fused = torch.autograd.grad(net.set_fused()(x).square().sum(), list(net.parameters()))
    for a, b in zip(fused, plain, strict=True):
        assert_close(a, b, 1e-10)


@pytest.mark.parametrize(("blocks", "radius"), [(1, 9), (6, 29)])
def test_radius_is_the_reach_of_a_pixel(blocks: int, radius: int) -> None:
    net = make(scale=2, blocks=blocks)
    assert net.radius == radius
    x = torch.rand(1, 3, 3, 80, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, 3, 80].backward()  # column 40 of x
    columns = x.grad.abs().amax((0, 1, 2)).nonzero().flatten().tolist()
    assert (columns[0], columns[-1]) == (40 - radius, 40 + radius)


def test_fusion_gain_folds_into_the_fusion() -> None:
    net = make()
    gone = copy.deepcopy(net)
    x = torch.rand(1, 3, 20, 33, dtype=torch.float64)
    with torch.no_grad():
        for block in gone.blocks:
            block.fusion.weight.mul_(block.fusion_gain)
            block.fusion.bias.mul_(block.fusion_gain)
            block.fusion_gain.fill_(1)
        assert_close(gone(x), net(x), 1e-12)


def test_concatenation_is_a_sum_of_partial_products() -> None:
    """The last fusion can add up each module's share as the module finishes, with nothing concatenated."""
    net = make(blocks=4)
    x = torch.rand(1, 3, 20, 33, dtype=torch.float64)
    with torch.no_grad():
        shallow = y = net.head(x)
        total = net.fusion.bias.reshape(1, -1, 1, 1)
        for block, share in zip(net.blocks, net.fusion.weight.split(64, dim=1), strict=True):
            y = block(y)
            total = total + F.conv2d(y, share)
        out = net.tail(net.body_end(F.leaky_relu(total, 0.05)) + shallow)
        assert_close(out, net(x), 1e-12)
