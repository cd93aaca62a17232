"""The doctor's report as text: no line is wider than the terminal, whatever the names are."""

from __future__ import annotations

import pytest

from cotcli.diagnosis import DeviceReport, ModelReport, Report, Share, Versions
from cotcli.render.report import report_text
from cotcli.selftest import SelfTest

LONG = "a-model-whose-name-is-long"
GIB = 2**30


def report(*models: ModelReport) -> Report:
    test = SelfTest("CUDA0", True, 2e-4, 5e-3, True, 1.5, None)
    devices = (
        DeviceReport("CPU", "A processor", "cpu", "CPU", 16 * GIB, 8 * GIB, False),
        DeviceReport("CUDA0", "A graphics card of many words", "gpu", "CUDA", 24 * GIB, 20 * GIB, True, test),
    )
    versions = Versions("1", "3.12", "Linux", "0.3.36")
    return Report(versions, None, devices, models, None, (), (), ())


def model(name: str) -> ModelReport:
    memory = (Share("host", GIB, 2 * GIB), Share("CUDA0", 3 * GIB, 0), Share("CUDA1", 4 * GIB, 0))
    return ModelReport(name, "Q4_K_M", 8 * GIB, "not checked", 33, 33, (f"all 33 layers on {name}",), memory)


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_no_line_is_wider(width: int) -> None:
    text = report_text(report(model("demo"), model(LONG)), width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for cell in (f"{LONG}:Q4_K_M", "33/33", "1.1 GB host + 3.2 GB CUDA0 + 4.3 GB CUDA1", "2.1 GB", "not checked"):
        parts = cell.split()
        assert any(words[i : i + len(parts)] == parts for i in range(len(words))), cell


def test_a_long_row_sets_no_other_rows_columns() -> None:
    alone = report_text(report(model("demo")), 100).splitlines()
    [row] = [line for line in alone if line.startswith("demo:Q4_K_M  ")]
    assert row in report_text(report(model("demo"), model(LONG * 5)), 100).splitlines()
