"""The staged view of a terminal: each stage under its label as it streams, the conclusion in a box, one quiet line.

Knows widths and colours. Text is only ever appended: nothing is redrawn, so nothing flickers and all of it stays in the
scrollback. What a model writes is printed as it is; it is neither markup nor Markdown, and cannot steer the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cotcli.answer import Answer
from cotcli.render import RAW
from cotcli.render.text import Wrap, clean
from cotcli.stages import StageDelta, StageEnd, StageEvent, StageStart

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"summary": "cyan", "caption": "blue", "reasoning": "magenta", "conclusion": "bold green"}
_NARROWEST = 20


class TerminalOutput:
    """Writes answers as they stream.

    Args:
        console: a rich console on stdout; its width and colours are used.
        show: the stages to show, or `RAW` alone.
        headers: put a rule with the picture's name before each answer.
        footer: end each answer with a line on model and times.
    """

    def __init__(self, console: Console, show: Sequence[str], *, headers: bool = False, footer: bool = True) -> None:
        self._console = console
        self._show = show
        self._headers = headers
        self._footer = footer
        self._width = max(console.width, _NARROWEST)
        self._section: _Section | None = None
        self._written = False

    @property
    def live(self) -> bool:
        """Whether the cursor stands in the middle of a stage's text."""
        return self._section is not None

    def start(self, image: str, question: str) -> None:
        if self._headers:
            name = clean(image).replace("\n", " ")
            self._gap()
            _write_rule(self._console, name, self._width, "default", heavy=True)

    def event(self, event: StageEvent) -> None:
        if RAW in self._show:
            return
        if isinstance(event, StageStart):
            self.close()
            if event.stage in self._show:
                self._gap()
                self._section = _Section(self._console, event.stage, self._width)
        elif isinstance(event, StageDelta):
            if event.stage is None and event.text.strip() and self._section is None and len(self._show) > 1:
                self._gap()
                self._section = _Section(self._console, None, self._width)
            if self._section is not None:
                self._section.write(event.text)
        elif isinstance(event, StageEnd):
            self.close()

    def answer(self, answer: Answer) -> None:
        self.close()
        if RAW in self._show:
            self._gap()
            self._line(clean(answer.raw), None)
        if self._footer:
            self._gap()
            self._line(footer(answer, self._width), "dim")

    def close(self) -> None:
        """Ends the open section, if there is one, with whole lines."""
        if self._section is not None:
            self._section.end()
            self._section = None

    def _gap(self) -> None:
        """An empty line between this and what was written before."""
        if self._written:
            self._console.print()
        self._written = True

    def _line(self, text: str, style: str | None) -> None:
        _write(self._console, text + "\n", style)


class _Section:
    """One stage on the screen, from its label to its last line; the conclusion has a box around it."""

    def __init__(self, console: Console, stage: str | None, width: int) -> None:
        self._console = console
        self._boxed = stage == "conclusion"
        self._style = _STYLES.get(stage or "", "dim")
        self._text_style = "bold" if self._boxed else None if stage else "dim"
        self._width = width
        self._inner = width - 4 if self._boxed else width
        self._wrap = Wrap(self._inner)
        self._column = 0
        self._at_line_start = True
        if self._boxed:
            left, line, right = _corners(console, top=True)
            title = f"{left}{line} {(stage or '').capitalize()} "
            _write(console, title + line * (width - len(title) - 1) + right + "\n", self._style)
        elif stage:
            _write_rule(console, stage.capitalize(), width, self._style)

    def write(self, text: str) -> None:
        self._write_pieces(self._wrap.feed(text))

    def end(self) -> None:
        self._write_pieces(self._wrap.finish())
        self._end_line()
        if self._boxed:
            left, line, right = _corners(self._console, top=False)
            _write(self._console, left + line * (self._width - 2) + right + "\n", self._style)

    def _write_pieces(self, pieces: Iterable[str]) -> None:
        from rich.cells import cell_len

        for piece in pieces:
            if piece == "\n":
                if self._at_line_start:
                    self._begin_line()
                self._end_line()
                continue
            if self._at_line_start:
                self._begin_line()
            _write(self._console, piece, self._text_style)
            self._column += cell_len(piece)
        self._console.file.flush()

    def _begin_line(self) -> None:
        self._at_line_start, self._column = False, 0
        if self._boxed:
            _write(self._console, f"{_side(self._console)} ", self._style)

    def _end_line(self) -> None:
        if self._at_line_start:
            return
        self._at_line_start = True
        if self._boxed:
            _write(self._console, " " * (self._inner - self._column) + f" {_side(self._console)}", self._style)
        _write(self._console, "\n", None)


def footer(answer: Answer, width: int) -> str:
    """Model, quantization, device, times and speed: one line, or several where one is too narrow."""
    from rich.cells import cell_len

    model, timing, usage = answer.model, answer.timing, answer.usage
    parts = [model.name, model.quant, model.device]
    steps = (("load", timing.load), ("image", timing.image), ("prompt", timing.prompt))
    parts += [f"{name} {_seconds(milliseconds)}" for name, milliseconds in steps if milliseconds]
    parts.append(f"{usage.completion_tokens} tokens in {_seconds(timing.decode)}")
    if timing.decode:
        speed = usage.completion_tokens / timing.decode * 1000
        parts.append(f"{speed:.3g} tokens/s" if speed < 1000 else f"{speed:.0f} tokens/s")
    lines = [clean(parts[0])]
    for part in map(clean, parts[1:]):
        longer = f"{lines[-1]} · {part}"
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(part)
    return "\n".join(lines)


def _seconds(milliseconds: float) -> str:
    seconds = milliseconds / 1000
    if seconds >= 100:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _write(console: Console, text: str, style: str | None) -> None:
    from rich.text import Text

    console.print(Text(text, style=style or ""), end="", soft_wrap=True, highlight=False)


def _ascii(console: Console) -> bool:
    return not console.encoding.startswith("utf")


def _write_rule(console: Console, title: str, width: int, style: str, *, heavy: bool = False) -> None:
    """A label in bold with a faint line on both sides."""
    from rich.cells import cell_len, set_cell_size

    line = ("=" if heavy else "-") if _ascii(console) else ("━" if heavy else "─")
    room = width - 4
    if cell_len(title) > room:
        title = set_cell_size(title, room)
    _write(console, f"{line * 2} ", f"dim {style}")
    _write(console, title, f"bold {style}")
    _write(console, f" {line * (width - cell_len(title) - 4)}\n", f"dim {style}")


def _corners(console: Console, *, top: bool) -> tuple[str, str, str]:
    if _ascii(console):
        return "+", "-", "+"
    return ("╭", "─", "╮") if top else ("╰", "─", "╯")


def _side(console: Console) -> str:
    return "|" if _ascii(console) else "│"
