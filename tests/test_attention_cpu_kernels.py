"""The CPU kernels of instance_norm_attention and of the ops that share its passes, where the matrix over ops ends.

First the ops on the CPU backend: large means, planes that are no numbers, ties, threads, pictures of several blocks.
Then the passes compiled for each level of SIMD that this machine runs, on memory that ends where the tensor ends.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from simd_levels import LEVELS, compiler_for
from torch import Tensor

import lightsr_kernels
from lightsr_kernels.dispatch import call
from lightsr_kernels.functional import layout_of
from lightsr_kernels.instance_norm_attention import compose
from lightsr_kernels.spec import SPECS, OpSpec

CSRC = Path(__file__).resolve().parents[1] / "csrc"
TORCH = Path(torch.__file__).parent
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]  # in the order of csrc/common/types.h
BY_MEAN = "channel_attention by the mean"
OPS = ("instance_norm_attention", "instance_norm", "channel_attention", BY_MEAN, "spatial_attention")
LAYOUTS = (torch.contiguous_format, torch.channels_last)
each_op = pytest.mark.parametrize("op", OPS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "nhwc"])


def spec_of(op: str) -> OpSpec:
    return SPECS[op.partition(" ")[0]]


def others_of(op: str, c: int, statistic: float = 1.0) -> list[Any]:
    """What a call of `op` has after x."""
    norm = [torch.randn(c), torch.randn(c)]
    gate = [torch.randn(3, c, 1, 1) / (c * statistic), torch.randn(3) + 1, torch.randn(c, 3, 1, 1), torch.randn(c)]
    spatial = [torch.randn(1, 2, 5, 5) / 5]
    if op == "spatial_attention":
        spatial[0] /= statistic
    return {
        "instance_norm_attention": [*norm, *gate, *spatial, 1e-5],
        "instance_norm": [*norm, 1e-5],
        "channel_attention": [*gate, "mean+std"],
        BY_MEAN: [*gate, "mean"],
        "spatial_attention": spatial,
    }[op]


def run(op: str, backend: str, dtype: torch.dtype, args: list[Any]) -> list[Tensor]:
    """The result, then the gradients of its product with fixed numbers."""
    inputs = [
        each.detach().to(dtype).clone(memory_format=torch.preserve_format).requires_grad_()
        for each in args
        if isinstance(each, Tensor)
    ]
    given = iter(inputs)
    with lightsr_kernels.backend(backend):
        out = call(spec_of(op), *[next(given) if isinstance(each, Tensor) else each for each in args])
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out.detach(), *torch.autograd.grad(out, inputs, weights.to(dtype))]


def errors(op: str, dtype: torch.dtype, args: list[Any]) -> Iterator[tuple[float, float, float]]:
    """Of the result and each gradient: the kernels' error, the reference's in the same dtype, the size of the value."""
    rounded = [each.to(dtype) if isinstance(each, Tensor) else each for each in args]
    exact = run(op, "reference", torch.float64, rounded)
    for mine, eager, right in zip(
        run(op, "cpu", dtype, rounded), run(op, "reference", dtype, rounded), exact, strict=True
    ):
        yield tuple(float(each.norm()) for each in (mine.double() - right, eager.double() - right, right))  # type: ignore[misc]


@each_op
@each_layout
def test_large_means(op: str, layout: torch.memory_format) -> None:
    """Mean 1e4, deviation 1, of which 16 bits hold nothing."""
    torch.manual_seed(0)
    x = (torch.randn(2, 7, 67, 81, dtype=torch.float64) + 1e4).contiguous(memory_format=layout)
    unit = torch.finfo(torch.float32).eps
    for index, (mine, eager, size) in enumerate(errors(op, torch.float32, [x, *others_of(op, 7, 1e4)])):
        # Gradients of parameters are sums, whose last digits are anyone's.
        assert mine <= 1.25 * eager + (4 * unit * size if index > 1 else 0), index


@each_op
@each_layout
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_sizes(op: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    """One pixel, one channel, fewer than a vector and more, planes of several blocks."""
    torch.manual_seed(0)
    for shape in ((3, 4, 1, 1), (2, 1, 9, 40), (5, 19, 3, 2), (1, 3, 150, 181), (1, 66, 33, 35), (2, 130, 8, 9)):
        x = torch.randn(shape).contiguous(memory_format=layout)
        unit = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.05 * torch.finfo(dtype).eps)
        for index, (mine, eager, size) in enumerate(errors(op, dtype, [x, *others_of(op, shape[1])])):
            assert mine <= 1.25 * eager + unit * (1 + size), (shape, index)


@each_op
@each_layout
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_planes_that_are_no_numbers(op: str, layout: torch.memory_format, value: float) -> None:
    torch.manual_seed(0)
    for c, place in ((5, (1, 2, 30, 7)), (18, (2, 17, 0, 0)), (1, (0, 0, 44, 49))):
        x = torch.randn(3, c, 45, 50)
        x[place] = value
        if c == 5:
            x[1, 3] = value
        args = [x.contiguous(memory_format=layout), *others_of(op, c)]
        mine, eager = (run(op, backend, torch.float32, args) for backend in ("cpu", "reference"))
        assert torch.equal(mine[0].isnan(), eager[0].isnan())
        for one, other in list(zip(mine, eager, strict=True))[: 2 if op == "spatial_attention" else None]:
            assert torch.equal(one.isfinite(), other.isfinite())  # zero times infinity is a matter of order in a filter


@each_op
@each_layout
def test_constant_planes(op: str, layout: torch.memory_format) -> None:
    """A plane of one value has variance 0, and not the rounding of its mean, whatever the value."""
    torch.manual_seed(0)
    x = torch.rand(2, 20, 1, 1).expand(-1, -1, 70, 90).contiguous(memory_format=layout)
    args = [x, *others_of(op, 20)]
    for mine, wanted in zip(
        run(op, "cpu", torch.float32, args), run(op, "reference", torch.float64, args), strict=True
    ):
        torch.testing.assert_close(mine.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("op", ["instance_norm_attention", "spatial_attention"])
@each_layout
def test_ties_share_the_gradient(op: str, layout: torch.memory_format) -> None:
    """Each of the channels that are the maximum gets an equal part, as from torch's amax."""
    torch.manual_seed(0)
    x = torch.randint(0, 2, (2, 18, 21, 30)).double()
    x[:, 9:] = x[:, :9].flip(1)
    others = others_of(op, 18)
    if op == "instance_norm_attention":  # the same factors for the same planes
        others = [torch.ones(18), torch.zeros(18), torch.zeros(3, 18, 1, 1), *others[3:4], torch.zeros(18, 3, 1, 1)]
        others += [torch.zeros(18), torch.randn(1, 2, 5, 5), 1e-5]
    args = [x.contiguous(memory_format=layout), *others]
    for mine, wanted in zip(*(run(op, each, torch.float64, args) for each in ("cpu", "reference")), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-11, atol=1e-11)


