"""`cotcli config`: what is set outside the command line, and where."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cotcli.cli.config_file import config_file
from cotcli.cli.settings import Setting, Settings
from cotcli.cli.tree import Settable, settable

app = typer.Typer(
    help="What is set outside the command line.",
    epilog="The file is TOML. What commands share stands at its top, what is one's own in its table, such as [ask].",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_DEFAULT = "default"


@dataclass(frozen=True)
class _Row:
    name: str
    value: Any
    origin: str


@app.command("show")
def show(
    context: typer.Context,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    json: Annotated[bool, typer.Option("--json", help="A JSON object: value and origin of each setting.")] = False,
) -> None:
    """Print every setting with its value.

    An option of several commands stands under its own name, and under a command's where that has another value.
    """
    root = context.find_root().command
    settings = Settings(root)
    rows = sorted(_rows(root, settings), key=lambda row: ("." in row.name, row.name))
    if json:
        from cotcli.render.jsonl import write_json

        write_json(sys.stdout, {row.name: {"value": row.value, "origin": row.origin} for row in rows})
        return
    columns = [(row.name, _text(row.value), row.origin) if origin else (row.name, _text(row.value)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    for cells in columns:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


@app.command("path")
def path() -> None:
    """Print where the config file is, or would be."""
    print(os.fspath(config_file()))


def _rows(root: Any, settings: Settings) -> Iterator[_Row]:
    options = settable(root)
    for key in sorted({option.key for option in options if option.shared}):
        same: dict[str, list[Settable]] = {}
        for option in options:
            if option.shared and option.key == key:
                setting = settings.of(option)
                if setting is not None and setting.own:
                    yield _row(root, option.own_key, option, setting)
                else:
                    said = str(option.parameter.default) if setting is None else setting.origin
                    same.setdefault(said, []).append(option)
        for found in same.values():
            names = [key] if len(same) == 1 else [option.own_key for option in found]
            yield from (_row(root, name, found[0], settings.of(found[0])) for name in names)
    for option in options:
        if not option.shared:
            yield _row(root, option.own_key, option, settings.of(option))


def _row(root: Any, name: str, option: Settable, setting: Setting | None) -> _Row:
    """Values are read as the command would read them, so that `show` refuses what it would refuse."""
    value = option.parameter.default if setting is None else setting.value
    try:
        value = option.parameter.process_value(typer.Context(root, resilient_parsing=True), value)
    except Exception as error:
        if setting is None or not hasattr(error, "message"):
            raise
        raise setting.refused(str(error.message), option.command) from None
    if isinstance(value, (list, tuple)):
        value = [str(item) for item in value] or None
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    return _Row(name, value, setting.origin if setting else _DEFAULT)


def _text(value: Any) -> str:
    """As it would be written in a variable; - for what is decided when it is needed, such as a model's own value."""
    if isinstance(value, list):
        return shlex.join(value)
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
