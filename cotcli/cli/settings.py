"""`COTCLI_*` variables and the config file -> the default of every option of every command.

One mechanism for all of them: what is found goes to Typer as its `default_map`, so a flag comes before it, and the
option's own default after it. The environment comes before the file, and what is said of one command before what is
said of all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from cotcli.cli.config_file import check_keys, config_file, nearest, read_config, toml_value
from cotcli.cli.run import note
from cotcli.cli.tree import PREFIX, VARIABLES, Settable, Words, commands, settable
from cotcli.errors import CotcliError, ModelError, UsageError

_YES = ("1", "true", "t", "yes", "y", "on")  # what Typer takes for true
_TELLS_WHAT_TO_MEND = ("config", "path")


@dataclass(frozen=True)
class Setting:
    """A value in the form that Typer takes, and where it stands: a variable's name, or a file and its key.

    `own` tells one that is said of one command from one that is said of all.
    """

    value: Any
    origin: str
    own: bool

    def refused(self, message: str, command: Words) -> UsageError:
        """The error of a value that Typer refuses."""
        value = "" if str(self.value) in message else f"{self.value}: "
        help_command = f"cotcli {' '.join(command)} --help"
        return UsageError(f"{self.origin}: {value}{message.rstrip('.')}", f"To see what it takes: {help_command}")


class Settings:
    """All that is set outside the command line, for one run.

    Args:
        root: Typer's command tree. Its commands are watched, so that errors can be explained by the one that ran.

    Attributes:
        file: the config file, whether it exists or not.
        problem: why the file or a variable cannot be used. It is raised when a command begins to run: help is there
            even then.
    """

    def __init__(self, root: Any, environ: Mapping[str, str] = os.environ) -> None:
        self.file = config_file(environ)
        self.problem: UsageError | None = None
        self._environ = environ
        self._options: list[Settable] = []
        self._found: dict[Words, dict[str, Setting]] = {}
        self._running: Any = None
        has_file = bool(environ.get("COTCLI_CONFIG")) or os.path.exists(self.file)
        if has_file or self._variables():
            self._options = settable(root)
            self._find_all(self._read(root) if has_file else {})
            for words, command in commands(root):
                command.context_class = _watched(self, words)

    def _variables(self) -> set[str]:
        """Those that should be options'."""
        return {name for name in self._environ if name.startswith(PREFIX) and name not in VARIABLES}

    def _read(self, root: Any) -> dict[str, Any]:
        try:
            content = read_config(self.file)
            check_keys(self.file, content, root, self._options)
        except UsageError as error:
            self.problem = error
            return {}
        return content

    def _find_all(self, content: Mapping[str, Any]) -> None:
        for option in self._options:
            try:
                setting = self._find(option, content)
            except UsageError as error:
                self.problem = self.problem or error
                continue
            if setting is not None:
                self._found.setdefault(option.command, {})[option.parameter.name] = setting

    def _find(self, option: Settable, content: Mapping[str, Any]) -> Setting | None:
        for name in (option.own_variable, option.variable) if option.shared else (option.own_variable,):
            text = self._environ.get(name)
            if text:  # an empty variable is as good as none
                return Setting(_words(option, text, name), name, name == option.own_variable)
        own = content.get(option.table)
        if isinstance(own, dict) and option.key in own:
            key, value = option.own_key, own[option.key]
        elif option.shared and option.key in content:
            key, value = option.key, content[option.key]
        else:
            return None
        origin = f"{self.file}: {key}"
        return Setting(toml_value(option, value, origin), origin, key == option.own_key)

    @property
    def default_map(self) -> dict[str, Any]:
        """What Typer takes: command -> parameter -> value, with a level more for each group."""
        nested: dict[str, Any] = {}
        for command, found in self._found.items():
            level = nested
            for word in command:
                level = level.setdefault(word, {})
            level.update({name: setting.value for name, setting in found.items()})
        return nested

    def of(self, option: Settable) -> Setting | None:
        """What is set of an option; None where its default holds."""
        return self._found.get(option.command, {}).get(option.parameter.name)

    def is_on(self, key: str, arguments: Sequence[str]) -> bool:
        """Whether a flag of the command that a command line names is set."""
        words = tuple(word for word in arguments if not word.startswith("-"))
        found = (self.of(option) for option in self._options if option.key == key and _leads(words, option.command))
        return any(setting is not None and str(setting.value).strip().lower() in _YES for setting in found)

    def _unknown_variables(self) -> list[str]:
        """Variables of our prefix that set nothing, each with the nearest that would."""
        known = {option.own_variable for option in self._options}
        known |= {option.variable for option in self._options if option.shared}
        known |= set(VARIABLES)
        return [f"{name} sets nothing{nearest(name, known, PREFIX)}" for name in sorted(self._variables() - known)]

    def begin(self, context: typer.Context, command: Words) -> None:
        """A command begins to run. It is told which variables set nothing: a name may be misspelt.

        Raises:
            UsageError: `problem`, unless the command tells what to mend.
        """
        self._running = context
        if not context.params.get("quiet"):
            for text in self._unknown_variables():
                note(text)
        if self.problem is not None and command != _TELLS_WHAT_TO_MEND:
            raise self.problem

    def refusal(self, context: Any, parameter: Any, message: str) -> UsageError | None:
        """Typer's refusal of a value, under the name of its origin; None if the value is no setting."""
        setting = self._set_by(context).get(getattr(parameter, "name", ""))
        return None if setting is None else setting.refused(message, context.words)

    def explain(self, error: CotcliError) -> None:
        """Puts before an error of the command that ran the origin of each setting that it speaks of."""
        if self._running is None or not isinstance(error, (UsageError, ModelError)):
            return
        found = self._set_by(self._running)
        named = [
            (option, setting)
            for option in self._options
            if option.command == self._running.words
            and (setting := found.get(option.parameter.name)) is not None
            and _speaks_of(error.message, option.parameter.opts, setting.value)
        ]
        if not named:
            return
        flags = [option.variable if option.shared else option.own_variable for option, _ in named if option.is_flag]
        error.message = f"{'; '.join(setting.origin for _, setting in named)}: {error.message}"
        if error.hint is None and flags:
            error.hint = f"For this once: {flags[0]}=0 cotcli …"

    def _set_by(self, context: Any) -> dict[str, Setting]:
        """The settings that a command runs with: those that no flag has replaced."""
        found = self._found.get(getattr(context, "words", ()), {})
        sources = {name: context.get_parameter_source(name) for name in found}
        return {
            name: setting
            for name, setting in found.items()
            if (source := sources[name]) is not None and source.name == "DEFAULT_MAP"
        }


