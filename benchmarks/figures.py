"""What benchmarks have measured: values with their spread and the machine they are of, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cotcli.native import devices
from cotcli.native.about import cpu_features, versions
from cotcli.native.cpu import available_threads

_PACKAGES = ("cotcli", "llama-cpp-python", "numpy")


@dataclass(frozen=True)
class Figure:
    """One thing measured, a value a round.

    Attributes:
        unit: of the values; "" for ratios.
        at_most, at_least: what the median should be, if anything is asked of it.
    """

    what: str
    values: tuple[float, ...]
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool | None:
        """Whether the median is what it should be; None where nothing is asked."""
        if self.at_most is not None:
            return self.median <= self.at_most
        return None if self.at_least is None else self.median >= self.at_least

    @property
    def aim(self) -> str:
        """What is asked, as text."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"


def machine() -> dict[str, Any]:
    """When, where and with what."""
    cpu = devices.cpu()
    llama, ggml, commit = versions()
    return {
        "date": date.today().isoformat(),
        "cpu": cpu.description,
        "cpu_features": cpu_features(),
        "threads": available_threads(),
        "memory_gb": round(cpu.total / 1e9, 1),
        "system": platform.platform(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
            "llama.cpp": llama,
            "ggml": f"{ggml} ({commit})",
        },
    }


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """The option of benchmarks that end with ``report``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, with the machine's")


def report(figures: Sequence[Figure], path: Path | None, notes: Sequence[str] = ()) -> None:
    """Prints medians, spread and aims, below them the notes, and writes all of it as JSON if a path is given."""
    table = Table("what", "median", "least to most", "asked for", "reached")
    for figure in figures:
        spread = f"{min(figure.values):.4g} to {max(figure.values):.4g}" if len(figure.values) > 1 else ""
        reached = {None: "", True: "yes", False: "no"}[figure.is_reached]
        table.add_row(figure.what, f"{figure.median:.4g} {figure.unit}".strip(), spread, figure.aim, reached)
    console = Console(width=120)
    console.print(table)
    for note in notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if path is not None:
        measured = [{**asdict(figure), "median": figure.median, "reached": figure.is_reached} for figure in figures]
        written = {**machine(), "figures": measured, **({"notes": list(notes)} if notes else {})}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
