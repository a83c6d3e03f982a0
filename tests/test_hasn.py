"""HASN: its size, the authors' weights, its two paths, and the identities that fused kernels rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightsr.errors import InputError
from lightsr.images import read_rgb8
from lightsr.metrics import psnr, ssim
from lightsr.networks.cost import multiply_adds
from lightsr.networks.hasn import HASN, RELEASED, RELEASED_BLOCK, from_released
from lightsr.networks.lmswn import LMSWN


def make(**config) -> HASN:
    """A network in float64 whose pooled maps and gates all matter (PyTorch's initial values leave them near flat)."""
    torch.manual_seed(0)
    net = HASN(**config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return net


@pytest.fixture(scope="module")
def released(shared: Path) -> dict[str, Tensor]:
    return torch.load(shared / "weights" / "HASN" / "HASN.pth", weights_only=True)["params_ema"]


@pytest.fixture(params=["random", "released"])
def net(request: pytest.FixtureRequest) -> HASN:
    """In float64, with random weights and with the authors'."""
    if request.param == "random":
        return make(blocks=2)
    net = HASN().double()
    net.load_state_dict(from_released(request.getfixturevalue("released")))
    return net


def assert_close(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


@pytest.mark.parametrize(("scale", "count"), [(2, 418_388), (3, 425_423), (4, 435_272)])
def test_parameters(scale: int, count: int) -> None:
    assert sum(each.numel() for each in HASN(scale).parameters()) == count


@pytest.mark.parametrize(("scale", "giga"), [(2, 89.25), (3, 40.42), (4, 23.28)])
def test_multiply_adds(scale: int, giga: float) -> None:
    net = HASN(scale, use_fused=True)
    assert abs(multiply_adds(net) / 1e9 - giga) <= 0.005
    assert net.use_fused and next(net.parameters()).device.type == "cpu"  # the network itself is not touched


def test_key_map_is_one_to_one() -> None:
    modules = [*RELEASED, *(f"block_{k}.{part}" for k in range(1, 7) for part in RELEASED_BLOCK)]
    theirs = {f"{module}.{kind}": torch.tensor(0.0) for module in modules for kind in ("weight", "bias")}
    assert sorted(from_released(theirs)) == sorted(HASN().state_dict())


def test_ours_and_strangers_keep_their_keys() -> None:
    ours = HASN(blocks=2).state_dict()
    assert list(from_released(ours)) == list(ours)
    strange = ["block_0.ln.weight", "block_01.ln.weight", "block_1.nothing.weight", "conv_1", "", "block_9" * 5000]
    assert list(from_released(dict.fromkeys(strange, torch.tensor(0.0)))) == strange
    both = {"conv_1.bias": torch.zeros(1), "head.bias": torch.ones(1)}
    assert from_released(both) == both


def test_released_weights_load_key_for_key(released: dict[str, Tensor]) -> None:
    ours = from_released(released)
    assert len(ours) == len(released) == 198
    assert all(a is b for a, b in zip(released.values(), ours.values(), strict=True))
    config = HASN.config_of(ours)
    assert config == {
        "scale": 4,
        "channels": 52,
        "blocks": 6,
        "hidden": 156,
        "gate": 16,
        "bottleneck": 17,
        "squeeze": 1,
    }
    HASN(**config).load_state_dict(ours, strict=True)


def test_set5_as_released(shared: Path, released: dict[str, Tensor]) -> None:
    net = HASN(4).eval()
    net.load_state_dict(from_released(released))
    folder, rows = shared / "testsets" / "Set5", []
    for path in sorted((folder / "HR").iterdir()):
        small = read_rgb8(folder / "LR_bicubic" / "X4" / f"{path.stem}x4.png")
        with torch.inference_mode():
            out = net(small[None] / 255)[0].clamp(0, 1).mul(255).round().byte()
        large = read_rgb8(path)[:, : out.shape[1], : out.shape[2]]
        rows.append((psnr(out, large, 4), ssim(out, large, 4)))
    mean_psnr, mean_ssim = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    assert len(rows) == 5
    assert abs(mean_psnr - 32.18) <= 0.01
    assert abs(mean_ssim - 0.8948) <= 0.0005


CONFIGS = [
    {"scale": 2},
    {"scale": 3, "channels": 8, "blocks": 1, "hidden": 20, "gate": 3, "bottleneck": 5, "squeeze": 2},
]


@pytest.mark.parametrize("config", CONFIGS, ids=["published", "small"])
def test_config_of(config: dict[str, int]) -> None:
    state = HASN(**config).state_dict()
    found = HASN.config_of(state)
    assert found is not None and found | config == found
    HASN(**found).load_state_dict(state, strict=True)


def test_config_of_other_things() -> None:
    assert HASN.config_of({}) is None
    assert HASN.config_of(LMSWN().state_dict()) is None
    state = HASN(blocks=1).state_dict()
    assert HASN.config_of(state | {"tail.0.weight": torch.zeros(5, 52, 3, 3)}) is None
    assert HASN.config_of(state | {"blocks.0.a.weight": torch.zeros(156)}) is None
    assert HASN.config_of(state | {"blocks.0.a.weight": torch.zeros(1, 1, 1, 1).expand(10**9, 1, 1, 1)}) is None


def test_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 5"):
        HASN(5)
    with pytest.raises(InputError, match="at least 1"):
        HASN(blocks=0)


SIZES = [(1, 1), (1, 9), (20, 1), (14, 14), (14, 15), (15, 15), (16, 16), (20, 33)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_any_size(size: tuple[int, int]) -> None:
    h, w = size
    net = make(scale=3, blocks=1)
    x = torch.rand(2, 3, h, w, dtype=torch.float64)
    with torch.no_grad():
        out = net(x)
        # Repeating the last row and column by hand, up to 15 a side, changes nothing.
        rows, columns = torch.arange(max(h, 15)).clamp(max=h - 1), torch.arange(max(w, 15)).clamp(max=w - 1)
        padded = net(x[:, :, rows][..., columns])[..., : 3 * h, : 3 * w]
        assert_close(out, padded, 1e-12)
        assert_close(out[1:], net(x[1:]), 1e-12)
        assert net(x[:0]).shape == (0, 3, 3 * h, 3 * w)


@pytest.mark.parametrize("use_fused", [False, True], ids=["plain", "fused"])
def test_layout_and_autocast(use_fused: bool) -> None:
    net = HASN(2, blocks=2, use_fused=use_fused).eval()
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
@pytest.mark.parametrize("size", [(3, 9), (16, 20)], ids=["padded", "not-padded"])
def test_compiles_in_one_graph(use_fused: bool, size: tuple[int, int]) -> None:
    net = HASN(2, blocks=1, use_fused=use_fused).eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert_close(torch.compile(net, fullgraph=True, backend="aot_eager")(x), net(x), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_fused_equals_plain(dtype: torch.dtype, tolerance: float) -> None:
    net = make(blocks=2).to(dtype)
    keys = list(net.state_dict())
    for size in ((2, 3, 20, 33), (1, 3, 4, 40)):
        x = torch.rand(size, dtype=dtype)
        with torch.no_grad():
            assert_close(net.set_fused(True)(x), net.set_fused(False)(x), tolerance)
    assert list(net.set_fused().state_dict()) == keys
    assert all(block.use_fused for block in net.blocks)


def test_fused_gradients_equal_plain() -> None:
    net = make(blocks=1)
    x = torch.rand(1, 3, 16, 17, dtype=torch.float64)
    plain = torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
    fused = torch.autograd.grad(net.set_fused()(x).square().sum(), list(net.parameters()))
    for a, b in zip(fused, plain, strict=True):
        assert_close(a, b, 1e-10)


def test_exports_any_number_of_pictures() -> None:
    net, x = make(blocks=1).set_fused(), torch.rand(2, 3, 16, 17, dtype=torch.float64)
    exported = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("pictures")},)).module()
    with torch.no_grad():
        assert_close(exported(x.repeat(2, 1, 1, 1)), net(x).repeat(2, 1, 1, 1), 1e-12)


def test_radius_is_the_reach_of_the_local_path() -> None:
    net = make(scale=2, blocks=2)
    with torch.no_grad():
        for block in net.blocks:
            block.gate.exit.weight.zero_()  # leaves the pooled paths constant
            block.attention.up.weight.zero_()
    assert (net.radius, HASN().radius) == (19, 51)
    x = torch.rand(1, 3, 15, 60, dtype=torch.float64, requires_grad=True)
    net(x)[0, 0, 15, 60].backward()  # column 30 of x
    columns = x.grad.abs().amax((0, 1, 2)).nonzero().flatten().tolist()
    assert (columns[0], columns[-1]) == (30 - net.radius, 30 + net.radius)


def test_scaled_filters_equal_a_scaled_result(net: HASN) -> None:
    """One picture has its channel scales in the filters before them, several pictures in a pass of their own."""
    x = torch.rand(2, 52, 18, 21, dtype=torch.float64)
    cab = net.set_fused().blocks[0].attention
    with torch.no_grad():
        assert_close(torch.cat([cab(x[:1]), cab(x[1:])]), cab(x), 1e-12)


def test_gate_entry_reads_the_norm_directly(net: HASN) -> None:
    """Nothing non-linear lies between c and the gate's entry, so one 1x1 of 52 to 16 channels does both."""
    n = torch.randn(1, 52, 16, 17, dtype=torch.float64)
    with torch.no_grad():
        for block in net.blocks:
            c, entry = block.c, block.gate.entry
            weight = entry.weight[:, :, 0, 0] @ c.weight[:, :, 0, 0]
            bias = entry.weight[:, :, 0, 0] @ c.bias + entry.bias
            assert_close(F.conv2d(n, weight[:, :, None, None], bias), entry(c(n)), 1e-12)
