"""Options of the benches: without --benchmark nothing runs; --full adds the sizes and kinds of call that take long."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from .memory import keep_freed
from .report import COMPARISONS, closing, save, table

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lightsr")
    group.addoption("--benchmark", action="store_true", help="run the benches")
    group.addoption("--full", action="store_true", help="also the large sizes, every dtype, and gradients")
    group.addoption("--save", metavar="NAME", help="keep comparisons with rivals in bench/results/DEVICE-NAME")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COMPARISONS] = []
    if config.getoption("--benchmark", default=False):
        keep_freed()


def why_not(config: pytest.Config) -> str | None:
    """Why no bench can run, or None."""
    if not config.getoption("--benchmark", default=False):
        return "benches run with --benchmark"
    if not config.pluginmanager.hasplugin("benchmark"):
        return "pytest-benchmark is missing: pip install 'lightsr[bench]'"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = why_not(config)
    for item in items:
        if reason is not None and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def full(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--full"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The comparisons with rivals, where some were run."""
    found = config.stash[COMPARISONS]
    if not found:
        return
    terminalreporter.section("against the best of all rivals")
    for line in (*table(found), "", *closing(found)):
        terminalreporter.write_line(line)
    name = config.getoption("--save")
    if name:
        terminalreporter.write_line(f"saved in {save(found, name)}")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Adds to the JSON what speed depends on."""
    machine_info["torch"] = torch.__version__
    machine_info["threads"] = torch.get_num_threads()
    machine_info["simd"] = torch.backends.cpu.get_cpu_capability()
    machine_info["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine_info["platform"] = platform.platform()
