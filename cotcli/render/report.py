"""`cotcli doctor`'s report as text: tables as wide as they need to be, with what is longer wrapped below its row."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from cotcli.diagnosis import DeviceReport, ModelReport, Report, Versions
from cotcli.install import size_text
from cotcli.render.text import clean

_LABEL = 13  # columns of the label before a line
_INDENT = 2
_GAP = "  "  # between cells


def report_text(report: Report, width: int) -> str:
    """All of it, in lines of at most `width` columns unless a single word is longer."""
    return "".join(f"{clean(line).rstrip()}\n" for line in _lines(report, max(width, 40)))


def _lines(report: Report, width: int) -> Iterator[str]:
    yield from _labelled("versions", _versions(report.versions), width)
    cpu = report.cpu
    if cpu is not None:
        yield from _labelled("CPU", f"{cpu.name}, {cpu.threads} threads, {' '.join(cpu.features)}", width)
        limit = "" if cpu.limited_by == "machine" else f", limited by a {cpu.limited_by}"
        yield from _labelled("memory", f"{size_text(cpu.available)} of {size_text(cpu.total)} free{limit}", width)
    if report.devices:
        yield ""
        yield from _table(
            ("DEVICE", "TYPE", "FREE", "TOTAL", "SELF-TEST"),
            [(_device_row(device), [_about_device(device)]) for device in report.devices],
            width,
        )
    if report.models:
        yield ""
        yield from _table(
            ("MODEL", "SIZE", "ON GPU", "MEMORY", "MAPPED", "FILES"),
            [(_model_row(model), list(model.notes)) for model in report.models],
            width,
        )
    yield ""
    if report.default is not None:
        default = report.default
        missing = "" if default.installed else f" is not installed. {default.hint or ''}"
        yield from _labelled("default", f"{default.name}{missing}", width)
        yield ""
    for cache in report.caches:
        size = "none" if cache.bytes is None else size_text(cache.bytes)
        yield from _labelled(cache.name, f"{size}, {cache.folder}", width)
    for place in report.paths:
        yield from _labelled(place.name, place.path + ("" if place.exists else " (none)"), width)
    yield ""
    if not report.problems:
        yield from _labelled("healthy", "all of it works", width)
    for problem in report.problems:
        yield from _labelled("problem", problem.message, width)
        if problem.hint:
            yield from _labelled("", problem.hint, width)


def _versions(versions: Versions) -> str:
    parts = [f"cotcli {versions.cotcli}", f"llama-cpp-python {versions.llama_cpp_python or 'not installed'}"]
    if versions.llama_cpp is not None:
        parts.append(f"llama.cpp {versions.llama_cpp}")
        parts.append(f"ggml {versions.ggml} ({versions.ggml_commit})")
    return ", ".join([*parts, f"Python {versions.python}", versions.platform])


def _device_row(device: DeviceReport) -> tuple[str, ...]:
    test = device.self_test
    if test is None:
        result = "-"
    elif test.states_error is None or test.logits_error is None:
        result = f"failed, {test.seconds:.1f} s"
    else:
        word = "ok" if test.ok else "failed"
        result = f"{word}, off by {test.states_error:.0e} and {test.logits_error:.0e}, {test.seconds:.1f} s"
    known = device.total > 0
    return (
        device.name,
        device.type,
        size_text(device.free) if known else "-",
        size_text(device.total) if known else "-",
        result,
    )


def _about_device(device: DeviceReport) -> str:
    backend = f"{device.backend}: {device.description}"
    return backend if device.offload or device.type == "cpu" else f"{backend}; used only if named: --device"


def _model_row(model: ModelReport) -> tuple[str, ...]:
    layers = "-" if model.gpu_layers is None else f"{model.gpu_layers}/{model.all_layers}"
    resident = " + ".join(f"{size_text(share.resident)} {share.place}" for share in model.memory) or "-"
    mapped = size_text(sum(share.mapped for share in model.memory)) if model.memory else "-"
    return (f"{model.name}:{model.quant}", size_text(model.bytes), layers, resident, mapped, model.files)


def _table(head: tuple[str, ...], rows: Sequence[tuple[tuple[str, ...], list[str]]], width: int) -> Iterator[str]:
    """Rows of cells, each with lines of prose below it; the last column is ragged.

    A row that is too long goes on below itself, and sets no other row's columns.
    """
    cells = [row for row in (head, *(row for row, _ in rows)) if len(_GAP.join(row)) <= width]
    widths = [max((len(row[column]) for row in cells), default=0) for column in range(len(head) - 1)]

    def lines(row: tuple[str, ...]) -> Iterator[str]:
        line = _GAP.join([*(cell.ljust(size) for cell, size in zip(row, widths, strict=False)), row[-1]])
        if len(line) <= width:
            yield line
            return
        line = row[0]
        for cell in row[1:]:
            if len(line) + len(_GAP) + len(cell) <= width:
                line += _GAP + cell
            else:
                yield from _wrapped(line, width, "", _GAP * 2)
                line = _GAP * 2 + cell
        yield from _wrapped(line, width, "", _GAP * 2)

    yield from lines(head)
    for row, prose in rows:
        yield from lines(row)
        for text in prose:
            yield from _wrapped(text, width, " " * _INDENT)


def _labelled(label: str, text: str, width: int) -> Iterator[str]:
    first, *rest = _wrapped(text, width, " " * _LABEL) or [""]
    yield label.ljust(_LABEL) + first[_LABEL:]
    yield from rest


def _wrapped(text: str, width: int, indent: str, further: str | None = None) -> list[str]:
    """Lines that begin with `indent`; all but the first with `further`, if that is given."""
    rest = indent if further is None else further
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )
