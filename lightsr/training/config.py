"""Reads a configuration: TOML into typed settings, with every slip told in one line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import InputError
from ..files import reason
from .settings import Config, Stage

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
MAX_BYTES = 2**20  # of a configuration
# Of a stage, they may also stand at the top: then they hold for every stage that does not say otherwise.
COMMON = tuple(each.name for each in fields(Stage))


def read_config(source: str | Path, overrides: Sequence[str] = (), output: str | None = None) -> Config:
    """Reads a TOML file, or a recipe of the package by its name, and applies `key=value` overrides.

    Args:
        source: a path, or a name such as hasn_x4.
        overrides: each `key=value`, the key with dots (`data.train`, `stages.0.steps`), the value as TOML; text may
            go without quotes.
        output: the folder of the run, in place of the configuration's.

    Returns:
        The settings, complete and checked by type and range.

    Raises InputError in one line: no such file, no TOML, an unknown key (with the nearest spelling), a wrong value.

    Example:
        >>> from lightsr.training.config import read_config
        >>> read_config("lmswn_x4", ["steps=1000"]).steps
        1000
    """
    path = _find(str(source))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES} bytes; a configuration is a short TOML file")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read as TOML: {reason(error)}") from error
    for each in overrides:
        _apply(table, each)
    config = from_table(table)
    return replace(config, output=output or config.output or f"runs/{path.stem}")


def from_table(table: Mapping[str, Any]) -> Config:
    """Settings from a parsed TOML table. A key of a stage at the top holds for all stages; `times` repeats a stage."""
    rest = dict(table)
    common = {key: rest.pop(key) for key in COMMON if key in rest}
    _settings(Stage, common, "")  # so that a slip there is told by its own name
    stages: list[dict[str, Any]] = []
    given = rest.pop("stages", [{}])
    if not isinstance(given, list) or not given or not all(isinstance(each, Mapping) for each in given):
        raise InputError("stages must be tables, each headed [[stages]]; got " + _shown(given))
    for number, each in enumerate(given):
        stage = dict(each)
        times = _whole(f"stages.{number}.times", stage.pop("times", 1))
        stages += [_merged(common, stage)] * times
    return _settings(Config, {**rest, "stages": stages}, "")  # type: ignore[no-any-return]


def recipes() -> list[str]:
    """The names of the recipes in the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def as_toml(settings: Any, prefix: str = "") -> str:
    """Settings written out in full, as TOML that reads back to the same."""
    plain, tables = [], []
    for each in fields(settings):
        value = getattr(settings, each.name)
        if is_dataclass(value):
            tables.append(f"\n[{prefix}{each.name}]\n{as_toml(value, f'{prefix}{each.name}.')}")
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            name = f"{prefix}{each.name}"
            tables += [f"\n[[{name}]]\n{as_toml(item, f'{name}.')}" for item in value]
        else:
            plain.append(f"{each.name} = {_toml(value)}")
    return "\n".join(plain + tables) + ("" if prefix else "\n")


def flat(table: Any, prefix: str = "") -> dict[str, Any]:
    """A parsed table's values under names with dots."""
    if isinstance(table, list) and table and isinstance(table[0], Mapping):
        table = dict(enumerate(table))
    if not isinstance(table, Mapping):
        return {prefix: table}
    return {
        name: value
        for key in table
        for name, value in flat(table[key], f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _find(source: str) -> Path:
    path = Path(source)
    if path.suffix == ".toml" or path.exists():
        return path
    if source in recipes():
        return RECIPES / f"{source}.toml"
    near = difflib.get_close_matches(source, recipes(), 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise InputError(f"{source}: no such file, and no recipe of that name{hint} Recipes are {', '.join(recipes())}")


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set takes key=value, such as --set network.scale=2; got {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, KeyError):
        value = text.strip()
    *path, last = key.strip().split(".")
    here: Any = table
    for number, name in enumerate(path):
        here = here[_index(key, name, len(here))] if isinstance(here, list) else here.setdefault(name, {})
        if not isinstance(here, dict | list):
            raise InputError(f"--set {key}: {'.'.join(path[: number + 1])} is a value, not a table")
    if isinstance(here, list):
        here[_index(key, last, len(here))] = value
    else:
        here[last] = value


def _index(key: str, name: str, length: int) -> int:
    if not name.isdecimal() or int(name) >= length:
        raise InputError(f"--set {key}: a number from 0 to {length - 1} is needed in place of {name!r}")
    return int(name)


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `common`, table by table."""
    merged = dict(common)
    for key, value in own.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


def _settings(kind: Any, table: Any, prefix: str) -> Any:
    """A dataclass from a table of its fields."""
    if not isinstance(table, Mapping):
        raise InputError(f"{prefix.rstrip('.')} must be a table; got {_shown(table)}")
    types_of = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}
    for key in table:
        if key not in known:
            names = [*known, *(COMMON if kind is Config else ()), *(["times"] if kind is Stage else [])]
            near = difflib.get_close_matches(key, names, 1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(names)}"
            raise InputError(f"unknown setting {prefix}{key}; {hint}")
    values = {}
    for key, value in table.items():
        values[key] = _value(types_of[key], value, f"{prefix}{key}", known[key].metadata)
    return kind(**values)


def _value(kind: Any, value: Any, name: str, limits: Mapping[str, Any]) -> Any:
    if is_dataclass(kind):
        return _settings(kind, value, f"{name}.")
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in arguments):
            raise InputError(f"{name} must be one of {', '.join(map(str, arguments))}; got {_shown(value)}")
        return value
    if origin is tuple:
        # No text is no folder, and not the one that the command was given in.
        items = value if isinstance(value, list) else [] if value == "" and arguments[0] is str else [value]
        if Ellipsis not in arguments and len(items) != len(arguments):
            raise InputError(f"{name} must be {len(arguments)} values; got {_shown(value)}")
        if items and is_dataclass(arguments[0]):
            return tuple(_value(arguments[0], each, f"{name}.{k}", {}) for k, each in enumerate(items))
        return tuple(_value(arguments[0], each, name, limits) for each in items)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a table; got {_shown(value)}")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise InputError(f"{name} must be {_NAMES[kind]}; got {_shown(value)}")
    _check_range(name, value, limits)
    return value


def _check_range(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    low, most, below = (limits.get(each) for each in ("least", "most", "below"))
    if low is not None and not value >= low:  # so that NaN is refused too
        raise InputError(f"{name} must be {low:g} or more; got {_shown(value)}")
    if most is not None and not value <= most:
        raise InputError(f"{name} must be {most} or less; got {_shown(value)}")
    if below is not None and not value < below:
        raise InputError(f"{name} must be less than {below:g}; got {_shown(value)}")


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def _whole(name: str, value: Any) -> int:
    if type(value) is not int or not 1 <= value <= 1000:
        raise InputError(f"{name} must be a whole number from 1 to 1000; got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."


def _toml(value: Any) -> str:
    import json

    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