def _watched(settings: Settings, command: Words) -> type[typer.Context]:
    class Watched(typer.Context):
        """Says when its command begins to run: when the command line has been read, and help was not asked for."""

        words = command

        def invoke(self, callback: Any, /, *args: Any, **kwargs: Any) -> Any:
            settings.begin(self, command)
            return super().invoke(callback, *args, **kwargs)

    return Watched


def _words(option: Settable, text: str, origin: str) -> str | list[str]:
    """A variable's text; of an option that may be repeated its words, quoted as in a shell."""
    if not option.parameter.multiple:
        return text
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{origin}: {str(error).lower()}", "Quote its words as in a shell") from None


def _leads(words: Words, command: Words) -> bool:
    return words[: len(command)] == command


def _speaks_of(message: str, flags: Sequence[str], value: Any) -> bool:
    """Whether an error is about an option: names a flag of its, begins with its key, or quotes its value.

    A single character may be there by chance. It is a quotation where the key is before it.
    """
    quoted = rf"{re.escape(value)}(?![^\s'\",:])" if isinstance(value, str) and value else None
    for flag in (flag for flag in flags if flag.startswith("--")):
        key = flag.lstrip("-").replace("-", "_")
        if re.search(rf"(?<![\w-]){flag}(?![\w-])", message) or re.match(rf"(a stage in )?{key}\b", message):
            return True
        if quoted is not None and re.search(rf"\b{key} {quoted}", message):
            return True
    return quoted is not None and len(value) > 1 and re.search(rf"(?<![^\s'\"]){quoted}", message) is not None
