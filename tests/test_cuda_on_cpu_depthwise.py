"""The CUDA kernels of depthwise_conv that use no tensor cores, run on the CPU."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from cuda_on_cpu.depthwise import check_what_is_not_finite
from cuda_on_cpu.harness import At, Harness, Launch, Result, why_not
from torch import Tensor

from lightsr_kernels.depthwise_conv.reference import reference
from lightsr_kernels.functional import ACTIVATIONS

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the order of csrc/common/types.h
EACH_TYPE = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
EACH_LAYOUT = pytest.mark.parametrize("last", [False, True], ids=["nchw", "channels_last"])
Size = tuple[int, int]
Shape = tuple[int, int, int, int]

# Picture, filter, dilation.
GEOMETRIES: tuple[tuple[Shape, Size, Size], ...] = (
    ((2, 3, 13, 20), (3, 3), (1, 1)),
    ((1, 17, 11, 37), (7, 7), (1, 1)),
    ((1, 2, 9, 11), (31, 31), (1, 1)),
    ((2, 3, 1, 1), (5, 5), (1, 1)),
    ((1, 3, 40, 33), (5, 11), (1, 1)),
    ((1, 3, 27, 29), (7, 7), (3, 3)),
    ((2, 3, 19, 31), (9, 3), (2, 3)),
    ((1, 1, 30, 70), (13, 1), (1, 1)),
    ((1, 2, 6, 70), (1, 17), (2, 2)),
    ((1, 1, 70, 132), (15, 15), (1, 1)),
    ((1, 3, 5, 4), (3, 3), (11, 12)),
    ((3, 1, 4, 90), (1, 5), (1, 11)),
    ((1, 9, 66, 4), (1, 1), (1, 1)),
)


class Kernels:
    """The entries of entry_depthwise_conv.cpp as functions of tensors."""

    def __init__(self) -> None:
        sources = ("tests/cuda_on_cpu/entry_depthwise_conv.cpp", "csrc/depthwise_conv/cuda.cu")
        self.harness = Harness(*sources, flags=("-DLIGHTSR_DIRECT_ONLY",))

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        dilation: Size = (1, 1),
        activation: str = "none",
        slope: float = 0.01,
        gate: Tensor | None = None,
        residual: Tensor | None = None,
        flip: bool = False,
        last: bool = False,
        offset: int = 0,
        seed: int = 0,
    ) -> Tensor:
        offset *= x.element_size()

        def picture(tensor: Tensor | None) -> At | None:
            return None if tensor is None else At(tensor.permute(0, 2, 3, 1) if last else tensor, offset)

        n, c, h, w = x.shape
        sizes = (TYPES.index(x.dtype), last, flip, n, c, h, w, *weight.shape[2:], *dilation)
        shape = (n, h, w, c) if last else (n, c, h, w)
        (out,) = self.harness.call(
            "depthwise_conv_forward",
            *sizes,
            ACTIVATIONS.index(activation),
            slope,
            picture(x),
            weight,
            bias,
            picture(gate),
            picture(residual),
            Result(shape, x.dtype, offset),
            seed=seed,
        )
        return out.permute(0, 3, 1, 2) if last else out

    def backward_weight(
        self,
        grad: Tensor,
        x: Tensor,
        size: Size,
        dilation: Size,
        bias: bool,
        last: bool,
        offset: int = 0,
        seed: int = 0,
    ) -> list[Tensor]:
        n, c, h, w = x.shape
        offset *= x.element_size()
        pictures = [At(each.permute(0, 2, 3, 1) if last else each, offset) for each in (x, grad)]
        results = (Result((c, 1, *size), x.dtype), Result((c,), x.dtype) if bias else None)
        sizes = (TYPES.index(x.dtype), last, n, c, h, w, *size, *dilation)
        return self.harness.call("depthwise_conv_backward_weight", *sizes, *pictures, *results, seed=seed)


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    kernels = Kernels()
    yield kernels
    kernels.harness.close()


def whole(dtype: torch.dtype, *shape: int, most: int = 2) -> Tensor:
    return torch.randint(-most, most + 1, shape).to(dtype)


def convolution(x: Tensor, weight: Tensor, bias: Tensor, dilation: Size) -> Tensor:
    padding = (dilation[0] * (weight.shape[2] // 2), dilation[1] * (weight.shape[3] // 2))
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=x.shape[1])


def check_exactly(kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape, size: Size, dilation: Size) -> None:
    """Whole numbers small enough for every sum to be one: forward and backward, bit for bit, whatever the order."""
    narrow = dtype in (torch.float16, torch.bfloat16)
    c, many = shape[1], size[0] * size[1] > 100
    x = whole(dtype, *shape, most=1 if narrow else 3)
    weight = whole(dtype, c, 1, *size, most=1 if narrow else 3)
    if narrow and many:  # so that no sum is beyond 256, the last whole number of bfloat16
        weight *= (torch.rand(weight.shape) < 60 / (size[0] * size[1])).to(dtype)
    bias, grad = whole(dtype, c), whole(dtype, *shape, most=1)
    exact = [each.double().requires_grad_() for each in (x, weight, bias)]
    expected = convolution(exact[0], exact[1], exact[2], dilation)
    expected.backward(grad.double())
    out = kernels.forward(x, weight, bias, dilation, last=last)
    assert torch.equal(out.double(), expected.detach())
    back = kernels.forward(grad, weight, None, dilation, flip=True, last=last, seed=1)
    assert torch.equal(back.double(), exact[0].grad)
    found = kernels.backward_weight(grad, x, size, dilation, True, last)
    for each, true in zip(found, exact[1:], strict=True):
        assert true.grad is not None
        assert torch.equal(each, true.grad.to(dtype))


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize(("shape", "size", "dilation"), GEOMETRIES, ids=str)
def test_whole_numbers_are_exact(
    kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape, size: Size, dilation: Size
) -> None:
    check_exactly(kernels, dtype, last, shape, size, dilation)


@pytest.mark.parametrize("width", range(1, 32, 2))
def test_every_width_of_filter(kernels: Kernels, width: int) -> None:
    check_exactly(kernels, torch.float32, False, (1, 2, 7, 12), (width, width), (1, 1))
    check_exactly(kernels, torch.float64, False, (1, 1, 5, 9), (3, width), (1, 2))


def test_a_block_adds_up_several_tiles(kernels: Kernels) -> None:
    """With so many channels the gradient of the weights is cut into fewer parts than there are tiles."""
    shape, size = (3, 2100, 2, 5), (3, 5)
    check_exactly(kernels, torch.float32, False, shape, size, (1, 1))
    assert launches(kernels, torch.float32, False, shape, size, (1, 1))[1].blocks == 2 * 2100


@EACH_TYPE
@EACH_LAYOUT
def test_the_order_of_threads_and_blocks_changes_no_bit(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    x, grad = (torch.randn(2, 3, 70, 21).to(dtype) for _ in range(2))
    weight, bias = torch.randn(3, 1, 7, 7).to(dtype), torch.randn(3).to(dtype)
    for dilation in ((1, 1), (2, 3)):
        forward = [kernels.forward(x, weight, bias, dilation, "silu", gate=grad, last=last, seed=i) for i in range(3)]
        backward = [kernels.backward_weight(grad, x, (7, 7), dilation, True, last, seed=i) for i in range(3)]
        assert torch.equal(forward[0], forward[1]) and torch.equal(forward[0], forward[2])
        for other in backward[1:]:
            assert all(map(torch.equal, backward[0], other))


@EACH_TYPE
@EACH_LAYOUT
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_gate_and_residual(kernels: Kernels, dtype: torch.dtype, last: bool, activation: str) -> None:
    shape = (1, 5, 9, 12)
    x, gate, residual = (torch.randn(shape).to(dtype) for _ in range(3))
    weight, bias = torch.randn(5, 1, 3, 5).to(dtype), torch.randn(5).to(dtype)
    for extra in ((gate, residual), (None, residual), (gate, None), (None, None)):
        out = kernels.forward(x, weight, bias, (1, 1), activation, 0.25, *extra, last=last)
        wide = [None if each is None else each.double() for each in (x, weight, bias, *extra)]
        assert wide[0] is not None and wide[1] is not None
        expected = reference(wide[0], wide[1], wide[2], [1, 1], activation, 0.25, wide[3], wide[4])
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(out.double(), expected, rtol=2 * step, atol=(8 if step < 1e-3 else 1) * step)


def test_gelu_keeps_its_lower_tail(kernels: Kernels) -> None:
    for dtype, lowest in ((torch.float32, -12.0), (torch.float64, -30.0)):
        x = torch.linspace(lowest, 2, 64, dtype=dtype).reshape(1, 1, 1, 64)
        out = kernels.forward(x, torch.ones(1, 1, 1, 1, dtype=dtype), activation="gelu")
        wide = x.double()
        expected = 0.5 * wide * torch.special.erfc(wide * -(0.5**0.5))
        # An argument's own rounding is multiplied by the tail's logarithmic slope, x^2.
        step = torch.finfo(dtype).eps * (4 + wide.square())
        assert ((out.double() - expected).abs() <= step * expected.abs()).all()


@EACH_TYPE
@EACH_LAYOUT
def test_tensors_may_begin_anywhere(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    x, grad, weight = whole(dtype, 1, 2, 7, 16), whole(dtype, 1, 2, 7, 16), whole(dtype, 2, 1, 3, 3)
    expected = kernels.forward(x, weight, residual=grad, last=last)
    gradient = kernels.backward_weight(grad, x, (3, 3), (1, 1), False, last)[0]
    for offset in (1, 2, 3, 4):
        assert torch.equal(kernels.forward(x, weight, residual=grad, last=last, offset=offset), expected)
        found = kernels.backward_weight(grad, x, (3, 3), (1, 1), False, last, offset=offset)[0]
        assert torch.equal(found, gradient)


@EACH_LAYOUT
def test_what_is_not_finite_stays_in_its_field(kernels: Kernels, last: bool) -> None:
    x, weight = torch.randn(1, 2, 20, 30), torch.randn(2, 1, 5, 7)
    for value in (float("nan"), float("inf")):
        for y, column in ((0, 0), (10, 14), (19, 29)):
            x_bad = x.clone()
            x_bad[0, 1, y, column] = value
            field = torch.zeros(1, 2, 20, 30, dtype=torch.bool)
            field[0, 1, max(y - 2, 0) : y + 3, max(column - 3, 0) : column + 4] = True
            assert torch.equal(kernels.forward(x_bad, weight, last=last).isfinite(), ~field)


@EACH_TYPE
@EACH_LAYOUT
def test_what_is_not_finite_stays_in_its_taps(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    check_what_is_not_finite(lambda grad, x, *sizes: kernels.backward_weight(grad, x, *sizes, False, last)[0], dtype)


def launches(
    kernels: Kernels, dtype: torch.dtype, last: bool, shape: Shape, size: Size, dilation: Size
) -> list[Launch]:
    """Of the forward pass, and of the parts of the backward pass."""
    tensor, number = Result(shape, dtype), TYPES.index(dtype)
    forward = (number, last, 0, *shape, *size, *dilation, 0, 0.0, tensor, tensor, None, None, None, tensor)
    backward = (number, last, *shape, *size, *dilation, tensor, tensor, tensor, tensor)
    (first,) = kernels.harness.plan("depthwise_conv_forward", *forward)
    second, third = kernels.harness.plan("depthwise_conv_backward_weight", *backward)
    assert "direct_forward" in first.kernel
    assert "weight_direct_parts" in second.kernel
    assert "weight_direct_sum" in third.kernel
    for launch in (first, second, third):
        assert 1 <= launch.blocks < 2**31
        assert launch.threads % 32 == 0 and launch.threads <= 256
        assert launch.shared <= 99 * 1024
    return [first, second]


@EACH_TYPE
@EACH_LAYOUT
def test_one_picture_fills_a_device(kernels: Kernels, dtype: torch.dtype, last: bool) -> None:
    for k in (3, 7, 13, 31):
        for dilation in (1, 3):
            for launch in launches(kernels, dtype, last, (1, 64, 180, 320), (k, k), (dilation, dilation)):
                assert launch.blocks >= 264


def test_every_size_has_a_plan(kernels: Kernels) -> None:
    draw = random.Random(1)
    lengths = (1, 2, 7, 8, 31, 48, 64, 65, 180, 640, 4096, 100_003)
    for _ in range(400):
        n, c, h, w = (draw.choice(lengths) for _ in range(4))
        size = (2 * draw.randrange(16) + 1, 2 * draw.randrange(16) + 1)
        dilation = (draw.choice((1, 1, 2, 3, 8, 100)), draw.choice((1, 1, 2, 3, 5, 7, 8, 9, 1000)))
        if n * c * h * w < 2**36:
            launches(kernels, draw.choice(TYPES), draw.random() < 0.5, (n, c, h, w), size, dilation)


@EACH_LAYOUT
@pytest.mark.parametrize("shape", [(3, 700, 1000, 2048), (2, 5, 40000, 50000), (3_000_000_000, 1, 1, 1)], ids=str)
def test_offsets_beyond_32_bits(kernels: Kernels, last: bool, shape: Shape) -> None:
    """Where the kernels find a pixel, asked without the memory it would lie in."""
    n, c, h, w = shape
    last = last and (c > 1 or h * w > 1)
    for dilation in ((1, 1), (3, 2)):
        rows, columns = -(-h // min(dilation[0], h)), -(-w // min(dilation[1], w))
        sizes = (last, n, c, h, w, *dilation)
        (counts,) = kernels.harness.call("depthwise_conv_plan", *sizes, Result((4,), torch.int64))
        slot_blocks, slots, blocks, shared_bytes = counts.tolist()
        assert 0 < blocks < 2**31 and shared_bytes <= 163 * 1024
        for block in (0, slot_blocks // 2, slot_blocks - 1):
            for v, u in ((0, 0), (rows - 1, columns - 1), (-1, 0), (rows // 2, columns)):
                asked = (*sizes, block, slots // 2, v, u)
                (found,) = kernels.harness.call("depthwise_conv_place", *asked, Result((4,), torch.int64))
                channel, row_phase, inside, place = found.tolist()
                if channel < 0:
                    continue
                y, x = v * min(dilation[0], h) + row_phase, u * min(dilation[1], w)
                assert inside == (0 <= y < h and 0 <= x < w)
                unit = block * slots + slots // 2
                groups = -(-c // slots)
                plane = block // groups // min(dilation[0], h) if last else unit // min(dilation[0], h)
                assert channel == (block % groups * slots + slots // 2 if last else plane % c)
                if inside:
                    pixel = (plane * h + y) * w + x
                    assert place == (pixel * c + channel if last else pixel)
