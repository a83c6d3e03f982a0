"""Two plots: the networks' times, and how near the floor each op is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..plot_colors import COLORS, OTHER


def plots(sections: dict[str, Any], folder: Path) -> list[Path]:
    """The files; none where matplotlib is missing or there is nothing to show."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("Agg")
    found = {name: sections.get(name, {}).get("data", {}) for name in ("networks", "training", "ops")}
    made = [bars(found[name], folder / f"{name}.png") for name in ("networks", "training")]
    return [each for each in (*made, floors(found["ops"], folder / "ops.png")) if each is not None]


def bars(data: dict[str, Any], file: Path) -> Path | None:
    """A panel for each case, a bar for each contender, in milliseconds."""
    import matplotlib.pyplot as plt

    cases = {key: times(each) for key, each in data.items() if times(each)}
    if not cases:
        return None
    columns = min(4, len(cases))
    lines = -(-len(cases) // columns)
    figure = plt.figure(figsize=(4.2 * columns, 2.0 * lines + 0.4))
    for place, (key, rows) in enumerate(cases.items()):
        panel = figure.add_subplot(lines, columns, place + 1)
        names = sorted(rows, key=rows.__getitem__)
        colors = [COLORS.get(name.split()[0], OTHER) for name in names]
        panel.barh(range(len(names)), [1e3 * rows[name] for name in names], color=colors)
        panel.set_yticks(range(len(names)), names, fontsize=6)
        panel.invert_yaxis()
        panel.set_title(key, fontsize=7)
        panel.tick_params(axis="x", labelsize=6)
    figure.suptitle("milliseconds", fontsize=9)
    return saved(figure, file)


def times(each: Any) -> dict[str, float]:
    rows = each.get("rows", {}) if isinstance(each, dict) else {}
    return {name: float(row["seconds"]) for name, row in rows.items() if "seconds" in row}


def floors(data: dict[str, Any], file: Path) -> Path | None:
    """A line for each case: the share of the floor that each contender reaches."""
    import matplotlib.pyplot as plt

    cases = {key: each for key, each in data.items() if times(each) and each.get("floor")}
    if not cases:
        return None
    figure, panel = plt.subplots(figsize=(9, 0.2 * len(cases) + 1.4))
    for place, each in enumerate(cases.values()):
        for name, seconds in times(each).items():
            color = COLORS.get(name.split()[0], OTHER)
            panel.plot(
                each["floor"] / seconds, place, "s" if "channels_last" in name else "o", color=color, markersize=3
            )
    panel.set_yticks(range(len(cases)), list(cases), fontsize=5)
    panel.invert_yaxis()
    panel.set_xlabel(
        "floor / time; squares: channels_last; red: lightsr, dark grey: PyTorch, light grey: torch.compile"
    )
    panel.xaxis.label.set_fontsize(7)
    panel.set_xlim(left=0)
    panel.grid(alpha=0.3)
    return saved(figure, file)


def saved(figure: Any, file: Path) -> Path:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
