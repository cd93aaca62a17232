"""docs/reference.md and the README's tables, against the commands."""

from __future__ import annotations

import re

import pytest
import typer

from cotcli import errors
from cotcli.cli import main
from cotcli.cli.app import app
from cotcli.cli.reference import EXIT_CODES, reference
from cotcli.cli.tree import commands, settable
from tests.cli.process import ROOT

PAGE = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    assert reference() == PAGE, "it is stale: make reference"


def test_the_page_has_all_that_help_has(capsys: pytest.CaptureFixture[str]) -> None:
    root = typer.main.get_command(app)
    for words, _ in commands(root):
        assert main([*words, "--help"]) == 0
        flags = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", capsys.readouterr().out)) - {"-h", "--help"}
        section = PAGE.partition(f"\n## cotcli {' '.join(words)}\n")[2].partition("\n## ")[0]
        assert {flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", section)} == set()
    for option in settable(root):
        assert f"`{option.variable if option.shared else option.own_variable}`" in PAGE


def test_exit_codes() -> None:
    table = README.partition("| exit code | meaning |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
    kinds = [errors.CotcliError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {kind.exit_code for kind in kinds} <= set(EXIT_CODES)
