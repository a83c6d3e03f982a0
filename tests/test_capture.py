"""lightsr.capture: what it refuses, how it captures and replays; on a GPU, that the results are the network's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import lightsr
from lightsr.captured import WARM_UP, CapturedOnGPU, State
from lightsr.networks import REGISTRY

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
SHAPE = (2, 3, 9, 7)


@pytest.mark.parametrize(
    "shape", [(3, 9, 7), (1, 4, 9, 7), (1, 3, 0, 7), (1, 3, 9.0, 7), (True, 3, 9, 7), "1x3x9x7", None]
)
def test_a_bad_shape_is_refused_in_one_line(shape: Any) -> None:
    with pytest.raises(
        lightsr.InputError, match=r"^capture: shape must be \[N, 3, H, W\] of whole numbers from 1; got"
    ):
        lightsr.capture(lightsr.create("bicubic"), shape)


def test_other_devices_are_refused() -> None:
    net = lightsr.create("bicubic").eval()
    with pytest.raises(lightsr.InputError, match=r"device must be 'cpu' or a GPU such as 'cuda'; got 'meta'"):
        lightsr.capture(net, SHAPE, device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(lightsr.InputError, match="no CUDA GPU; capture the network on the CPU"):
            lightsr.capture(net, SHAPE, device="cuda")


def test_a_network_that_is_not_ready_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    net = lightsr.create("lmswn", blocks=1)
    with pytest.raises(lightsr.InputError, match=r"is in train\(\); call net.eval\(\) first"):
        lightsr.capture(net, SHAPE)
    with pytest.raises(lightsr.InputError, match=r"the network is on cpu, not on cuda:0; call net.to\('cuda:0'\)"):
        lightsr.capture(net.eval(), SHAPE, device="cuda")
    with pytest.raises(lightsr.InputError, match="memory_format must be"):
        lightsr.capture(net, SHAPE, memory_format=torch.preserve_format)


class Graph:
    """Stands for torch.cuda.CUDAGraph: calls the network again, and writes over what it gave the first time."""

    def __init__(self) -> None:
        self.replays = 0
        self.call: Any = None

    def replay(self) -> None:
        self.replays += 1
        self.call()


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torch.cuda as far as a capture uses it, with a record of what happened in which order."""
    told: list[str] = []

    @contextmanager
    def stream(side: Any) -> Iterator[None]:
        told.append("side stream")
        yield
        told.append("main stream")

    @contextmanager
    def graph(one: Graph) -> Iterator[None]:
        told.append("capture")
        yield
        told.append("captured")

    def waits(name: str) -> Any:
        return SimpleNamespace(wait_stream=lambda other: told.append(f"{name} waits"))

    replaced = {"Stream": lambda: waits("side"), "current_stream": lambda: waits("main"), "stream": stream}
    replaced |= {"CUDAGraph": Graph, "graph": graph, "device": lambda device: nullcontext()}
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return told


def captured(net: torch.nn.Module, told: list[str]) -> CapturedOnGPU:
    hook = net.register_forward_hook(lambda *_: told.append("call"))
    made = CapturedOnGPU(net, torch.zeros(SHAPE), None)
    hook.remove()
    made._made_of = State(net)
    graph: Any = made._graph
    graph.call = lambda: made.output.copy_(net(made.input))
    return made


def test_it_warms_up_aside_and_captures_once(without_gpu: list[str]) -> None:
    captured(lightsr.create("lmswn", blocks=1).eval(), without_gpu)
    warm = ["side waits", "side stream", *["call"] * WARM_UP, "main stream", "main waits"]
    assert without_gpu == [*warm, "capture", "call", "captured"]


def test_a_call_replays_on_the_same_memory(without_gpu: list[str]) -> None:
    net = lightsr.create("lmswn", blocks=1).eval()
    enlarge = captured(net, without_gpu)
    one, two = torch.rand(SHAPE), torch.rand(SHAPE).contiguous(memory_format=torch.channels_last)
    first = enlarge(one, clone=True)
    second = enlarge(two)
    graph: Any = enlarge._graph
    assert graph.replays == 2 and second is enlarge.output
    with torch.no_grad():
        assert torch.equal(first, net(one)) and torch.equal(second, net(two.contiguous()))


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 9, 7), torch.zeros(SHAPE, dtype=torch.float64)])
def test_another_picture_is_refused(x: Tensor, without_gpu: list[str]) -> None:
    enlarge = captured(lightsr.create("lmswn", blocks=1).eval(), without_gpu)
    with pytest.raises(
        lightsr.InputError, match=r"x must be float32 \[2, 3, 9, 7\] on cpu; got .*; capture the network"
    ):
        enlarge(x)