@each_op
@each_layout
def test_bits_do_not_depend_on_threads(op: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    before = torch.get_num_threads()
    try:
        for shape in ((6, 5, 50, 60), (1, 33, 90, 110), (3, 40, 40, 41), (1, 2, 100, 90), (3, 170, 20, 21)):
            args = [torch.randn(shape).contiguous(memory_format=layout), *others_of(op, shape[1])]
            found = []
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                found.append(run(op, "cpu", torch.float32, args))
            for other in found[1:]:
                assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True)), shape
    finally:
        torch.set_num_threads(before)


@each_op
@each_layout
def test_keeping_changes_nothing(op: str, layout: torch.memory_format) -> None:
    """What forward keeps for backward gives the gradients that backward finds by itself."""
    torch.manual_seed(0)
    x = torch.randn(2, 12, 30, 41).contiguous(memory_format=layout)
    args = [x, *others_of(op, 12)]
    with lightsr_kernels.backend("cpu"):
        kernels = lightsr_kernels.dispatch.kernels_for(spec_of(op), tuple(args))
        out, kept = kernels.forward_keeping(*args)
        assert torch.equal(out, kernels.forward(*args))
        wanted = [True] * sum(isinstance(each, Tensor) for each in args)
        grads = [kernels.backward([torch.ones_like(x)], wanted, *args, kept=each) for each in (kept, None)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


class Sizes(ctypes.Structure):
    _fields_ = [
        *[("type", ctypes.c_int), ("channels_last", ctypes.c_bool)],
        *[(name, ctypes.c_int64) for name in "nchw"],
    ]


def structure(*fields: Any, sizes: bool = True) -> type[ctypes.Structure]:
    """A struct of arguments.h: names alone are pointers."""
    given = [(each, ctypes.c_void_p) if isinstance(each, str) else each for each in fields]
    return type("Call", (Sizes if sizes else ctypes.Structure,), {"_fields_": given})


AFFINE = ("centre", "scale", "shift")
PARAMETERS = compose.OF_PLANES
WHETHER = ("residual", ctypes.c_bool)
Moments = structure("x", "mean", "variance", "workspace")
Factors = structure(
    *[("type", ctypes.c_int), *((name, ctypes.c_int64) for name in ("n", "c", "hidden")), ("norm", ctypes.c_bool)],
    *[("statistic", ctypes.c_int), ("eps", ctypes.c_double), "mean", "variance", *PARAMETERS, *AFFINE],
    sizes=False,
)
ChannelPool = structure("x", *AFFINE, "pooled")
GatedAffine = structure("x", *AFFINE, "pooled", "spatial_weight", ("k", ctypes.c_int), "gate", WHETHER, "out")
AffineBackward = structure(
    *["grad", "x", *AFFINE, "gate", "pooled", "grad_pooled", "grad_logit", "share", WHETHER],
    *["constant", "slope", "sums", "grad_x", "workspace"],
)
Gradients = structure(
    *[("affine", AffineBackward), ("factors", Factors), *(f"grad_{name}" for name in PARAMETERS)], sizes=False
)
CALLS = {
    "moments": Moments,
    "factors": Factors,
    "channel_pool": ChannelPool,
    "gated_affine": GatedAffine,
    **dict.fromkeys(("gate_gradient", "affine_sums", "affine_gradient"), AffineBackward),
    "attention_backward": Gradients,
}
NAMES = {
    "moments": "Moments",
    "factors": "Factors",
    "channel_pool": "ChannelPool",
    "gated_affine": "GatedAffine",
    **dict.fromkeys(("gate_gradient", "affine_sums", "affine_gradient"), "AffineBackward"),
    "attention_backward": "AttentionBackward",
}


class Level:
    """The passes at one level of SIMD; every tensor stands between numbers that no kernel may read or change: NaN."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def place(self, value: Tensor) -> Tensor:
        memory = torch.full((value.numel() + 66,), float("nan"), dtype=value.dtype)
        strides = value.contiguous(
            memory_format=layout_of(value) if value.dim() == 4 else torch.contiguous_format
        ).stride()
        placed = memory.as_strided(value.shape, strides, 33)
        placed.copy_(value)
        return placed

    def run(self, name: str, x: Tensor, inputs: dict[str, Any], results: dict[str, Tensor]) -> list[Tensor]:
        tensors = {key: self.place(each) for key, each in inputs.items() if isinstance(each, Tensor)}
        plain = {key: each for key, each in inputs.items() if not isinstance(each, Tensor)}
        written = {key: self.place(each) for key, each in results.items()}
        if name != "factors":
            last = layout_of(x) == torch.channels_last
            plain |= dict(zip("nchw", x.shape, strict=True)) | {"channels_last": last}
        pointers = {key: each.data_ptr() for key, each in (tensors | written).items()}
        if name == "moments":
            (both,) = written.values()
            pointers = {"x": pointers["x"], "mean": both[0].data_ptr(), "variance": both[1].data_ptr()}
        elif name == "factors":
            (three,) = written.values()
            del pointers["found"]
            pointers |= {key: three[i].data_ptr() for i, key in enumerate(AFFINE)}
        getattr(self.library, name)(ctypes.byref(CALLS[name](type=DTYPES.index(x.dtype), **plain, **pointers)))
        self.check_around(written)
        return list(written.values())

    def check_around(self, written: dict[str, Tensor]) -> None:
        for name, each in written.items():
            memory = each.as_strided((each.numel() + 66,), (1,), 0)
            assert memory[:33].isnan().all() and memory[-33:].isnan().all(), name

    def moments(self, x: Tensor) -> Tensor:
        (found,) = self.run("moments", x, {"x": x}, {"found": torch.full((2, *x.shape[:2]), 7.0, dtype=torch.float64)})
        return found

    def factors(self, mean: Tensor, variance: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
        *parameters, eps, statistic, norm, dtype = others
        given = {name: each for name, each in zip(PARAMETERS, parameters, strict=True) if each is not None}
        n, c = mean.shape
        hidden = len(given["down_weight"]) if "down_weight" in given else 0
        options = {"n": n, "c": c, "hidden": hidden, "norm": norm, "statistic": statistic == "mean+std", "eps": eps}
        like = next(iter(given.values()))
        inputs = {"mean": mean, "variance": variance, **given, **options}
        (found,) = self.run("factors", like, inputs, {"found": torch.full((3, n, c), 7.0, dtype=dtype)})
        return found[0], found[1], found[2]

    def channel_pool(self, x: Tensor, affine: compose.Affine) -> Tensor:
        return self.run("channel_pool", x, {"x": x, **named(affine)}, {"pooled": maps(x, 2)})[0]

    def gated_affine(self, x: Tensor, affine: Any, pooled: Any, weight: Any, residual: bool) -> tuple[Tensor, Any]:
        inputs = {"x": x, **named(affine), "pooled": pooled, "spatial_weight": weight, "residual": residual}
        inputs["k"] = 1 if weight is None else weight.shape[-1]
        gate = {} if pooled is None else {"gate": maps(x, 1)}
        out, *gates = self.run("gated_affine", x, inputs, {"out": torch.full_like(x, 7), **gate})
        return out, gates[0] if gates else None

    def gate_gradient(
        self, grad: Tensor, x: Tensor, affine: Any, gate: Tensor, pooled: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs = {"grad": grad, "x": x, **named(affine), "gate": gate, "pooled": pooled}
        logit, share = self.run("gate_gradient", x, inputs, {"grad_logit": maps(x, 1), "share": maps(x, 1)})
        return logit, share

    def affine_sums(self, *args: Any) -> Tensor:
        x = args[1]
        results = {"sums": torch.full((2, *x.shape[:2]), 7.0, dtype=torch.float64)}
        return self.run("affine_sums", x, self.backward_inputs(*args), results)[0]

    def affine_gradient(self, *args: Any) -> Tensor:
        *first, residual, constant, slope = args
        inputs = self.backward_inputs(*first) | {"residual": residual, "constant": constant, "slope": slope}
        return self.run("affine_gradient", args[1], inputs, {"grad_x": torch.full_like(args[1], 7)})[0]

    def backward_inputs(self, grad: Tensor, x: Tensor, affine: Any, *of_pixels: Any) -> dict[str, Any]:
        given = dict(zip(("gate", "pooled", "grad_pooled", "share"), of_pixels, strict=True))
        return {"grad": grad, "x": x, **named(affine), **given}

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: list[int], flip: bool) -> Tensor:
        taps = weight.flip(2, 3) if flip else weight
        return F.conv2d(x, taps, padding=weight.shape[-1] // 2, groups=x.shape[1])

    def weight_gradients(
        self, grad: Tensor, x: Tensor, size: tuple[int, int], dilation: list[int], bias: bool
    ) -> tuple[Tensor, None]:
        shape = (x.shape[1], 1, *size)
        return torch.nn.grad.conv2d_weight(x, shape, grad, padding=size[0] // 2, groups=x.shape[1]), None


class Together(Level):
    """With the whole of backward in one call."""

    def backward_together(
        self, grad: Tensor, x: Tensor, parts: compose.Parts, moments: Tensor, maps: Any, wants: set[str]
    ) -> dict[str, Tensor]:
        given = zip(compose.OF_PLANES, parts.of_planes(x), strict=True)
        values = {name: each for name, each in given if each is not None}
        n, c, h, w = x.shape
        of_x = {"grad": grad, "x": x, **dict(zip(("gate", "pooled", "grad_pooled", "share"), maps, strict=True))}
        read = {name: self.place(each) for name, each in of_x.items() if each is not None}
        planes = {
            name: self.place(each) for name, each in {"mean": moments[0], "variance": moments[1], **values}.items()
        }
        three = self.place(torch.full((3, n, c), 7.0, dtype=compose.wide(x.dtype)))
        written = {name: self.place(torch.full_like(each, 7)) for name, each in values.items() if name in wants}
        grad_x = self.place(torch.full_like(x, 7))
        affine = AffineBackward(
            **{"type": DTYPES.index(x.dtype), "channels_last": layout_of(x) == torch.channels_last},
            **{"n": n, "c": c, "h": h, "w": w, "residual": parts.residual},
            **{name: each.data_ptr() for name, each in ({"grad_x": grad_x} | read).items()},
        )
        hidden = 0 if parts.down_weight is None else len(parts.down_weight)
        factors = Factors(
            **{"type": DTYPES.index(x.dtype), "n": n, "c": c, "hidden": hidden, "norm": parts.norm, "eps": parts.eps},
            **{"statistic": parts.statistic == "mean+std"},
            **{name: each.data_ptr() for name, each in planes.items()},
            **{name: three[i].data_ptr() for i, name in enumerate(AFFINE)},
        )
        grads = {f"grad_{name}": each.data_ptr() for name, each in written.items()}
        self.library.attention_backward(ctypes.byref(Gradients(affine=affine, factors=factors, **grads)))
        self.check_around({"three": three, "x": grad_x} | written)
        return ({"x": grad_x} if "x" in wants else {}) | written


def named(affine: compose.Affine) -> dict[str, Tensor | None]:
    return dict(zip(AFFINE, affine, strict=True))


def maps(x: Tensor, count: int) -> Tensor:
    return torch.full((x.shape[0], count, *x.shape[2:]), 7.0, dtype=compose.wide(x.dtype))


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Level:
    compiler, flags = compiler_for(request.param)
    folder = tmp_path_factory.mktemp("kernels")
    exports = [
        f'extern "C" void {name}(const lightsr::{NAMES[name]}& call) {{ lightsr::{name}_cpu(call); }}' for name in CALLS
    ]
    includes = [f'#include "instance_norm_attention/{each}.cpp"' for each in ("cpu", "cpu_backward")]
    (folder / "exports.cpp").write_text("\n".join([*includes, *exports, ""]))
    library = folder / "kernels.so"
    options = ["-std=c++20", "-O1", "-fPIC", "-shared", "-w", "-DTORCH_TARGET_VERSION=0x020A000000000000", *flags]
    paths = [f"-I{CSRC}", "-isystem", f"{TORCH}/include", f"-L{TORCH}/lib", f"-Wl,-rpath,{TORCH}/lib", "-ltorch_cpu"]
    subprocess.run([compiler, *options, folder / "exports.cpp", *paths, "-o", library], check=True)
    return Level(ctypes.CDLL(str(library)))


@each_op
@each_layout
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_every_level(level: Level, op: str, layout: torch.memory_format, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    passes = cast(compose.Passes, level)
    for shape in ((2, 1, 1, 1), (2, 3, 9, 7), (1, 19, 40, 33), (1, 35, 5, 130)):
        x = torch.randn(shape).to(dtype).contiguous(memory_format=layout)
        others = [each.to(dtype) if isinstance(each, Tensor) else each for each in others_of(op, shape[1])]
        exact = run(op, "reference", torch.float64, [x, *others])
        eager = run(op, "reference", dtype, [x, *others])
        if op == "instance_norm_attention":
            parts = compose.parts(*others)
        else:
            parts = import_module(f"lightsr_kernels.{spec_of(op).name}.parts").parts(*others)
        out = compose.forward(passes, x, parts)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
        tensors = sum(isinstance(each, Tensor) for each in others) + 1
        unit = {torch.float64: 1e-12, torch.float32: 1e-5}.get(dtype, 0.05 * torch.finfo(dtype).eps)
        for backward in (passes, cast(compose.Passes, Together(level.library))):
            found = [out, *compose.backward(backward, [weights], [True] * tensors, x, parts)]
            for index, (mine, plain, right) in enumerate(zip(found, eager, exact, strict=True)):
                error, allowed = (mine.double() - right).norm(), (plain.double() - right).norm()
                assert error <= 1.25 * allowed + unit * (1 + right.norm()), (shape, index)
