"""Output options and the streams at hand -> a form of output and a progress line."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from cotcli.errors import UsageError
from cotcli.render import Output
from cotcli.render.progress import ProgressLine
from cotcli.stages import STAGES

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class OutputOptions:
    """What the command line says about output; `show` None is all stages on a terminal, the conclusion in a pipe.

    Raises:
        UsageError: options that exclude each other.
    """

    json: bool = False
    stream_json: bool = False
    show: tuple[str, ...] | None = None
    color: str = "auto"
    verbose: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.json and self.stream_json:
            raise UsageError("--json and --stream-json exclude each other")
        if self.show is not None and (self.json or self.stream_json):
            raise UsageError("--show is for text; a JSON record always holds all stages")
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose exclude each other")

    @property
    def records(self) -> bool:
        """Whether stdout carries JSON."""
        return self.json or self.stream_json

    @property
    def notes(self) -> bool:
        """Whether stderr may carry more than errors."""
        return not self.quiet


def is_view(options: OutputOptions) -> bool:
    """Whether stdout gets the terminal's view."""
    return not options.records and (sys.stdout.isatty() or options.color == "always")


def make_output(options: OutputOptions, *, headers: bool) -> Output:
    """The form of output for stdout; `headers` names each picture."""
    if options.records:
        from cotcli.render.jsonl import JsonOutput

        return JsonOutput(sys.stdout, stream=options.stream_json)
    if is_view(options):
        from cotcli.render.terminal import TerminalOutput

        console = make_console(sys.stdout, options.color)
        return TerminalOutput(console, options.show or STAGES, headers=headers, footer=options.notes)
    from cotcli.render.plain import PlainOutput

    return PlainOutput(sys.stdout, options.show or ("conclusion",), headers=headers)


def make_progress(options: OutputOptions) -> ProgressLine:
    """The progress line for stderr: silent unless that is a terminal that can redraw a line."""
    if options.quiet or not stderr_can_redraw():
        return ProgressLine(None)
    return ProgressLine(make_console(sys.stderr, options.color))


def stderr_can_redraw() -> bool:
    """Whether progress can be shown."""
    return sys.stderr.isatty() and not _is_dumb()


def make_console(file: TextIO, color: str) -> Console:
    """A rich console that interprets nothing and obeys NO_COLOR, TERM, COLUMNS and --color."""
    from rich.console import Console

    system: Literal["auto", "standard"] | None = "auto"
    if color == "never" or (color == "auto" and (os.environ.get("NO_COLOR") or _is_dumb())):
        system = None
    elif color == "always" and (_is_dumb() or not file.isatty()):
        system = "standard"
    columns, rows = _size(file)
    return Console(
        file=file,
        force_terminal=True,
        color_system=system,
        no_color=system is None,
        # Both, or rich takes a dumb terminal to be 80 wide.
        width=columns,
        height=rows,
        markup=False,
        emoji=False,
        highlight=False,
    )


def _size(file: TextIO) -> tuple[int, int]:
    """Columns and rows of the terminal that is written to, which need not be stdout's; COLUMNS and LINES come first."""
    try:
        own = os.get_terminal_size(file.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()
    given = [os.environ.get(name, "") for name in ("COLUMNS", "LINES")]
    columns, rows = (int(text) if text.isdecimal() else 0 for text in given)
    return columns or own.columns or 80, rows or own.lines or 24


def _is_dumb() -> bool:
    return os.environ.get("TERM", "").lower() in ("dumb", "unknown")
