"""DepthwiseConv2d: an nn.Conv2d in everything but the kernel it runs on."""

from __future__ import annotations

import copy
import doctest
import io
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import lightsr_kernels
from lightsr_kernels.functional import ACTIVATIONS, activate
from lightsr_kernels.modules import DepthwiseConv2d

SETTINGS: list[dict[str, Any]] = [
    {"kernel_size": 7, "padding": 3},
    {"kernel_size": 7, "padding": "same", "bias": False},
    {"kernel_size": (3, 5), "padding": (2, 2), "dilation": (2, 1)},
    {"kernel_size": 1},
    {"kernel_size": 1, "padding": "valid"},
    {"kernel_size": 31, "padding": 15},
]
REFUSED = [
    ({"groups": 4}, "groups must equal in_channels and out_channels, got 8 -> 8 channels in groups=4"),
    ({"out_channels": 16}, "groups must equal in_channels and out_channels, got 8 -> 16 channels in groups=8"),
    ({"kernel_size": 4}, "kernel_size must be odd from 1 to 31 a side, got 4 x 4"),
    ({"kernel_size": (3, 33)}, "kernel_size must be odd from 1 to 31 a side, got 3 x 33"),
    ({"stride": 2}, "stride must be 1, got 2 x 2"),
    ({"padding": 0}, "padding must be 'same' or 3 x 3 at this kernel_size and dilation, got 0 x 0"),
    ({"padding": "valid"}, "padding must be 'same' or 3 x 3 at this kernel_size and dilation, got 0 x 0"),
    ({"dilation": (1, 2)}, "padding must be 'same' or 3 x 6 at this kernel_size and dilation, got 3 x 3"),
    ({"padding_mode": "reflect"}, "padding_mode must be 'zeros', got 'reflect'"),
]


def pair(**settings: Any) -> tuple[nn.Conv2d, DepthwiseConv2d]:
    """A convolution and ours with the same weights."""
    settings = {"in_channels": 8, "out_channels": 8, "groups": 8, **settings}
    plain, mine = nn.Conv2d(**settings), DepthwiseConv2d(**settings)
    mine.load_state_dict(plain.state_dict())
    return plain, mine


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(2, 8, 9, 7), (8, 9, 7), (0, 8, 9, 7)], ids=str)
def test_it_computes_what_conv2d_does(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    plain, mine = pair(**settings, dtype=torch.float64)
    one = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    two = one.detach().clone().requires_grad_()
    wanted, got = plain(one), mine(two)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert got.is_contiguous()
    wanted.square().sum().backward()
    got.square().sum().backward()
    torch.testing.assert_close(two.grad, one.grad, rtol=1e-12, atol=1e-12)
    for other, each in zip(plain.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(each.grad, other.grad, rtol=1e-11, atol=1e-11)


def test_it_starts_from_the_weights_of_conv2d() -> None:
    torch.manual_seed(3)
    plain = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    torch.manual_seed(3)
    mine = DepthwiseConv2d(8, 8, 7, padding=3, groups=8)
    assert plain.state_dict().keys() == mine.state_dict().keys()
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in plain.state_dict().items())
    plain.load_state_dict(mine.state_dict())
    assert isinstance(mine, nn.Conv2d)
    assert repr(mine) == repr(plain).replace("Conv2d", "DepthwiseConv2d")


def test_it_takes_the_arguments_of_conv2d_by_position() -> None:
    given = (8, 8, (3, 5), 1, (2, 2), (2, 1), 8, False, "zeros", "meta", torch.float16)
    plain, mine = nn.Conv2d(*given), DepthwiseConv2d(*given)  # type: ignore[arg-type]
    for name in ("kernel_size", "stride", "padding", "dilation", "groups", "bias", "padding_mode"):
        assert getattr(mine, name) == getattr(plain, name)
    assert (mine.weight.device, mine.weight.dtype) == (plain.weight.device, plain.weight.dtype)


@pytest.mark.parametrize(("settings", "message"), REFUSED, ids=[str(settings) for settings, _ in REFUSED])
def test_other_arguments_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    usual = {"in_channels": 8, "out_channels": 8, "kernel_size": 7, "padding": 3, "groups": 8}
    with pytest.raises(ValueError) as caught:
        DepthwiseConv2d(**{**usual, **settings})
    assert str(caught.value) == f"DepthwiseConv2d: {message}; use nn.Conv2d"


def test_another_activation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^DepthwiseConv2d: activation must be one of none, .*; got 'tanh'$"):
        DepthwiseConv2d(8, 8, 1, groups=8, activation="tanh")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_follows(activation: str) -> None:
    mine = DepthwiseConv2d(8, 8, 3, padding=1, groups=8, activation=activation, negative_slope=0.3)
    x = torch.randn(1, 8, 5, 6)
    plain = nn.functional.conv2d(x, mine.weight, mine.bias, padding=1, groups=8)
    torch.testing.assert_close(mine(x), activate(plain, activation, 0.3))
    assert (f"activation={activation}" in repr(mine)) == (activation != "none")
    assert ("negative_slope=0.3" in repr(mine)) == (activation == "leaky_relu")


def test_channels_last_stays() -> None:
    plain, mine = pair(kernel_size=7, padding=3)
    x = torch.randn(2, 8, 9, 7).contiguous(memory_format=torch.channels_last)
    got = mine.to(memory_format=torch.channels_last)(x)
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, plain(x))


def test_copies_keep_weights_and_activation() -> None:
    mine = DepthwiseConv2d(8, 8, 3, padding=1, groups=8, activation="silu")
    x = torch.randn(1, 8, 5, 6)
    file = io.BytesIO()
    torch.save(mine, file)
    file.seek(0)
    copies = (copy.deepcopy(mine), pickle.loads(pickle.dumps(mine)), torch.load(file, weights_only=False))
    replica = mine._replicate_for_data_parallel()  # which has plain tensors for parameters
    replica.weight, replica.bias = mine.weight.detach(), mine.bias.detach()
    for each in (*copies, replica):
        assert type(each) is DepthwiseConv2d
        assert torch.equal(each(x), mine(x))


def test_it_compiles_and_exports() -> None:
    torch._dynamo.reset()
    _, mine = pair(kernel_size=7, padding=3)
    x = torch.randn(2, 8, 9, 7)
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), mine(x))
    shapes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    program = torch.export.export(mine, (x,), dynamic_shapes=shapes).module()
    larger = torch.randn(3, 8, 12, 17)
    torch.testing.assert_close(program(larger), mine(larger))


def test_fx_records_one_call() -> None:
    _, mine = pair(kernel_size=7, padding=3)
    traced = torch.fx.symbolic_trace(mine)
    calls = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert len(calls) == 1
    for shape in ((2, 8, 9, 7), (8, 9, 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(traced(x), mine(x))


def test_autocast_gives_the_dtype_of_conv2d() -> None:
    plain, mine = pair(kernel_size=7, padding=3)
    x = torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", torch.bfloat16):
        wanted, got = plain(x), mine(x)
    assert got.dtype == wanted.dtype
    torch.testing.assert_close(got, wanted)


def test_docstring_example() -> None:
    assert lightsr_kernels.DepthwiseConv2d is DepthwiseConv2d
    (example,) = doctest.DocTestFinder(recurse=False).find(DepthwiseConv2d, globs={})
    failed, tried = doctest.DocTestRunner().run(example)
    assert tried and not failed
