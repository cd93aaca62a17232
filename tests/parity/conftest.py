"""Live comparisons with transformers; without the extra ``parity`` there is nothing to compare with."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("torch") and find_spec("transformers") else ["test_*.py"]

largest_errors: dict[str, float] = {}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How close it was: the README's figures."""
    if largest_errors:
        terminalreporter.section("largest relative error against transformers")
        for what, error in largest_errors.items():
            terminalreporter.line(f"{what}: {error:.1e}")
