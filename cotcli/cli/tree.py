"""Typer's command tree -> the options that can be set outside the command line, and what they are called there.

The tree is all there is to know: an option that is added to a command can be set at once. Knows nothing of where
settings come from, nor of what options mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, get_args, get_origin

from cotcli.cli import options

PREFIX = "COTCLI_"
VARIABLES = {
    "COTCLI_CONFIG": "the config file, in place of the usual one",
    "COTCLI_HOME": "the folder of models, `models.toml` and `config.toml`, in place of the platform's folders",
    "COTCLI_DEBUG": "`1` prints the traceback of an error",
}
"""Those that are no option's."""

Words: TypeAlias = tuple[str, ...]
"""What leads to a command, such as ("model", "ls")."""


@dataclass(frozen=True)
class Settable:
    """An option of one command that can be set outside the command line.

    Attributes:
        command: what leads to its command.
        key: its name in the config file, such as stage_max_tokens.
        shared: whether `cotcli.cli.options` declares that name: then one setting serves all commands that have it.
        parameter: Typer's.
    """

    command: Words
    key: str
    shared: bool
    parameter: Any

    @property
    def is_flag(self) -> bool:
        """Whether it is on or off."""
        return bool(self.parameter.is_flag) and not self.parameter.count

    @property
    def table(self) -> str:
        """The command's table in the config file."""
        return table_of(self.command)

    @property
    def own_key(self) -> str:
        """The key for this command alone."""
        return f"{self.table}.{self.key}"

    @property
    def variable(self) -> str:
        """The variable for every command that has it, if it is shared."""
        return f"{PREFIX}{self.key}".upper()

    @property
    def own_variable(self) -> str:
        """The variable for this command alone."""
        return f"{PREFIX}{self.table}_{self.key}".upper()


def commands(root: Any, words: Words = ()) -> Iterator[tuple[Words, Any]]:
    """Every command of a tree that is no group, with what leads to it."""
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def settable(root: Any) -> list[Settable]:
    """Every option but those that ask for something else than the command (--help), or that each run needs anew.

    What `cotcli config` prints is not changed by what it prints.
    """
    shared = _shared()
    return [
        Settable(words, key_of(parameter), key_of(parameter) in shared, parameter)
        for words, command in commands(root)
        if words[0] != "config"
        for parameter in command.params
        if parameter.param_type_name == "option"
        and parameter.expose_value
        and not (parameter.is_eager or parameter.required or parameter.hidden)
    ]


def table_of(words: Words) -> str:
    """("model", "ls") -> model_ls."""
    return "_".join(words).replace("-", "_")


def key_of(parameter: Any) -> str:
    """--stage-max-tokens -> stage_max_tokens."""
    return _key(max(parameter.opts, key=len))


def _key(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _shared() -> set[str]:
    """Keys of the options that `cotcli.cli.options` declares: a name of these means the same in every command."""
    infos = [get_args(alias)[1] for alias in vars(options).values() if get_origin(alias) is Annotated]
    # Typer takes the first flag in an annotation for a default until the command is built.
    flags = (str(flag) for info in infos for flag in (info.default, *(info.param_decls or ())))
    return {_key(flag.partition("/")[0]) for flag in flags if flag.startswith("--")}
