"""docs/reference.md and the README's tables, against the commands."""

from __future__ import annotations

import re

import pytest

from cotcli import errors
from cotcli.answer import GenerationParams
from cotcli.cli import main
from cotcli.cli.app import COMMANDS, root
from cotcli.cli.reference import EXIT_CODES, reference
from cotcli.cli.tree import commands, settable
from cotcli.engine import EngineOptions
from cotcli.placement import TINY_MODEL
from cotcli.specs import default_model
from tests.cli.process import ROOT

PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert reference() == PAGE, "it is stale: make reference"


def test_the_page_has_all_that_help_has(capsys: pytest.CaptureFixture[str]) -> None:
    for words, _ in commands(root()):
        assert main([*words, "--help"]) == 0
        flags = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", capsys.readouterr().out)) - {"-h", "--help"}
        section = PAGE.partition(f"\n## cotcli {' '.join(words)}\n")[2].partition("\n## ")[0]
        assert {flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", section)} == set()
    for option in settable(root()):
        assert f"`{option.variable if option.shared else option.own_variable}`" in PAGE


def test_the_list_of_commands_says_what_they_say() -> None:
    assert {name: command.get_short_help_str(200) for name, command in root().commands.items()} == COMMANDS


def test_what_is_said_of_defaults() -> None:
    ask = PAGE.partition("\n## cotcli ask\n")[2].partition("\n## ")[0]
    assert re.search(r"^\| `--ctx N` \| .* \| 4096 \| ", ask, re.MULTILINE)
    assert EngineOptions().context_length == 4096
    assert re.search(r"^\| `--model, .* \| llava-cot, .* \| ", ask, re.MULTILINE) and default_model() == "llava-cot"
    assert re.search(r"^\| `--threads N` \| .* \| all cores; 1 for a model below 100 MB \| ", ask, re.MULTILINE)
    assert TINY_MODEL == 100e6
    assert "`temperature = 0.6`, `top_p = 0.9`, `top_k = 0`, `min_p = 0.0`, `repeat_penalty = 1.0`" in PAGE
    assert f"`max_tokens = {GenerationParams().max_tokens}`." in PAGE


def test_what_may_be_left_out_is_in_brackets() -> None:
    usages = set(re.findall(r"^    (cotcli .*)$", PAGE, re.MULTILINE))
    assert {
        "cotcli ask [OPTIONS] QUESTION IMAGE…",
        "cotcli batch [OPTIONS] [QUESTION] [PATH…]",
        "cotcli demo [OPTIONS]",
        "cotcli schema [record|score|event|doctor]",
    } <= usages


def test_exit_codes() -> None:
    table = README.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
    kinds = [errors.CotcliError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)
