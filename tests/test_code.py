"""What both packages never do with a file: run what it says."""

from __future__ import annotations

import ast
from pathlib import Path

import lightsr
import lightsr_kernels


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def sources() -> list[Path]:
    return [path for each in (lightsr, lightsr_kernels) for path in Path(each.__file__).parent.rglob("*.py")]


def test_every_torch_load_is_weights_only() -> None:
    loads = 0
    for path in sources():
        for name, call in calls(ast.parse(path.read_text())):
            if name in ("torch.load", "load_from_file", "torch.serialization.load"):
                loads += 1
                flags = {word.arg: word.value for word in call.keywords}
                flag = flags.get("weights_only")
                assert isinstance(flag, ast.Constant) and flag.value is True, f"{path}:{call.lineno}"
                assert "pickle_module" not in flags, f"{path}:{call.lineno}"
    assert loads == 1


def test_nothing_else_runs_what_a_file_says() -> None:
    runs = {
        "eval",
        "exec",
        "pickle.load",
        "pickle.loads",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "marshal.loads",
    }
    for path in sources():
        tree = ast.parse(path.read_text())
        assert not runs & {name for name, _ in calls(tree)}, path
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & imported, path
        # Its own file, just written, is the only program that is ever read back.
        assert path.name == "export.py" or "torch.export.load" not in {name for name, _ in calls(tree)}, path
