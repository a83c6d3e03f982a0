"""What holds for every network: names, sizes, layouts, the two paths, detection."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import lightsr
import lightsr_kernels
from lightsr.networks import REGISTRY, SCALES, SRNetwork, detect
from lightsr.networks.base import Join

NAMES = list(REGISTRY)
TRAINED = [name for name in NAMES if name != "bicubic"]
FOLDING = ["mafdn", "lmswn"]
# Two blocks are enough for what repeats: the second one already uses what the first one made.
SHORT = {"lmswn": {"blocks": 2}, "mafdn": {"blocks": 2}, "hasn": {"blocks": 2}, "idsa_net": {"groups": 2}}


def network(name: str, scale: int = 2, dtype: torch.dtype = torch.float64, **config: object) -> SRNetwork:
    """A short one, with every parameter away from its initial zero or one, so that nothing cancels by accident."""
    torch.manual_seed(1)
    net = lightsr.create(name, scale, **SHORT.get(name, {}), **config).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


def picture(*size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def test_the_four_and_bicubic_are_there() -> None:
    assert NAMES == ["bicubic", "lmswn", "mafdn", "hasn", "idsa_net"]


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(lightsr.InputError, match="one of bicubic, lmswn, mafdn, hasn, idsa_net; got 'swinir'"):
        lightsr.create("swinir")


@pytest.mark.parametrize("name", NAMES)
def test_unknown_scale_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 5"):
        lightsr.create(name, 5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_every_size_comes_out_scaled(name: str, scale: int) -> None:
    net = network(name, scale, torch.float32)
    for n, h, w in [(1, 1, 1), (2, 1, 17), (1, 14, 15), (1, 20, 33), (0, 8, 8)]:
        out = net(picture(n, 3, h, w, dtype=torch.float32))
        assert out.shape == (n, 3, scale * h, scale * w)
        assert out.isfinite().all()


@pytest.mark.parametrize("name", TRAINED)
def test_fused_equals_plain(name: str) -> None:
    net, x = network(name), picture(2, 3, 18, 21)
    plain_keys, plain = list(net.state_dict()), net(x)
    fused = net.set_fused(True)(x)
    assert net.use_fused and list(net.state_dict()) == plain_keys
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-12 * plain.abs().max().item())
    assert torch.equal(net.set_fused(False)(x), plain)
    assert torch.equal(network(name, use_fused=True)(x), fused)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", TRAINED)
def test_gradients_agree(name: str, fused: bool) -> None:
    with torch.enable_grad():
        net, reference = network(name), network(name)
        net.set_fused(fused)
        x = picture(1, 3, 16, 16).requires_grad_()
        weight = picture(1, 3, 32, 32)
        parameters = list(net.parameters())
        got = torch.autograd.grad((net(x) * weight).sum(), [x, *parameters])
        expected = torch.autograd.grad((reference(x) * weight).sum(), [x, *reference.parameters()])
        names = ["x", *(key for key, _ in net.named_parameters())]
    for key, one, other in zip(names, got, expected, strict=True):
        atol = 1e-12 * max(1.0, other.abs().max().item())
        torch.testing.assert_close(one, other, rtol=1e-9, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_pictures_one_by_one(name: str) -> None:
    net, x = network(name), picture(3, 3, 16, 17)
    torch.testing.assert_close(net(x), torch.cat([net(each[None]) for each in x]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_channels_last_gives_the_same(name: str, fused: bool) -> None:
    net, x = network(name).set_fused(fused), picture(2, 3, 16, 17)
    expected = net(x)
    out = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11 * expected.abs().max().item())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", TRAINED)
def test_autocast(name: str, fused: bool) -> None:
    net, x = network(name, dtype=torch.float32).set_fused(fused), picture(1, 3, 16, 17, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    assert out.dtype == torch.bfloat16
    expected = net(x)
    assert (out.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", NAMES)
def test_compiles_whole_with_dynamic_sizes(name: str, fused: bool) -> None:
    torch.compiler.reset()
    net = network(name, dtype=torch.float32).set_fused(fused)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> object:
        graphs.append(graph)
        return graph  # run as it is: tracing is what is tested

    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
    # From 21 pixels a side, where HASN's pooled map is two wide, and large enough for one choice of convolution.
    for size in [(41, 48), (40, 56), (47, 60), (64, 40), (37, 57)]:
        x = picture(1, 3, *size, dtype=torch.float32)
        torch.testing.assert_close(compiled(x), net(x), rtol=1e-4, atol=1e-5)
    assert len(graphs) <= 2


@pytest.mark.parametrize("name", NAMES)
def test_copies_and_pickles(name: str) -> None:
    net, x = network(name).set_fused(True), picture(1, 3, 15, 16)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.use_fused and torch.equal(other(x), net(x))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", TRAINED)
def test_detects_itself(name: str, scale: int) -> None:
    forms = [{"folded": True}, {"folded": False}] if name in FOLDING else [{}]
    for form in forms:
        state = lightsr.create(name, scale, **form).state_dict()
        cls, config = detect(state)
        assert cls is REGISTRY[name] and config["scale"] == scale
        cls(**config).load_state_dict(state)


@pytest.mark.parametrize("name", TRAINED)
def test_a_near_miss_names_the_network_and_the_key(name: str) -> None:
    state = lightsr.create(name, 4).state_dict()
    missing = next(iter(state))
    del state[missing]
    with pytest.raises(lightsr.InputError) as refusal:
        detect(state)
    assert REGISTRY[name].title in str(refusal.value) and f"{missing} is missing" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_stranger_is_refused_in_one_line() -> None:
    with pytest.raises(lightsr.InputError, match="fit none of LMSWN, MAFDN, HASN, IDSA-Net; closest is") as refusal:
        detect({"conv.weight": torch.zeros(3, 3)})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", FOLDING)
def test_folds_in_place_and_once(name: str) -> None:
    net, x = network(name), picture(1, 3, 12, 13)
    before, assumed = net(x), network(name, folded=True)
    assert not net.folded and net.fold() is net and net.folded
    assert list(net.state_dict()) == list(assumed.state_dict())
    torch.testing.assert_close(net(x), before, rtol=0, atol=1e-12 * before.abs().max().item())
    assert list(net.fold().state_dict()) == list(assumed.state_dict())


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_joining_keeps_the_gradients(fused: bool) -> None:
    parts = [picture(2, 3, 5, 4) - 0.5 for _ in range(3)]
    fusion = torch.nn.Conv2d(9, 4, 1, dtype=torch.float64)
    with torch.enable_grad():
        given = [each.clone().requires_grad_() for each in parts]
        out = joined(given, fusion, fused)
        wanted = torch.nn.functional.leaky_relu(fusion(torch.cat(given, 1)), 0.05)
        torch.testing.assert_close(out, wanted, rtol=1e-12, atol=1e-12)
        inputs = [*given, *fusion.parameters()]
        pairs = zip(torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True)
        for got, expected in pairs:
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def joined(parts: list[torch.Tensor], fusion: torch.nn.Conv2d, fused: bool) -> torch.Tensor:
    join = Join(fusion, fused)
    for each in parts:
        join.add(each)
    return join.result()


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
def test_joining_refuses_what_is_not_all(fused: bool, grad: bool) -> None:
    fusion = torch.nn.Conv2d(9, 4, 1)
    with torch.set_grad_enabled(grad):
        for count, message in ((0, "9 channels"), (2, "9 channels"), (4, "channels|weight must have shape")):
            with pytest.raises((ValueError, RuntimeError), match=message):
                joined([torch.rand(1, 3, 5, 4)] * count, fusion, fused)


@pytest.mark.parametrize("name", ["lmswn", "mafdn"])
def test_a_joining_network_can_be_traced(name: str) -> None:
    net = network(name, use_fused=True)
    x = picture(1, 3, 12, 13)
    with torch.no_grad(), lightsr_kernels.backend("reference"):
        torch.testing.assert_close(torch.jit.trace(net, x, check_trace=False)(x), net(x))


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float32, 0), (torch.float64, 0), (torch.bfloat16, 3)])
def test_joining_forgets_what_no_gradient_needs(dtype: torch.dtype, kept: int) -> None:
    """In 16 bits a running sum would be rounded at each step; with one op it is as exact as eager code."""
    fusion = torch.nn.Conv2d(9, 4, 1).to(dtype)
    parts = [(picture(2, 3, 5, 4) - 0.5).to(dtype) for _ in range(3)]
    with torch.no_grad():
        join = Join(fusion, True)
        for each in parts:
            join.add(each)
        assert len(join.outputs) == kept
        got = join.result()
        assert join.outputs == [] and join.sum is None
        exact = torch.nn.functional.conv2d(torch.cat(parts, 1).double(), fusion.weight.double(), fusion.bias.double())
        wanted = torch.nn.functional.leaky_relu(exact, 0.05)
    torch.testing.assert_close(got.double(), wanted, rtol=4 * torch.finfo(dtype).eps, atol=4 * torch.finfo(dtype).eps)
