"""The plug-in against the real spandrel, each test in a process of its own because it changes a global registry."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import lightsr
from lightsr.checkpoint import save

SMALL = {
    "lmswn": {"blocks": 1},
    "mafdn": {"blocks": 1},
    "hasn": {"blocks": 1},
    "idsa_net": {"groups": 2},
}

# spandrel takes three functions from torchvision for models that are none of ours. Where torchvision is not installed,
# or not for this torch, empty ones stand in, and everything else is the real spandrel.
START = """
import sys, types
try:
    import torchvision.transforms.functional
except Exception:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    functional = types.ModuleType("torchvision.transforms.functional")
    functional.InterpolationMode = functional.rotate = functional.normalize = None
    for name in ("torchvision", "torchvision.transforms"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["torchvision.transforms.functional"] = functional
import spandrel, torch
from lightsr.spandrel_plugin import register
torch.set_num_threads(1)
"""

needs_spandrel = pytest.mark.skipif(find_spec("spandrel") is None, reason="spandrel is not installed")


def run(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(lightsr.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_spandrel
def test_networks_load_through_spandrel(tmp_path: Path) -> None:
    for name, config in SMALL.items():
        net = lightsr.create(name, 3, **config)
        save(tmp_path / f"{name}.safetensors", net.state_dict())
        torch.save(
            {"params": {f"module.{key}": value for key, value in net.state_dict().items()}}, tmp_path / f"{name}.pth"
        )
    script = """
from pathlib import Path
import lightsr
print(register(), register())
for path in sorted(Path(sys.argv[1]).iterdir()):
    descriptor = spandrel.ModelLoader().load_from_file(path)
    x = torch.rand(1, 3, 9, 14)
    with torch.inference_mode():
        same = torch.equal(descriptor(x), lightsr.load(path)(x).clamp(0, 1))
    print(path.name, descriptor.architecture.id, descriptor.architecture.name, descriptor.scale, descriptor.purpose)
    print(descriptor.tiling.name, descriptor.model.folded, same, descriptor.size_requirements.none)
"""
    lines = run(START + script, tmp_path).splitlines()
    assert lines[0] == "['lmswn', 'mafdn', 'hasn', 'idsa_net'] []"
    expected = []
    for name, title, tiling in [
        ("hasn", "HASN", "DISCOURAGED"),
        ("idsa_net", "IDSA-Net", "DISCOURAGED"),
        ("lmswn", "LMSWN", "SUPPORTED"),
        ("mafdn", "MAFDN", "DISCOURAGED"),
    ]:
        for suffix in ("pth", "safetensors"):
            expected += [f"{name}.{suffix} {name} {title} 3 SR", f"{tiling} True True True"]
    assert lines[1:] == expected


@needs_spandrel
def test_released_hasn_loads_through_spandrel(shared: Path) -> None:
    script = """
register()
descriptor = spandrel.ModelLoader().load_from_file(sys.argv[1])
print(descriptor.architecture.id, descriptor.scale, descriptor.tags)
print(descriptor(torch.rand(1, 3, 8, 8)).shape)
"""
    found = run(START + script, shared / "weights" / "HASN" / "HASN.pth")
    assert found.splitlines() == ["hasn 4 ['52nf']", "torch.Size([1, 3, 32, 32])"]


@needs_spandrel
def test_models_of_others_stay_theirs() -> None:
    script = """
from spandrel.architectures.SPAN import SPAN
from spandrel.architectures.Compact import Compact
register()
for model in (SPAN(num_in_ch=3, num_out_ch=3), Compact(num_feat=8, num_conv=2)):
    print(spandrel.MAIN_REGISTRY.load(model.state_dict()).architecture.id)
try:
    spandrel.MAIN_REGISTRY.load({"tail.0.weight": torch.zeros(48, 52, 3, 3)})
except spandrel.UnsupportedModelError:
    print("unsupported")
"""
    assert run(START + script).split() == ["SPAN", "Compact", "unsupported"]


def test_without_spandrel_one_line_says_what_to_install() -> None:
    script = """
import sys
sys.modules["spandrel"] = None
from lightsr.errors import InputError
from lightsr.spandrel_plugin import register
try:
    register()
except InputError as error:
    print(error)
"""
    found = run(script)
    assert found.startswith("spandrel cannot be imported (") and found.endswith("pip install spandrel torchvision\n")
