"""What can follow on a command line, for a shell that asks.

The protocol is Typer's: variables in, lines out. Here are the values that only cotcli knows, such as the names of
installed models, and what bash needs so that it can complete `demo:Q8_0`. A value that nothing completes is left to
the shell, which offers files.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from cotcli.stages import STAGES

VARIABLE = "_COTCLI_COMPLETE"
"""Set by the shell's own function; its value says which shell asks and what for."""
_BREAKS = set(":=")  # of bash's COMP_WORDBREAKS, those that an argument may hold

Offers = list[tuple[str, str]]
"""Values, each with a word on what it is."""


def complete(commands: Any, default_map: dict[str, Any]) -> int:
    """Answers the shell; the exit code. Whatever fails is no business of a command line that is being typed."""
    done = ""
    output = io.StringIO()
    code = 0
    try:
        if os.environ.get(VARIABLE) == "complete_bash":
            done = _join_words()
        with contextlib.redirect_stdout(output):
            commands.main(args=[], prog_name="cotcli", default_map=default_map)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except Exception:
        return 1
    sys.stdout.writelines(line.removeprefix(done) for line in output.getvalue().splitlines(keepends=True))
    return code


def _join_words() -> str:
    """Puts together the words that bash has taken apart at : and =, and that Typer would take for several arguments.

    Returns:
        What bash takes to be written already of the word that is completed: all up to its last colon.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    count = int(os.environ.get("COMP_CWORD", "0")) + 1
    joined: list[str] = []
    goes_on = False
    for word in words[:count]:
        is_break = bool(word) and set(word) <= _BREAKS
        if joined and (goes_on or is_break):
            joined[-1] += word
        else:
            joined.append(word)
        goes_on = is_break
    os.environ["COMP_WORDS"] = "\n".join(joined)
    os.environ["COMP_CWORD"] = str(len(joined) - 1)
    value = joined[-1].rpartition("=")[2]
    return value[: value.rfind(":") + 1]


def installed_models(incomplete: str) -> Offers:
    """Names of models that are here, each also with every quantization."""
    return list(_matching(_installed(), incomplete))


def known_models(incomplete: str) -> Offers:
    """Those, and the names of models that could be installed."""
    from cotcli.specs import specs

    names = ((spec.name, spec.description) for spec in specs().values())
    return list(_matching({**dict(names), **dict(_installed())}.items(), incomplete))


def missing_models(incomplete: str) -> Offers:
    """Names of models that could be installed."""
    from cotcli.specs import specs

    return list(_matching(((spec.name, spec.description) for spec in specs().values() if not spec.files), incomplete))


def quantizations(incomplete: str) -> Offers:
    """What `convert` makes; in the case that is being typed."""
    from convert import QUANTIZATIONS

    names = (quantization.name for quantization in QUANTIZATIONS.values())
    lower = incomplete == incomplete.lower() != incomplete.upper()
    return list(_matching(((name.lower() if lower else name, "") for name in names), incomplete))


def shown_stages(incomplete: str) -> Offers:
    """all, raw, or stages after a comma each."""
    done, comma, _ = incomplete.rpartition(",")
    given = done.split(",")
    names = [stage for stage in STAGES if stage not in given] if comma else [*STAGES, "all", "raw"]
    return list(_matching(((f"{done}{comma}{name}", "") for name in names), incomplete))


def limited_stages(incomplete: str) -> Offers:
    """STAGE= of a limit."""
    return list(_matching(((f"{stage}=", "") for stage in STAGES), incomplete))


def _installed() -> Iterator[tuple[str, str]]:
    from cotcli.registry import installed

    pairs = installed()
    for pair in pairs:
        yield pair.spec.name, pair.spec.description
    for pair in pairs:
        yield f"{pair.spec.name}:{pair.quant}", str(pair.language)


def _matching(offers: Iterable[tuple[str, str]], incomplete: str) -> Iterator[tuple[str, str]]:
    return (offer for offer in dict(offers).items() if offer[0].startswith(incomplete))