def test_changed_weights_are_noticed(without_gpu: list[str]) -> None:
    net = lightsr.create("lmswn", blocks=1).eval()
    enlarge = captured(net, without_gpu)
    enlarge(torch.rand(SHAPE))
    net.load_state_dict(copy.deepcopy(net.state_dict()))
    with pytest.raises(lightsr.InputError, match="have changed since; capture it again"):
        enlarge(torch.rand(SHAPE))


SMALL: dict[str, dict[str, Any]] = {"bicubic": {}, "hasn": {}, "idsa_net": {"groups": 1}, "lmswn": {"blocks": 1}}
SMALL["mafdn"] = {"blocks": 1}


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("use_fused", [False, True])
@pytest.mark.parametrize("name", REGISTRY)
def test_on_a_cpu_the_result_has_the_networks_bits(
    name: str, use_fused: bool, dtype: torch.dtype, channels_last: bool
) -> None:
    torch.manual_seed(0)
    net = lightsr.create(name, scale=2, use_fused=use_fused, **SMALL[name]).eval().to(dtype)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    enlarge = lightsr.capture(net, (2, 3, 17, 18), memory_format=layout, dtype=dtype)
    for _ in range(2):
        x = torch.rand(2, 3, 17, 18).to(dtype)
        with torch.no_grad():
            wanted = net(x.contiguous(memory_format=layout))
        enlarge._recording._memory.fill_(255)  # NaN, for whatever reads what it did not write
        assert torch.equal(enlarge(x), wanted) and enlarge.output.stride() == wanted.stride()


@pytest.mark.parametrize("use_fused", [False, True])
def test_on_a_cpu_it_captures_what_autocast_does(use_fused: bool) -> None:
    net = lightsr.create("hasn", use_fused=use_fused).eval()
    enlarge, x = lightsr.capture(net, SHAPE, autocast=torch.bfloat16), torch.rand(SHAPE)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(enlarge(x), net(x))
    assert torch.equal(enlarge(x, clone=True), enlarge.output)


def test_on_a_cpu_it_runs_in_inference_mode_and_out_of_it() -> None:
    net = lightsr.create("hasn", use_fused=True).eval()
    x = torch.rand(SHAPE)
    with torch.inference_mode():
        enlarge = lightsr.capture(net, SHAPE)
        first = enlarge(torch.rand(SHAPE) * 0 + x, clone=True)
    with torch.no_grad():
        assert torch.equal(first, net(x)) and torch.equal(enlarge(x), first)
    assert not enlarge(x).requires_grad


@pytest.mark.parametrize(
    "change",
    [
        lambda net: torch.no_grad()(net.body_end.bias.mul_)(2),
        lambda net: net.to(torch.float64).to(torch.float32),
        lambda net: net.fold(),
        lambda net: setattr(net.body_end, "bias", torch.nn.Parameter(torch.zeros(64))),
        lambda net: setattr(net, "body_end", torch.nn.Identity()),
        lambda net: delattr(net, "body_end"),
        lambda net: net.body_end.register_forward_hook(lambda *_: None),
        lambda net: net.set_fused(False),
        lambda net: net.train(),
    ],
    ids=["written", "moved", "folded", "replaced", "another module", "no module", "hook", "not fused", "train"],
)
def test_whatever_changes_the_network_is_noticed(change: Any) -> None:
    net = lightsr.create("lmswn", blocks=1, use_fused=True).eval()
    enlarge = lightsr.capture(net, SHAPE)
    enlarge(torch.rand(SHAPE))
    change(net)
    with pytest.raises(lightsr.InputError, match="have changed since; capture it again"):
        enlarge(torch.rand(SHAPE))


def test_a_part_in_train_is_refused() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3)).eval()
    net[0].train()
    with pytest.raises(lightsr.InputError, match="or a part of it, is in train"):
        lightsr.capture(net, SHAPE)


def test_a_network_that_looks_at_its_numbers_is_refused() -> None:
    class Looks(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.max() > 1 else -x

    with pytest.raises(
        lightsr.InputError, match=r"^capture: the network cannot be recorded: .*values.*; call the netw"
    ):
        lightsr.capture(Looks().eval(), SHAPE)


@gpu
@pytest.mark.parametrize("use_fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_a_gpu_the_result_is_the_networks(use_fused: bool, dtype: torch.dtype) -> None:
    net = lightsr.create("hasn", use_fused=use_fused).fold().eval().cuda().to(dtype)
    enlarge = lightsr.capture(net, SHAPE, memory_format=torch.channels_last)
    for _ in range(2):
        x = torch.rand(SHAPE, device="cuda", dtype=dtype)
        with torch.no_grad():
            wanted = net(x.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(enlarge(x), wanted)
