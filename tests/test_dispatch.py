"""Which backend runs, how it is asked for, and what is said about it."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lightsr_kernels
from lightsr_kernels import BackendUnavailableError, backend, depthwise_conv, dispatch, explain
from lightsr_kernels.cache import BuildError
from lightsr_kernels.spec import SPECS, Make

NAMES = ("auto", "cuda", "triton", "cpu", "reference")


ARGUMENTS = (torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3), None, [1, 1], "none", 0.01, None, None)


def call() -> Tensor:
    return depthwise_conv(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHTSR_BACKEND", raising=False)


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A depthwise_conv whose cpu and cuda kernels are there, and are the reference."""
    spec = dataclasses.replace(SPECS["depthwise_conv"], backends=("cuda", "cpu", "reference"))
    kernels = SimpleNamespace(forward=spec.reference)
    monkeypatch.setattr(dispatch, "_kernels", lambda name, op: None if name == "reference" else kernels)
    monkeypatch.setattr(dispatch, "_loaded", set())
    monkeypatch.setattr(dispatch.build, "why_not", lambda part, op: None)
    monkeypatch.setattr(sys.modules["lightsr_kernels.depthwise_conv"], "SPEC", spec)
    monkeypatch.setitem(SPECS, "depthwise_conv", spec)


class Log(TorchDispatchMode):
    """Collects the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **kwargs or {})


def operators() -> list[str]:
    """What one call of depthwise_conv runs."""
    with Log() as log:
        call()
    return log.names


@pytest.mark.usefixtures("claimed")
def test_auto_takes_the_fastest_usable() -> None:
    assert "lightsr::depthwise_conv" in operators()
    assert explain("depthwise_conv").backend == "cpu"
    assert explain("depthwise_conv", "cuda:1").backend == "cuda"


@pytest.mark.usefixtures("claimed")
def test_reference_when_asked_for() -> None:
    with backend("reference"):
        names = operators()
        assert explain("depthwise_conv").backend == "reference"
    assert "lightsr::depthwise_conv" not in names
    assert "aten::convolution" in names


@pytest.mark.usefixtures("claimed")
def test_all_backends_give_the_same() -> None:
    with backend("cpu"):
        assert "lightsr::depthwise_conv" in operators()
        got = call()
    with backend("reference"):
        assert torch.equal(got, call())


def test_contexts_nest_and_end_on_an_error() -> None:
    with backend("reference"):
        with pytest.raises(ZeroDivisionError), backend("auto"):
            assert dispatch.requested() == "auto"
            _ = 1 / 0
        assert dispatch.requested() == "reference"
    assert dispatch.requested() == "auto"


def test_other_threads_see_the_context() -> None:
    seen: list[str] = []
    with backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(dispatch.requested()))
        thread.start()
        thread.join()
    assert seen == ["reference"]


@pytest.mark.parametrize("name", ["cpu", "cuda", "triton"])
def test_a_backend_asked_for_by_name_never_falls_back(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        rf"^gated_pointwise: backend '{name}' was asked for, but this version has no {name} kernel for it; use .*$"
    )
    spec = SPECS["gated_pointwise"]
    if name in spec.backends:
        pytest.skip("there is one")
    args = next(iter(spec.samples(Make()))).args
    with backend(name), pytest.raises(BackendUnavailableError, match=message):
        dispatch.call(spec, *args)
    monkeypatch.setenv("LIGHTSR_BACKEND", name)
    with pytest.raises(BackendUnavailableError, match=message):
        dispatch.call(spec, *args)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that fails."""

    def fail(part: str, op: str) -> None:
        raise BuildError("compiling the CPU kernels failed (no space left)")

    for name in ("_loaded", "_failed"):
        monkeypatch.setattr(dispatch.build, name, {})
    monkeypatch.setattr(dispatch.build, "_why_not", lambda part, op: None)
    monkeypatch.setattr(dispatch.build, "_reasons", {})
    monkeypatch.setattr(dispatch.build, "_load", fail)
    monkeypatch.setattr(dispatch, "_kernels", dispatch._kernels.__wrapped__)
    monkeypatch.setattr(dispatch, "_loaded", set())


@pytest.mark.usefixtures("broken")
def test_kernels_that_cannot_be_built_are_told_of_once() -> None:
    with pytest.warns(UserWarning, match=r"^lightsr_kernels: no cpu kernels, plain PyTorch instead: compiling .* left"):
        got = call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(got, call())
        assert torch.equal(got, SPECS["depthwise_conv"].op(*ARGUMENTS))
    assert "no space left" in explain("depthwise_conv").reasons["cpu"]


