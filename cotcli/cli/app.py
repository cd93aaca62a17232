"""All commands under one name, each imported when it is asked for: `cotcli --help` need not wait for any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cotcli import __version__
from cotcli.cli.run import ReaderGone
from cotcli.errors import Interrupted

COMMANDS = {
    "ask": "Answer a question about pictures, in stages.",
    "batch": "Answer a question about many pictures, or many questions, one JSON record each.",
    "demo": "Ask the bundled model about a picture that it has never seen.",
    "score": "Print how likely a given answer is.",
    "convert": "Make a GGUF pair from a checkpoint.",
    "model": "Models: install, look at, check, remove.",
    "cache": "Encoded pictures on disk.",
    "config": "What is set outside the command line.",
    "doctor": "Show what there is to run on, what each model would take, and whether it works.",
    "schema": "Print the JSON Schema of records, scores and events.",
}
"""Each with the first line of its help; it is `cotcli.cli.NAME.NAME`, or, of a group, `cotcli.cli.NAME.app`."""


class _Commands(Mapping[str, Any]):
    """Typer's commands by name, each made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = _make(name)
        return self._made[name]


class _Root(TyperGroup):
    """Typer makes exit codes of its own out of these two; here they are `cotcli.cli.run`'s business."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted") from error
        except BrokenPipeError as error:
            raise ReaderGone from error

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


# Plain help: rich's takes longer to import than the rest of the command line together.
_PLAIN: dict[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False}

_app = typer.Typer(
    name="cotcli",
    cls=_Root,
    help="Runs LLaVA-CoT, a vision model that thinks out loud, on stock llama.cpp.",
    epilog="Every option can be set by a COTCLI_ variable or in a config file, too: cotcli config show --origin.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_PLAIN,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cotcli {__version__}")
        raise typer.Exit


@_app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def root() -> Any:
    """The command `cotcli`, as Typer has it; a new one, for settings change what is in it."""
    group: Any = typer.main.get_command(_app)
    group.commands = _Commands()
    return group


def _make(name: str) -> Any:
    module = import_module(f"cotcli.cli.{name}")
    if hasattr(module, "app"):
        command: Any = typer.main.get_group(module.app)
    else:
        one = typer.Typer(add_completion=False, **_PLAIN)
        one.command(name)(getattr(module, name))
        command = typer.main.get_command(one)
    command.name = name
    return command
