"""`cotcli demo`: a drawn picture, a question about it, the bundled model's staged answer, and whether it is true.

Needs no network and no files but the model's own: the picture is drawn when it is asked about, so its truth is known.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cotcli.answer import Answer
from cotcli.cli import options
from cotcli.cli.answering import Job, LoadOptions, answer_all
from cotcli.cli.output import OutputOptions, is_view, make_console
from cotcli.cli.run import note
from cotcli.errors import UsageError

if TYPE_CHECKING:
    from cotcli.cli.drawn import Drawn

Kind = Literal["count", "subtract", "compare", "exists", "attribute", "relation", "extreme", "absent"]

MODEL = "demo"
# `cotcli demo` alone is `cotcli demo --new SEED --kind KIND`.
SEED = 55
KIND: Kind = "subtract"
_SEEDS = 2**32
# A token has a byte at least, so that a question of so many and the longest answer fit the context.
MAX_QUESTION = 2000


def demo(
    new: Annotated[
        int | None, typer.Option("--new", metavar="SEED", min=0, max=_SEEDS - 1, help="Draw another picture.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="The kind of question.  [default: the seed decides]")
    ] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="TEXT", help="Ask your own; its truth is not known.")
    ] = None,
    save: Annotated[
        str | None,
        typer.Option("--save", metavar="DIR", help="Keep picture, question, truth and answer, for anyone to check."),
    ] = None,
    show: options.Show = None,
    json: options.Json = False,
    stream_json: options.StreamJson = False,
    threads: options.Threads = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Ask the bundled model about a picture that it has never seen.

    Pictures are drawn by seed and shown where the terminal has the colours. The truth is known, so the answer is
    checked against it.
    """
    options.check_question(question)
    output = OutputOptions(json, stream_json, options.parse_show(show), color, verbose, quiet)
    if question is not None and kind is not None:
        raise UsageError("--question and --kind exclude each other")
    if question is not None and len(question.encode("utf-8", "surrogateescape")) > MAX_QUESTION:
        raise UsageError(
            f"--question takes at most {MAX_QUESTION} bytes",
            f"A longer one, about a kept picture: cotcli ask QUESTION DIR/picture.png --model {MODEL} --ctx N",
        )
    if save is not None and not save.strip():
        raise UsageError("--save takes a folder, not an empty name", "For example: cotcli demo --save out")
    folder = None if save is None else Path(save)
    from cotcli.cli.drawn import PICTURE, draw_one, keep
    from cotcli.image import load_image

    if new is None and question is None:
        kind = kind or KIND
    drawn = draw_one(SEED if new is None else new, kind, question)
    if folder is not None:
        keep(drawn, folder)
    image = load_image(drawn.png, name=drawn.name if folder is None else str(folder / PICTURE))
    tour = _Tour(drawn, image.source, folder, output)
    tour.begin()
    load = LoadOptions(MODEL, threads=threads)
    job = Job(drawn.text, image, load, output=output, on_answer=tour.end, to_allow_more=tour.to_allow_more)
    raise typer.Exit(answer_all(job))


class _Tour:
    """What is said around the answer: on stdout in a terminal's view, else as notes.

    Args:
        name: the picture's, as in the record.
        folder: where all of it is kept; None for nowhere.
    """

    def __init__(self, drawn: Drawn, name: str, folder: Path | None, output: OutputOptions) -> None:
        self._drawn = drawn
        self._name = name
        self._folder = folder
        self._output = output
        self._console = make_console(sys.stdout, output.color) if is_view(output) else None

    def begin(self) -> None:
        """The picture and the question."""
        scene = self._drawn.scene
        if self._console is None:
            self._note(f"{self._name}: {self._drawn.text}")
            return
        from rich.text import Text

        from cotcli.render.picture import can_show, print_picture
        from cotcli.render.text import clean

        if can_show(self._console):
            print_picture(self._console, self._drawn.picture)
        else:
            see = "" if self._folder else "; to look at it: --save DIR"
            self._console.print(Text(clean(f"{self._name}, {scene.width}x{scene.height} pixels{see}"), "dim"))
        self._console.print()
        self._console.print(Text(clean(self._drawn.text), "bold"))
        self._console.print()

    def end(self, answer: Answer) -> None:
        """The verdict on a whole answer, what is kept, and what could come next."""
        from cotcli.cli.drawn import ANSWER, PICTURE, QUESTION, keep_answer, verdict

        if answer.ok and self._drawn.question is not None:
            right, why = verdict(self._drawn.scene, self._drawn.question, answer.raw, answer.answer)
            self._note(f": {why}", *(("right", "bold green") if right else ("wrong", "bold red")))
        if self._folder is not None:
            from cotcli.render.record import answer_record

            keep_answer(answer_record(answer, self._name), self._folder)
            self._note(f"kept in {self._folder}: {PICTURE}, {QUESTION}, {ANSWER}")
        if answer.ok and self._console is not None:
            self._note(f"next: {self._next()}")

    @property
    def to_allow_more(self) -> str:
        """What asks the same without the limit of length that is the demo's."""
        from cotcli.cli.drawn import PICTURE

        if self._folder is not None:
            return f"To allow more: {self._ask(self._drawn.text, self._name)} --max-tokens N"
        ask = self._ask(self._drawn.text, f"DIR/{PICTURE}")
        return f"To allow more: {self._drawn.command} --save DIR, then {ask} --max-tokens N"

    @staticmethod
    def _ask(question: str, picture: str) -> str:
        return f"cotcli ask {shlex.quote(question)} {shlex.quote(picture)} --model {MODEL}"

    def _next(self) -> str:
        if self._folder is not None:
            return f"cotcli ask QUESTION {shlex.quote(self._name)} --model {MODEL}"
        return f"cotcli demo --new {(self._drawn.seed + 1) % _SEEDS}, --kind KIND, --question TEXT or --save DIR"

    def _note(self, text: str, word: str = "", style: str = "") -> None:
        """A quiet line; `word` comes first and stands out."""
        from cotcli.render.text import clean

        if not self._output.notes:
            return
        line = " ".join(clean(text).split("\n"))
        if self._console is None:
            note(word + line)
            return
        from rich.text import Text

        self._console.print(Text.assemble((word, style), (line, "dim")))