@pytest.mark.usefixtures("broken")
def test_kernels_that_cannot_be_built_are_an_error_by_name() -> None:
    message = "^depthwise_conv: backend 'cpu' was asked for, but compiling the CPU kernels failed .*; use auto or"
    with backend("cpu"), pytest.raises(BackendUnavailableError, match=message):
        call()


@pytest.mark.usefixtures("claimed")
@pytest.mark.parametrize("faster", [True, False])
def test_auto_leaves_to_pytorch_what_pytorch_does_faster(faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, torch.Size]] = []

    def rule(name: str, x: Tensor, *others: object) -> bool:
        asked.append((name, x.shape))
        return faster

    spec = dataclasses.replace(SPECS["depthwise_conv"], faster=rule)
    assert (dispatch.kernels_for(spec, ARGUMENTS) is None) is not faster
    assert asked == [("cpu", (1, 1, 3, 3))]
    with backend("cpu"):
        assert dispatch.kernels_for(spec, ARGUMENTS) is not None


@pytest.mark.usefixtures("claimed")
def test_a_backend_of_another_device_is_refused() -> None:
    message = "^depthwise_conv: backend 'cuda' was asked for, but it runs on cuda tensors and x is on cpu; use auto"
    with backend("cuda"), pytest.raises(BackendUnavailableError, match=message):
        call()


def test_wrong_arguments_are_told_before_a_missing_backend() -> None:
    with backend("cuda"), pytest.raises(ValueError, match="weight must have shape"):
        depthwise_conv(torch.ones(1, 1, 3, 3), torch.ones(2, 1, 3, 3))


def test_lists_are_dispatched_by_their_first_tensor() -> None:
    parts, weight = [torch.ones(1, 2, 3, 3)], torch.ones(2, 2, 1, 1)
    with backend("cuda"), pytest.raises(BackendUnavailableError, match=r"^distillation_fusion: "):
        lightsr_kernels.distillation_fusion(parts, weight)


@pytest.mark.parametrize("name", NAMES)
def test_the_variable_sets_the_choice(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", name)
    assert dispatch.requested() == name
    with backend("reference"):  # the context is closer
        assert dispatch.requested() == "reference"


def test_an_empty_variable_is_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTSR_BACKEND", "")
    assert dispatch.requested() == "auto"


def test_the_variable_works_from_outside() -> None:
    script = "import torch, lightsr_kernels as k; k.depthwise_conv(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))"
    environment = {**os.environ, "LIGHTSR_BACKEND": "fast", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    wanted = "LIGHTSR_BACKEND must be one of auto, cuda, triton, cpu, reference; got 'fast'"
    assert done.stderr.splitlines()[-1] == f"ValueError: {wanted}"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^backend must be one of auto, .*; got 'gpu'$"), backend("gpu"):
        pass
    with pytest.raises(ValueError, match=r"^explain: op must be one of .*depthwise_conv.*; got 'depthwise'$"):
        explain("depthwise")
    with pytest.raises(ValueError, match=r"^explain: device must be cpu or cuda, got 'abacus'$"):
        explain("depthwise_conv", "abacus")


@pytest.mark.parametrize("name", SPECS)
def test_explain_says_why_not_another(name: str) -> None:
    told = explain(name)
    assert told.op == name
    assert set(told.reasons) == {each for each in NAMES[1:] if dispatch.why_not(each, SPECS[name], "cpu")}
    assert told.backend not in told.reasons
    text = str(told)
    assert text.startswith(f"{name} on cpu: {told.backend}\n")
    assert "not cuda: " in text


def test_explain_tells_of_a_backend_that_cannot_run() -> None:
    with backend("cuda"):
        told = explain("depthwise_conv")
    assert told.backend == "none, because 'cuda' was asked for"
    assert "no cuda kernel" in told.reasons["cuda"] or "runs on cuda tensors" in told.reasons["cuda"]


@pytest.mark.usefixtures("claimed")
def test_compiled_code_follows_the_context() -> None:
    torch._dynamo.reset()
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(str(graph.code))
        return graph.forward

    x, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)
    compiled = torch.compile(lambda x: depthwise_conv(x, weight), backend=keep, fullgraph=True)
    plain = torch.compile(lambda x: depthwise_conv(x, weight), backend=keep)
    compiled(x)
    assert "lightsr.depthwise_conv" in graphs[0]
    with backend("reference"):
        compiled(x)
        compiled(x)
    assert len(graphs) == 2
    assert "lightsr" not in graphs[1]
    compiled(x)
    assert len(graphs) == 2
    with backend("triton"), pytest.raises(BackendUnavailableError):
        plain(x)


def test_explain_takes_a_torch_device() -> None:
    assert explain("depthwise_conv", torch.device("cuda", 1)).device == "cuda:1"
