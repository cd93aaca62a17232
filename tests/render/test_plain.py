"""Plain text, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest

from cotcli.answer import Answer
from cotcli.render.plain import PlainOutput
from cotcli.stages import STAGES
from tests.render.samples import RAW, events_of, make_answer


def render(answers: Sequence[Answer], show: Sequence[str], headers: bool = False) -> str:
    file = io.StringIO()
    output = PlainOutput(file, show, headers=headers)
    for number, answer in enumerate(answers):
        output.start(f"{number}.png", answer.question)
        for event in events_of(answer.raw, 5):
            output.event(event)
        output.answer(answer)
    return file.getvalue()


ALL = """SUMMARY
I will remove the red objects and count the rest.

CAPTION
From left to right:
1. small red circle
2. big blue square

REASONING
Small red circle out, big blue square stays (1). That leaves 1.

CONCLUSION
1
"""


@pytest.mark.parametrize(
    ("show", "text"),
    [
        (("conclusion",), "1\n"),
        (("caption",), "From left to right:\n1. small red circle\n2. big blue square\n"),
        (STAGES, ALL),
        (("summary", "conclusion"), "SUMMARY\nI will remove the red objects and count the rest.\n\nCONCLUSION\n1\n"),
        (("raw",), RAW + "\n"),
    ],
)
def test_shown(show: Sequence[str], text: str) -> None:
    assert render([make_answer()], show) == text


def test_several_pictures() -> None:
    assert render([make_answer(), make_answer()], ("conclusion",), headers=True) == (
        "==> 0.png <==\n1\n\n==> 1.png <==\n1\n"
    )


def test_no_escape_codes() -> None:
    answer = make_answer("<CONCLUSION>\x1b[31mred\x1b[0m\r\nok</CONCLUSION>")
    assert render([answer], ("conclusion",)) == "[31mred[0m\nok\n"
    assert "\x1b" not in render([answer], ("raw",))


@pytest.mark.parametrize(
    ("finish_reason", "cut_in"), [("length", "conclusion"), ("interrupted", "conclusion"), ("interrupted", None)]
)
def test_a_cut_conclusion_is_not_taken_for_the_answer(finish_reason: str, cut_in: str | None) -> None:
    answer = make_answer("<SUMMARY>s</SUMMARY><CONCLUSION>1", finish_reason=finish_reason, cut_in=cut_in)
    assert render([answer], ("conclusion",)) == ""
    assert render([answer], ("summary", "conclusion")) == "SUMMARY\ns\n"
    assert render([answer], STAGES) == "SUMMARY\ns\n"
    assert render([answer], ("raw",)) == "<SUMMARY>s</SUMMARY><CONCLUSION>1\n"
