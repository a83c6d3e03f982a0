"""Writes docs/ops.md from the specs and the docstrings of the ops; with --check, says whether it is up to date."""

from __future__ import annotations

import argparse
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("ops.md")

HEAD = """\
# Ops

The functions of `lightsr_kernels`. Each is also an operator of torch, `torch.ops.lightsr.<name>`, with the schema given
below; [environment.md](environment.md) says how a backend is chosen. The cost is the floor of one call in float32: the
bytes that an ideal kernel reads and writes, and its floating-point operations, a multiply-add counted as two.

`python docs/build_ops.py` writes this page from the ops themselves: change the docstring or the spec, not the page.

"""


def page() -> str:
    """The whole text of docs/ops.md."""
    ops = [(spec, function) for spec, function in public_functions()]
    contents = [f"- [`{spec.name}`](#{spec.name}): {prose(summary(function))}" for spec, function in ops]
    return HEAD + "\n".join(contents) + "\n\n" + "\n".join(section(spec, function) for spec, function in ops)


def public_functions() -> list[tuple[Any, Callable[..., Any]]]:
    """Every op that has a folder, by name: its spec and the function people call."""
    import lightsr_kernels

    modules = {
        name: importlib.import_module(f"lightsr_kernels.{name}")
        for _, name, is_folder in pkgutil.iter_modules(lightsr_kernels.__path__)
        if is_folder
    }
    specs = lightsr_kernels.SPECS
    return [(specs[name], getattr(modules[name], name)) for name in sorted(modules) if name in specs]


def section(spec: Any, function: Callable[..., Any]) -> str:
    """What the page says about one op."""
    backends = ", ".join(f"`{name}`" for name in spec.backends)
    return f"""\
## {spec.name}

```python
{signature(function)}
```

{markdown(inspect.getdoc(function) or "")}
**Operator**: `lightsr::{spec.name}{spec.schema}`

**Backends in this version**: {backends}

{costs(spec)}"""


def signature(function: Callable[..., Any]) -> str:
    """The head of the function as it stands in its file, with the comments that tell the shapes."""
    lines = inspect.getsource(function).splitlines()
    end = next(i for i, line in enumerate(lines) if line.lstrip().startswith('"""'))
    return "\n".join(lines[:end])


def summary(function: Callable[..., Any]) -> str:
    """The first sentence of a docstring."""
    return " ".join((inspect.getdoc(function) or "").partition("\n\n")[0].split())


def costs(spec: Any) -> str:
    """A table of the floor at the sizes that the benches run, made from shapes without values."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from lightsr_kernels.spec import Make

    rows = ["| call | MB | GFLOP |", "| --- | ---: | ---: |"]
    with FakeTensorMode():
        for sample in spec.bench(Make()):
            cost = spec.cost(*sample.args)
            rows.append(f"| {sample.name} | {cost.bytes / 1e6:.2f} | {cost.flops / 1e9:.3f} |")
    return "\n".join(rows) + "\n"


def markdown(docstring: str) -> str:
    """A docstring of this project as Markdown: listings fenced, arguments as a list."""
    blocks: list[str] = []
    # A block is a line at the margin with the indented lines under it, or a paragraph.
    for block in re.split(r"\n\n(?! )", docstring):
        title, _, rest = block.partition("\n")
        body = textwrap.dedent(rest).strip("\n")
        if title == "Args:":
            blocks.append("**Arguments**\n\n" + arguments(body))
        elif title == "Returns:":
            blocks.append(f"**Returns** {prose(body)}")
        elif title == "Example:":
            blocks.append(f"**Example**\n\n```pycon\n{body}\n```")
        elif title.endswith("::") and rest:
            blocks.append(f"{prose(title[:-1])}\n\n```python\n{body}\n```")
        else:
            blocks.append(re.sub(r"^(\w+): ", r"**\1**: ", prose(block)))
    return "\n\n".join(blocks) + "\n"


def arguments(body: str) -> str:
    """`name: what it is` entries, with their continuation lines indented, as a Markdown list."""
    entries = re.split(r"\n(?! )", body)
    return "\n".join(re.sub(r"^(\w+):", r"- `\1`:", prose(entry)) for entry in entries)


def prose(text: str) -> str:
    """Text on one line, its asterisks kept from meaning emphasis."""
    return " ".join(text.split()).replace("*", r"\*")


def main() -> int:
    """Writes the page, or with --check compares it; 1 when it was stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the page is stale")
    check = parser.parse_args().check
    sys.path.insert(0, str(ROOT))  # the ops of this checkout, installed or not
    text = page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is not what the ops say: run `python docs/build_ops.py`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
