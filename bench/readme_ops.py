"""The parts of the README on single ops: `depthwise_conv`, and the fused ops beside it."""

from __future__ import annotations

from statistics import geometric_mean
from typing import Any

from .plot_networks import number
from .readme_networks import milliseconds, row_of, where

RIVALS = "PyTorch and torch.compile (each in the better layout), ONNX Runtime and OpenVINO"
SHOWN = ((3, 1), (7, 1), (13, 1), (21, 1), (31, 1), (7, 3), (31, 3))  # sides and dilations
DIRECTIONS = {
    "forward": "forward",
    "backward-data": "gradient of the picture",
    "backward-weight": "gradient of the filter",
}
KINDS = [(dtype, way) for dtype in ("float32", "bfloat16", "float16") for way in ("forward", "training")]


def depthwise(content: dict[str, Any], source: str) -> str:
    """What the README says of a run of `depthwise_conv`: some cases, and all of them in one sentence."""
    cases = [each for each in content["comparisons"] if times(each)]
    shape = cases[0]["case"]["shape"]
    found = {
        (each["case"]["k"], each["case"]["dilation"], each["case"]["direction"], each["case"]["dtype"]): each
        for each in cases
        if each["case"]["shape"] == shape
    }
    lines = [
        f"`depthwise_conv` on {tuple(shape)}, {where(content['machine'])}: milliseconds, beside the fastest of",
        f"{RIVALS} in the same run ([all figures]({source}), [how](bench/README.md)):",
        "",
    ]
    for dtype in dict.fromkeys(key[3] for key in found):
        columns = [each for each in SHOWN if (*each, "forward", dtype) in found]
        heads = [f"{k}x{k}" + (f", dilation {dilation}" if dilation > 1 else "") for k, dilation in columns]
        lines += [f"| {dtype} | {' | '.join(heads)} |", f"|---|{'--:|' * len(heads)}"]
        for direction, name in DIRECTIONS.items():
            rows = [found.get((*each, direction, dtype)) for each in columns]
            ours = [f"**{milliseconds(row_of(row, 'lightsr'))}**" if row else "-" for row in rows]
            others = [milliseconds(row_of(row, row["best rival"])) if row else "-" for row in rows]
            lines += [f"| {name}, lightsr | {' | '.join(ours)} |", f"| {name}, best other | {' | '.join(others)} |"]
        lines.append("")
    means = ", ".join(
        f"{number(mean([each for each in cases if each['case']['direction'] == direction]))} {name}"
        for direction, name in DIRECTIONS.items()
    )
    sides, dilations = ({each["case"][key] for each in cases} for key in ("k", "dilation"))
    lines.append(
        f"{len(cases)} cases: sides {span(sides)}, dilations {span(dilations)}. Times as fast as the fastest other, in "
        f"geometric mean: {means}. {slower(cases)}"
    )
    return "\n".join(lines) + "\n"


def fused(content: dict[str, Any], source: str) -> str:
    """What the README says of a run of the fused ops: a line for each op, a column for each dtype and way."""
    cases = [each for each in content["comparisons"] if times(each)]
    columns = [kind for kind in KINDS if any(kind_of(each) == kind for each in cases)]
    lines = [
        f"The other ops, on large pictures and on batches of patches, {where(content['machine'])}:",
        f"how many times as fast as the fastest of {RIVALS} in the same run, in geometric mean over shapes",
        f"([all figures]({source}), [how](bench/README.md)); `training` is the result and all gradients:",
        "",
        f"| | {' | '.join(' '.join(kind) for kind in columns)} |",
        f"|---|{'--:|' * len(columns)}",
    ]
    for op in dict.fromkeys(each["case"]["op"] for each in cases):
        own = [[each for each in cases if each["case"]["op"] == op and kind_of(each) == kind] for kind in columns]
        lines.append(f"| `{op}` | {' | '.join(number(mean(each)) if each else '-' for each in own)} |")
    lines += ["", f"{len(cases)} cases, {number(mean(cases))} times in geometric mean. {slower(cases)}"]
    return "\n".join(lines) + "\n"


def kind_of(each: dict[str, Any]) -> tuple[str, str]:
    return each["case"]["dtype"], each["case"]["way"]


def times(each: dict[str, Any]) -> float:
    """How many times as fast as the fastest other it is; 0 where nobody else, or nobody at all, has a time."""
    row = row_of(each, "lightsr")
    return float((row and row["times the best rival"]) or 0)


def mean(cases: list[dict[str, Any]]) -> float:
    return geometric_mean(map(times, cases))


def span(values: set[int]) -> str:
    return f"{min(values)} to {max(values)}" if len(values) > 1 else str(min(values))


def slower(cases: list[dict[str, Any]]) -> str:
    found = [f"{each['case']['name']} ({times(each):.2f})" for each in cases if times(each) < 1]
    return f"Slower in {len(found)}: {', '.join(found)}." if found else "Slower in none."
