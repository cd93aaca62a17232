"""`cotcli demo`: the bundled model answers a question about a bundled picture. Needs no network."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from cotcli.cli import options
from cotcli.cli.answering import Job, LoadOptions, answer_all
from cotcli.cli.output import OutputOptions
from cotcli.cli.run import note

MODEL = "demo"
PICTURE = Path(__file__).parents[1] / "data" / "demo.png"
QUESTION = "Subtract all yellow squares. Subtract all big circles. How many objects are left?"


def demo(
    show: options.Show = None,
    json: options.Json = False,
    stream_json: options.StreamJson = False,
    threads: options.Threads = None,
    color: options.Color = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Ask the bundled model about a bundled picture."""
    output = OutputOptions(json, stream_json, options.parse_show(show), color, verbose, quiet)
    if output.notes:
        note(f"running {shlex.join(['cotcli', 'ask', QUESTION, _shorter(PICTURE), '--model', MODEL])}")
        if sys.stderr.isatty():
            print(file=sys.stderr)
    raise typer.Exit(answer_all(Job(QUESTION, [str(PICTURE)], LoadOptions(MODEL, threads=threads), output=output)))


def _shorter(path: Path) -> str:
    """The path from here, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
