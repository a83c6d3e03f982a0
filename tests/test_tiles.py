"""Tiles: the same result as the whole picture where that can be, and never more memory than there is."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import lightsr
from lightsr import memory, tiles
from lightsr.captured import Repeated
from lightsr.errors import InputError
from lightsr.networks import SRNetwork
from lightsr.tiles import PatchLimit, Tile, run_tiled


class Stack(SRNetwork):
    """3x3 convolutions with leaky ReLUs, as the local networks are made of."""

    name = "stack"
    title = "Stack"
    exact_tiles = True

    def __init__(self, scale: int = 2, depth: int = 4, width: int = 16) -> None:
        super().__init__(scale, use_fused=False)
        sides = [3, *[width] * depth, 3 * scale**2]
        self.layers = nn.ModuleList(nn.Conv2d(*pair, 3, padding=1) for pair in itertools.pairwise(sides))
        self.shuffle = nn.PixelShuffle(scale)

    @property
    def radius(self) -> int:
        return len(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = nn.functional.leaky_relu(layer(x), 0.05)
        out: Tensor = self.shuffle(x)
        return out


class Windows(SRNetwork):
    """Mixes inside 8x8 windows that start at the origin: right only when tiles start at multiples of 8."""

    name = "windows"
    title = "Windows"
    exact_tiles = True
    multiple = 8
    radius = 7

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = nn.functional.pad(x, (0, -width % 8, 0, -height % 8))
        means = nn.functional.avg_pool2d(x, 8).repeat_interleave(8, -1).repeat_interleave(8, -2)
        return (x + means)[..., :height, :width].repeat_interleave(2, -1).repeat_interleave(2, -2)


class Counts(Stack):
    """Knows how often Python ran it."""

    def forward(self, x: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x)


class Small(Stack):
    """Has memory for patches of so many pixels, and none more."""

    room = 900
    words = (
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
    )

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(tuple(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.room:
            raise self.error()
        return super().forward(x)

    def __init__(self, room: int = 900, **options: int) -> None:
        super().__init__(**options)
        self.room, self.seen = room, []

    def error(self) -> BaseException:
        return RuntimeError(self.words)


@pytest.fixture
def small_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets small pictures be cut small, for what does not hang on the last bits."""
    monkeypatch.setattr(tiles, "SMALLEST_PATCH", 0)


