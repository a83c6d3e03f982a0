"""What only a GPU can show of each op: CUDA graphs, side streams, pictures of more than 2^31 elements."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from op_cases import RUNNERS, Runner, change, filled, largest, outputs, picture, tensors
from torch import Tensor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU_RUNNERS = [run for run in RUNNERS if run.device == "cuda" and run.backend != "reference"]
each_gpu_runner = pytest.mark.parametrize("run", GPU_RUNNERS, ids=lambda run: f"{run.spec.name}-cuda-{run.backend}")
FAR = 2**31 + 2**20
SPARE = 4 * 2**30  # bytes that others may need


def with_gradients(run: Runner, args: Any) -> list[Tensor]:
    inputs = tensors(args)
    results = run(*args)
    grads = torch.autograd.grad(sum(each.float().square().sum() for each in results), inputs, allow_unused=True)
    return [*(each.detach() for each in results), *(each for each in grads if each is not None)]


@each_gpu_runner
def test_gpu_graph_replays_result_and_gradients(run: Runner) -> None:
    for sample in list(filled(run.samples(requires_grad=True)))[:3]:
        for layout in (torch.contiguous_format, torch.channels_last):
            args = change(
                sample.args,
                lambda each, layout=layout: (
                    each.detach().clone(memory_format=layout if each.dim() == 4 else torch.contiguous_format)
                ).requires_grad_(),
            )
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    with_gradients(run, args)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                captured = with_gradients(run, args)
            with torch.no_grad():
                for each in tensors(args):
                    each.mul_(0.5)
            wanted = with_gradients(run, args)
            graph.replay()
            assert all(torch.equal(got, each) for got, each in zip(captured, wanted, strict=True)), sample.name


@each_gpu_runner
def test_gpu_side_stream_waits_and_is_waited_for(run: Runner) -> None:
    sample = largest(filled(run.samples(requires_grad=True)))
    wanted = with_gradients(run, sample.args)
    stream = torch.cuda.Stream()
    inputs = change(sample.args, lambda each: torch.zeros_like(each).requires_grad_())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(20_000_000)  # were the kernels on another stream, they would read zeros
        with torch.no_grad():
            for to, source in zip(tensors(inputs), tensors(sample.args), strict=True):
                to.copy_(source)
        got = with_gradients(run, inputs)
    torch.cuda.current_stream().wait_stream(stream)
    assert all(torch.equal(one, other) for one, other in zip(got, wanted, strict=True))


@each_gpu_runner
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_gpu_pictures_beyond_2_31_elements(run: Runner, layout: torch.memory_format) -> None:
    """The same picture again and again in a batch: the last result is the first one's."""
    from lightsr_kernels.spec import Make

    samples = [each for each in run.spec.bench(Make(torch.float16, "cuda")) if picture(each.args).shape[0] == 1]
    sample = max(samples, key=lambda each: picture(each.args).numel())
    first = picture(sample.args)
    if any(each.dim() == 3 for each in tensors(sample.args)):
        pytest.skip("its other arguments depend on the number of pictures")
    many = FAR // first.numel() + 1
    batched = [each for each in tensors(sample.args) if each.dim() == 4 and each.shape[2:] == first.shape[2:]]
    needed = 3 * many * sum(each.numel() * each.element_size() for each in batched)
    if torch.cuda.mem_get_info()[0] < needed + SPARE:
        pytest.skip(f"it needs {needed / 2**30:.0f} GiB of the GPU's memory")

    def repeated(each: Tensor) -> Tensor:
        if each.dim() != 4 or each.shape[2:] != first.shape[2:]:
            return each
        return each.expand(many, -1, -1, -1).contiguous(memory_format=layout)

    with torch.no_grad():
        results = outputs(run(*change(sample.args, repeated)))
        alone = outputs(run(*change(sample.args, lambda each: laid(each, layout))))
    for far, near in zip(results, alone, strict=True):
        torch.testing.assert_close(far[:1], near)
        assert torch.equal(far[-1], far[0]) and torch.equal(far[many // 2], far[0])


def laid(each: Tensor, layout: torch.memory_format) -> Tensor:
    return each.contiguous(memory_format=layout) if each.dim() == 4 else each
