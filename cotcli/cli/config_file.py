"""The config file: where it is, what it says, and whether each of its keys sets something.

Options that commands share stand at the top, those of one command in its table; see `cotcli.cli.tree`. Knows nothing of
the environment's settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotcli.cli.tree import Settable, commands, key_of, table_of
from cotcli.errors import UsageError
from cotcli.specs import home

_NAME = "config.toml"
_HINT = "Its keys are the long options of the commands: cotcli ask --help"
_WHICH_FILE = "To see which file is read: cotcli config path"


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """`COTCLI_CONFIG`; else `config.toml` in `COTCLI_HOME` if that is set, or in the platform's folder for settings."""
    named = environ.get("COTCLI_CONFIG")
    if named:
        return Path(named).expanduser()
    if environ.get("COTCLI_HOME"):
        return home() / _NAME
    import platformdirs

    return Path(platformdirs.user_config_dir("cotcli", appauthor=False)) / _NAME


def read_config(file: Path) -> dict[str, Any]:
    """
    Raises:
        UsageError: it cannot be read, or is not TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        content: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}", _WHICH_FILE) from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{file}: {error}", "It is TOML: key = value, and tables such as [ask]") from None
    return content


def check_keys(file: Path, content: Mapping[str, Any], root: Any, known: Sequence[Settable]) -> None:
    """Refuses keys that set nothing.

    Raises:
        UsageError: names the key, and the nearest one that would.
    """
    tables = {option.table for option in known}
    shared = {option.key for option in known if option.shared}
    for key, value in content.items():
        if key in tables and isinstance(value, dict):
            own = {option.key for option in known if option.table == key}
            for name in value:
                if name not in own:
                    raise _unknown(f"{file}: {key}.{name}", name, own, root, key)
        elif key in shared and isinstance(value, dict):
            raise UsageError(f"{file}: {key} takes a value, not a table", f"The tables are {_list(tables)}")
        elif key in tables - shared:
            raise UsageError(f"{file}: {key} is a command and takes a table", f"For example: [{key}]")
        elif key not in shared:
            owners = [option.table for option in known if option.key == key]
            if owners:
                raise UsageError(f"{file}: {key} is not an option of all commands", f"Put it under {_list(owners)}")
            raise _unknown(f"{file}: {key}", key, shared | tables, root, None)


def toml_value(option: Settable, value: Any, origin: str) -> Any:
    """A value as Typer takes it: a text as it would follow the flag, so that file and flag are read alike.

    Raises:
        UsageError: names the origin.
    """
    parameter = option.parameter
    if parameter.multiple:
        items = value if isinstance(value, list) else [value]
        return [_text(item, origin, 'texts, such as ["…", "…"]') for item in items]
    if parameter.count:
        if isinstance(value, bool) or not isinstance(value, int):
            raise UsageError(f"{origin}: takes a whole number, such as 1", _HINT)
        return value
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{origin}: takes true or false", _HINT)
        return value
    return _text(value, origin, "a text or a number")


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence that says a name is wrong. A prefix that all have makes none nearer."""
    from difflib import get_close_matches

    rests = sorted(one.removeprefix(prefix) for one in known)
    near = get_close_matches(name.removeprefix(prefix).replace("-", "_"), rests, 1)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _unknown(what: str, name: str, known: set[str], root: Any, table: str | None) -> UsageError:
    for words, command in commands(root):
        if table in (None, table_of(words)):
            hint = _HINT if table is None else f"Its keys are the long options of cotcli {' '.join(words)} --help"
            parameters = [*root.params, *command.params]
            others = {"help", *(parameter.name for parameter in parameters), *map(key_of, parameters)}
            if name.lower() in others:
                return UsageError(f"{what} can be given on the command line only", hint)
            if table is not None:
                break
    return UsageError(f"{what} is not known{nearest(name, known)}", hint)


def _text(value: Any, origin: str, takes: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(f"{origin}: takes {takes}", _HINT)
    return str(value)


def _list(tables: Iterable[str]) -> str:
    return ", ".join(f"[{table}]" for table in sorted(tables))