@pytest.mark.parametrize("size", [(131, 167), (96, 99), (1, 9000), (9000, 1), (3, 3000), (5, 7)], ids=str)
@pytest.mark.parametrize("tile", [33, 64, 100])
@pytest.mark.parametrize("threads", [1, 2])
def test_local_network_is_equal_bit_for_bit(size: tuple[int, int], tile: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    net, x = Stack(width=32).eval(), torch.rand(1, 3, *size)
    if max(size) > 1000:
        tile *= 30
    try:
        assert torch.equal(run_tiled(net, x, tile), run_tiled(net, x, "off"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size", [(500, 700), (3, 9000), (9000, 3), (60, 60), (90, 95)], ids=str)
@pytest.mark.parametrize("multiple", [1, 8])
def test_patches_are_large_enough(size: tuple[int, int], multiple: int) -> None:
    height, width = size
    for part in Tile(0, 0, height, width).split(16):
        patch = part.filled(8192, multiple, height, width)
        assert patch.pixels >= min(8192, height * width)
        assert patch.pixels <= 8192 + 200 * (multiple + 1) + 1000
        assert 0 <= patch.top <= part.top < part.bottom <= patch.bottom <= height
        assert 0 <= patch.left <= part.left < part.right <= patch.right <= width
        assert patch.top % multiple == 0 == patch.left % multiple
        assert patch.bottom % multiple == 0 or patch.bottom == height


def test_less_overlap_shows() -> None:
    net, x = Stack().eval(), torch.rand(1, 3, 140, 140)
    whole = run_tiled(net, x, "off")
    net.__class__ = type("Near", (Stack,), {"radius": net.radius - 1})
    assert not torch.equal(run_tiled(net, x, 100), whole)


@pytest.mark.parametrize(("scale", "fused"), [(2, False), (3, True), (4, False)])
def test_lmswn_is_equal_bit_for_bit(scale: int, fused: bool) -> None:
    net, x = lightsr.create("lmswn", scale, folded=True, use_fused=fused).eval(), torch.rand(1, 3, 91, 128)
    assert torch.equal(run_tiled(net, x, 64), run_tiled(net, x, "off"))


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_is_equal_bit_for_bit(scale: int) -> None:
    net, x = lightsr.create("bicubic", scale), torch.rand(1, 3, 37, 58)
    assert torch.equal(run_tiled(net, x, 8), net(x))


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize("tile", [1, 8, 13, 24])
def test_windows_stay_in_place(tile: int) -> None:
    net, x = Windows(2, False), torch.rand(1, 3, 45, 50)
    assert torch.equal(run_tiled(net, x, tile), net(x))


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize("name", ["hasn", "mafdn", "idsa_net"])
def test_networks_that_pool_are_close(name: str) -> None:
    net, x = lightsr.create(name, 2).eval(), torch.rand(1, 3, 24, 40)
    whole, tiled = run_tiled(net, x, "off"), run_tiled(net, x, 32)
    assert tiled.shape == whole.shape == (1, 3, 48, 80)
    assert not net.exact_tiles
    assert (tiled - whole).abs().mean() < 0.1
    assert torch.equal(run_tiled(net, x, 64), whole)  # one tile


@pytest.mark.usefixtures("small_patches")
def test_batch_and_strides_are_taken() -> None:
    net, x = Stack().eval(), torch.rand(2, 3, 30, 40).mT
    torch.testing.assert_close(run_tiled(net, x, 16), run_tiled(net, x, "off"))


@pytest.mark.usefixtures("small_patches")
def test_progress_adds_up() -> None:
    shares: list[float] = []
    run_tiled(Stack().eval(), torch.rand(1, 3, 40, 50), 16, shares.append)
    assert len(shares) == 12
    assert sum(shares) == pytest.approx(1)


@pytest.mark.usefixtures("small_patches")
@pytest.mark.parametrize(
    "error", [RuntimeError(Small.words), MemoryError(), torch.OutOfMemoryError("CUDA out of memory")]
)
@pytest.mark.parametrize("tile", ["auto", 64])
def test_out_of_memory_halves_the_tile(tile: str | int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "error", lambda _: error)
    net, x, limit = Small().eval(), torch.rand(1, 3, 50, 60), PatchLimit()
    shares: list[float] = []
    out = run_tiled(net, x, tile, shares.append, limit)
    plain = Stack()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(out, run_tiled(plain.eval(), x, "off"))
    assert sum(shares) == pytest.approx(1)
    assert limit.tiled
    assert limit.pixels <= 900
    net.seen.clear()
    run_tiled(net, torch.rand(1, 3, 70, 80), "auto", None, limit)  # the next picture of the folder
    assert all(height * width <= 900 for height, width in net.seen)
    assert max(height * width for height, width in net.seen) > 200  # and no smaller tiles than need be


@pytest.mark.usefixtures("small_patches")
def test_out_of_memory_in_the_middle_goes_on() -> None:
    net, x = Small().eval(), torch.rand(1, 3, 60, 60)
    want = run_tiled(net, x, 16)
    calls = []
    forward = net.forward

    def failing_later(patch: Tensor) -> Tensor:
        calls.append(patch.shape)
        if len(calls) > 3 and patch.shape[-1] * patch.shape[-2] > 700:
            raise MemoryError
        return forward(patch)

    net.forward = failing_later  # type: ignore[method-assign]
    net.room = 10**6
    torch.testing.assert_close(run_tiled(net, x, 20), want)
    assert len(calls) == 3 + 1 + 6 * 4  # three tiles kept, one too large, and each of the six left in four


@pytest.mark.usefixtures("small_patches")
def test_nothing_fits() -> None:
    net = Small(room=0).eval()
    with pytest.raises(InputError, match="out of memory on cpu even with tiles of 16 pixels"):
        run_tiled(net, torch.rand(1, 3, 50, 50))
    with pytest.raises(InputError, match="does not fit into memory whole"):
        run_tiled(net, torch.rand(1, 3, 50, 50), "off")


@pytest.mark.usefixtures("small_patches")
def test_other_errors_pass() -> None:
    net = Small(room=0).eval()
    net.error = lambda: RuntimeError("a bug")  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="a bug"):
        run_tiled(net, torch.rand(1, 3, 50, 50))


@pytest.mark.usefixtures("small_patches")
def test_auto_goes_by_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Small(room=10**9).eval(), torch.rand(1, 3, 64, 96)
    run_tiled(net, x)
    assert net.seen == [(64, 96)]
    net.seen.clear()
    canvas = 64 * 96 * 4 * 3 * 4
    monkeypatch.setattr(tiles, "usable_memory", lambda _, held=0: canvas + 2000 * memory.bytes_per_pixel("stack"))
    run_tiled(net, x)
    assert 1 < len(net.seen) < 20
    assert all(height * width <= 2000 for height, width in net.seen)


@pytest.mark.parametrize("tile", [0, -8, 1.5, "some", True, None], ids=repr)
def test_bad_tiles_are_refused(tile: object) -> None:
    with pytest.raises(InputError, match="tile must be auto, off or a whole number from 1 up"):
        run_tiled(Stack(), torch.rand(1, 3, 5, 5), tile)  # type: ignore[arg-type]


def test_split_covers_once() -> None:
    seen = torch.zeros(37, 53)
    for tile in Tile(0, 0, 37, 53).split(16):
        seen[tile.top : tile.bottom, tile.left : tile.right] += 1
    assert bool((seen == 1).all())


@pytest.mark.usefixtures("small_patches")
def test_no_gradients_are_kept() -> None:
    assert not run_tiled(Stack(), torch.rand(1, 3, 20, 20), 8).requires_grad


def test_free_memory_is_told() -> None:
    assert 1 << 20 < memory.usable_memory(torch.device("cpu")) < 1 << 50
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def test_files_in_memory_are_free_and_the_tightest_group_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def group(name: str, limit: str, used: int, files: int) -> None:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 7\ninactive_file {files}\nactive_file 1000\nactive_anon 9\n")

    def usable() -> int:
        return memory.usable_memory(torch.device("cpu"))

    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_GROUP", tmp_path / "self")
    monkeypatch.setattr(memory, "idle_memory", lambda: 0)
    machine = usable()
    group("", "100000", 99000, 50000)
    assert usable() == 0.75 * 52000
    (tmp_path / "memory.stat").unlink()
    assert usable() == 0.75 * 1000
    monkeypatch.setattr(memory, "idle_memory", lambda: 4000)  # kept for coming results, which these are
    assert usable() == 0.75 * 5000
    monkeypatch.setattr(memory, "idle_memory", lambda: 0)
    group("", "max", 99000, 50000)
    assert usable() > 0.5 * machine
    group("a", "100000", 60000, 0)
    group("a/b", "100000", 20000, 0)
    (tmp_path / "self").write_text("4:memory:/elsewhere\n0::/a/b\n")
    assert usable() == 0.75 * 41000  # that of a
    group("a/b", "10000", 20000, 0)
    assert usable() == 0
    for outside in ("0::/../../a\n", "0::/not/shown\n", "1:name=systemd:/a\n"):
        (tmp_path / "self").write_text(outside)
        assert usable() > 0.5 * machine


@pytest.mark.parametrize(
    ("amount", "words"), [(2.54e9, "2.5 GB"), (1e9, "1.0 GB"), (31.4e6, "31.4 MB"), (32000, "0.032 MB"), (0, "0 MB")]
)
def test_bytes_in_words(amount: float, words: str) -> None:
    assert memory.shown(amount) == words


def test_equal_pictures_are_captured_from_the_second_on() -> None:
    net, limit = Counts().eval().set_fused(), PatchLimit(repeated=Repeated())
    for _ in range(5):
        x = torch.rand(1, 3, 20, 24)
        assert torch.equal(run_tiled(net, x, limit=limit), run_tiled(net, x))
    assert net.calls == 5 + 2 and limit.held > 0
    x = torch.rand(1, 3, 24, 20)
    assert torch.equal(run_tiled(net, x, limit=limit), run_tiled(net, x)) and limit.held == 0


def test_weights_that_change_between_equal_pictures_count() -> None:
    net, limit, x = Counts().eval().set_fused(), PatchLimit(repeated=Repeated()), torch.rand(1, 3, 20, 24)
    for _ in range(3):
        run_tiled(net, x, limit=limit)
    with torch.no_grad():
        net.layers[0].weight.mul_(2)
    assert torch.equal(run_tiled(net, x, limit=limit), run_tiled(net, x))


def test_what_cannot_be_recorded_is_called() -> None:
    class Looks(Counts):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if x.sum() > 0 else -x)

    net, limit, x = Looks().eval().set_fused(), PatchLimit(repeated=Repeated()), torch.rand(1, 3, 20, 24)
    results = [run_tiled(net, x, limit=limit) for _ in range(4)]
    assert all(torch.equal(each, results[0]) for each in results) and limit.held == 0


def test_what_python_has_to_see_is_not_captured() -> None:
    """Hooks, autocast, another backend: each call is the network's own."""
    net, limit, x = Counts().eval().set_fused(), PatchLimit(repeated=Repeated()), torch.rand(1, 3, 20, 24)
    seen: list[int] = []
    for _ in range(3):
        run_tiled(net, x, limit=limit)
    with torch.autocast("cpu", torch.bfloat16):
        low = run_tiled(net, x, limit=limit)
    assert limit.held == 0 and not torch.equal(low, run_tiled(net, x, limit=limit))
    for _ in range(3):
        run_tiled(net, x, limit=limit)
    assert limit.held > 0
    net.layers[0].register_forward_hook(lambda *_: seen.append(1))
    for _ in range(4):
        run_tiled(net, x, limit=limit)
    assert len(seen) == 4 and limit.held == 0
