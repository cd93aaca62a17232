"""The process as a whole: streams, errors and exit codes.

Every exception ends here. What cotcli raises on purpose carries its exit code; what others raise is mapped in `known`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from cotcli.errors import CotcliError, Interrupted, ResourceError, UsageError
from cotcli.stderr import LOCK as STDERR

if TYPE_CHECKING:
    from cotcli.cli.settings import Settings

_BROKEN_PIPE = 128 + 13  # what a shell reports for a process that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: those after the program's name; None takes the process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    settings: Settings | None = None
    _replace_closed_streams()
    _use_utf8()
    try:
        from cotcli.cli import completion
        from cotcli.cli.app import root
        from cotcli.cli.settings import Settings

        commands = root()
        settings = Settings(commands)
        if os.environ.get(completion.VARIABLE):
            return completion.complete(commands, settings.default_map)
        code = _run(commands, arguments, settings)
        sys.stdout.flush()
        return code
    except (BrokenPipeError, ReaderGone):
        return _leave_pipe()
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        failure = error if isinstance(error, Failure) else Failure(known(error), None, None)
        return _report(failure, error.__cause__ if error is failure else error, _record_form(arguments, settings))


def _report(failure: Failure, cause: BaseException | None, form: str | None) -> int:
    """The record and the words of an error, each even where the other cannot be written; the exit code."""
    try:
        try:
            if form is not None:
                from cotcli.render.jsonl import JsonOutput

                output = JsonOutput(sys.stdout, stream=form == "stream_json")
                output.error(failure.error, failure.image, failure.question)
            sys.stdout.flush()
        except BrokenPipeError:
            return _leave_pipe()
        except OSError:
            _give_up(sys.stdout)
        say(failure.error, cause)
    except OSError:
        _give_up(sys.stderr)
    return failure.error.exit_code


def _run(commands: Any, arguments: list[str], settings: Settings) -> int:
    """Runs one command of Typer's tree; its errors leave as ours, and name the settings that they are about."""
    import typer

    try:
        code = commands.main(
            args=arguments, prog_name="cotcli", standalone_mode=False, default_map=settings.default_map
        )
    except typer.Abort:
        raise Interrupted("interrupted") from None
    except Failure as failure:
        settings.explain(failure.error)
        raise
    except Exception as error:
        # Typer's own errors: their classes have moved between releases, their methods have not.
        if hasattr(error, "format_message"):
            usage_error = _from_typer(error, settings)
            if usage_error is None:
                return int(getattr(error, "exit_code", 2))
            raise usage_error from None
        if isinstance(error, CotcliError):
            settings.explain(error)
        raise
    return code if isinstance(code, int) else 0


def _from_typer(error: Any, settings: Settings) -> UsageError | None:
    """A wrong command line as our own error; None if all that is wrong is that there is none and help was printed."""
    message = error.format_message()
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "cotcli"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return None
    refusal = settings.refusal(context, getattr(error, "param", None), error.message)
    if refusal is not None:
        return refusal
    return UsageError(" ".join(message.split()).rstrip("."), f"To see what it takes: {command} --help")


class ReaderGone(Exception):
    """Nobody reads stdout any more, which is no error."""


class Failure(Exception):
    """An error with the question, and the picture, that it keeps from being answered. Its cause is what was raised."""

    def __init__(self, error: CotcliError, image: str | None, question: str | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.image = image
        self.question = question


@contextmanager
def about(question: str, image: str | None = None) -> Iterator[None]:
    """Whatever fails in this block keeps this question from being answered."""
    try:
        yield
    except (Failure, BrokenPipeError):
        raise
    except (Exception, KeyboardInterrupt) as cause:
        raise Failure(known(cause), image, question) from cause


def _record_form(arguments: list[str], settings: Settings | None) -> str | None:
    """In JSON mode an error is a record too. Goes by settings and the bare command line, which may be what is wrong."""
    given = set(arguments[: arguments.index("--")] if "--" in arguments else arguments)
    for form, flag in (("stream_json", "--stream-json"), ("json", "--json")):
        if flag in given or (settings is not None and settings.is_on(form, arguments)):
            return form
    return None


def known(error: BaseException) -> CotcliError:
    """Any exception as one of ours."""
    if isinstance(error, CotcliError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted")
    if isinstance(error, MemoryError):
        return ResourceError("out of memory", "Try a smaller quantization or --ctx")
    if isinstance(error, OSError) and error.filename is not None:
        return ResourceError(f"{error.filename}: {error.strerror}")
    if isinstance(error, OSError):
        return ResourceError(error.strerror or str(error))
    summary = f"{type(error).__name__}: {error}".splitlines()[0]
    return CotcliError(f"internal error: {summary}", "Please report it with what COTCLI_DEBUG=1 prints")


def say(error: CotcliError, cause: BaseException | None = None, *, about: str | None = None) -> None:
    """Prints an error on stderr: one line, and a second with the next step. A traceback if COTCLI_DEBUG is 1.

    Args:
        about: the picture it is about, where there are several.
    """
    from cotcli.render.text import clean

    prefix = f"{about}: " if about else ""
    with STDERR:
        if cause is not None and os.environ.get("COTCLI_DEBUG") == "1":
            traceback.print_exception(cause)
        for text in (f"cotcli: {prefix}{error.message}", error.hint):
            if text:
                print(" ".join(clean(text).split("\n")), file=sys.stderr)
        sys.stderr.flush()


def note(text: str) -> None:
    """A line for the user on stderr."""
    with STDERR:
        print(f"cotcli: {text}", file=sys.stderr, flush=True)


def _replace_closed_streams() -> None:
    """Python has None for a stream that its caller has closed, as `2>&-` does; what is written there may be lost."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _use_utf8() -> None:
    """UTF-8 on pipes and in files whatever the locale; what it cannot encode, as in a path of odd bytes, is escaped."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _leave_pipe() -> int:
    """The reader has gone: says nothing."""
    _give_up(sys.stdout)
    return _BROKEN_PIPE


def _give_up(stream: TextIO) -> None:
    """Keeps the interpreter from flushing at exit into what cannot be written: that would change the exit code."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)
