"""The command tree -> a page that has every command, option, default, variable and exit code.

    python -m cotcli.cli.reference > docs/reference.md

Goes by our own declarations, so that the page does not change with Typer's wording. Knows nothing of what commands do.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from cotcli.answer import GenerationParams
from cotcli.cli.tree import VARIABLES, Settable, Words, commands, settable

Row: TypeAlias = tuple[str, ...]

EXIT_CODES = {
    0: "every picture has its answer",
    1: "internal error; `COTCLI_DEBUG=1` prints the traceback",
    2: "usage",
    3: "a picture that cannot be read; found before the model loads",
    4: "a model that is missing, broken or of another architecture",
    5: "memory, disk or device",
    6: "the answer ended before its conclusion; the record is printed all the same",
    7: "`cotcli batch`: some pictures have no answer; their records say why",
    130: "Ctrl-C; what was written until then is in the record",
    141: "whoever read stdout has left",
}
OTHER_VARIABLES = {
    "NO_COLOR": "anything turns colours off",
    "TERM": "`dumb` turns colours and progress off",
    "COLUMNS": "the width, in place of the terminal's own",
}
_HEAD = """\
# Reference

Made from the commands themselves by `make reference`. Every command prints its part with `-h` or `--help`; the
[README](../README.md) tells what they are for.

A value comes from the flag, else from a variable, else from the config file, else it is the default. The variable
`COTCLI_SEED` sets `--seed` for every command that has it, and so does `seed = 1` at the top of the config file. What is
said of one command comes first: `COTCLI_ASK_SEED`, and `seed = 1` in the table `[ask]`; an option that one command has
alone is set in this way only. Of a flag, `1` is on and `0` is off.

Where a table has no default, an option is off. The model's own values are those of its entry in `models.toml`, and for
what that does not say {defaults}.
"""
_DEFAULT = re.compile(r"\s*\[default: (?P<value>.*)\]$")


def reference() -> str:
    """The page, in Markdown."""
    from cotcli.cli.app import root

    tree = root()
    found: list[tuple[Words, Any]] = [((), tree), *commands(tree)]
    variables = {(option.command, option.parameter.name): _variable(option) for option in settable(tree)}
    others = {**VARIABLES, **OTHER_VARIABLES}
    lines = [
        _HEAD.format(defaults=_sampling_defaults()),
        *_table(
            ["command", "what it does"], ((_link(words), _help(command).partition("\n")[0]) for words, command in found)
        ),
    ]
    for words, command in found:
        lines += _section(words, command, variables)
    lines += ["## Exit codes\n", *_table(["code", "meaning"], ((str(code), text) for code, text in EXIT_CODES.items()))]
    lines += [
        "## Other variables\n",
        *_table(["variable", "meaning"], ((f"`{name}`", others[name]) for name in others)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _sampling_defaults() -> str:
    from cotcli.specs import SAMPLING

    return ", ".join(f"`{name} = {getattr(GenerationParams(), name)}`" for name in SAMPLING)


def _section(words: Words, command: Any, variables: Mapping[tuple[Words, str], str]) -> Iterator[str]:
    """One command: what it does, how it is called, its arguments and options."""
    arguments: list[Row] = []
    options: list[Row] = []
    usage = [_name(words)]
    for parameter, annotation in _parameters(command):
        written = _written(parameter, annotation)
        row = (f"`{_escaped(written)}`", *_meaning(parameter, annotation))
        if parameter.param_type_name == "argument":
            bare = parameter.required or (written.startswith("[") and written.endswith("]"))
            usage.append(written if bare else f"[{written}]")
            arguments.append(row)
        else:
            options.append((*row, variables.get((words, parameter.name), "–")))
    if options:
        usage.insert(1, "[OPTIONS]")
    if not words:
        usage.append("COMMAND …")
    yield f"## {_name(words)}\n"
    yield _help(command).replace("<", "\\<") + "\n"
    yield f"    {' '.join(usage)}\n"
    yield from _table(["argument", "meaning", "default"], arguments)
    yield from _table(["option", "meaning", "default", "variable"], options)
    if not words:
        yield "`--install-completion` and `--show-completion` are for the shell that runs it.\n"


def _function(command: Any) -> Any:
    return inspect.unwrap(command.callback)


def _help(command: Any) -> str:
    return inspect.getdoc(_function(command)) or str(command.help)


def _variable(option: Settable) -> str:
    return f"`{option.variable if option.shared else option.own_variable}`"


def _parameters(command: Any) -> Iterator[tuple[Any, Any]]:
    """Typer's parameters with our annotations, without those that Typer adds."""
    hints = get_type_hints(_function(command), include_extras=True)
    for parameter in command.params:
        if parameter.name in hints:
            yield parameter, hints[parameter.name]


def _written(parameter: Any, annotation: Any) -> str:
    """How it is written: `--seed N`, `IMAGE…`."""
    choices = "|".join(_choices(annotation))
    if parameter.param_type_name == "argument":
        name = parameter.metavar or choices or parameter.name.upper()
        return f"{name}…" if parameter.nargs == -1 else str(name)
    flags = ", ".join(sorted([*parameter.opts, *parameter.secondary_opts], key=lambda flag: flag.startswith("--no-")))
    if parameter.is_flag or parameter.count:
        return flags
    return f"{flags} {parameter.metavar or choices}"


def _choices(annotation: Any) -> tuple[str, ...]:
    """Of a Literal, wherever in an annotation it stands."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, UnionType, list) or hasattr(annotation, "__metadata__"):
        return next((found for part in get_args(annotation) if (found := _choices(part))), ())
    return ()


def _meaning(parameter: Any, annotation: Any) -> tuple[str, str]:
    """Its help without the default that it may end in, and the default."""
    [info] = annotation.__metadata__
    text = " ".join((info.help or "").split())
    match = _DEFAULT.search(text)
    if match is not None:
        return _escaped(text[: match.start()]), _escaped(match["value"])
    default = parameter.default
    if parameter.required:
        return _escaped(text), "required"
    if isinstance(default, bool):
        return _escaped(text), "on" if default else ""
    shown = "" if default is None or (getattr(parameter, "count", False) and default == 0) else f"`{default}`"
    return _escaped(text), shown


def _name(words: Words) -> str:
    return " ".join(["cotcli", *words])


def _link(words: Words) -> str:
    return f"[`{_name(words)}`](#{'-'.join(['cotcli', *words])})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _table(columns: Sequence[str], rows: Iterable[Row]) -> list[str]:
    """A table, or nothing where there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}", *lines, ""] if lines else []


if __name__ == "__main__":
    sys.stdout.write(reference())
