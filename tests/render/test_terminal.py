"""The staged view, character by character."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.cells import cell_len
from rich.console import Console

from cotcli.answer import Answer, Timing
from cotcli.render.terminal import TerminalOutput, footer
from cotcli.stages import STAGES
from tests.render.samples import RAW, events_of, make_answer

QUIET_LINE = "demo · Q8_0 · CPU · load 0.12 s · image 2.25 s · prompt 0.03 s · 64 tokens in 1.60 s · 40 tokens/s"


def render(
    answers: Sequence[Answer],
    width: int = 80,
    *,
    show: Sequence[str] = STAGES,
    color: bool = False,
    headers: bool = False,
    is_footer: bool = True,
    size: int = 7,
    encoding: str = "utf-8",
) -> str:
    memory = io.BytesIO()
    file = io.TextIOWrapper(memory, encoding=encoding, newline="\n")
    console = Console(
        file=file,
        width=width,
        force_terminal=True,
        color_system="standard" if color else None,
        no_color=not color,
        markup=False,
        emoji=False,
        highlight=False,
    )
    output = TerminalOutput(console, show, headers=headers, footer=is_footer)
    for number, answer in enumerate(answers):
        output.start(f"{number}.png", answer.question)
        for event in events_of(answer.raw, size):
            output.event(event)
        output.answer(answer)
        assert not output.live
    file.flush()
    return memory.getvalue().decode(encoding)


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_whole_answer() -> None:
    assert render([make_answer()], 60) == (
        """── Summary ─────────────────────────────────────────────────
I will remove the red objects and count the rest.

── Caption ─────────────────────────────────────────────────
From left to right:
1. small red circle
2. big blue square

── Reasoning ───────────────────────────────────────────────
Small red circle out, big blue square stays (1). That leaves
1.

╭─ Conclusion ─────────────────────────────────────────────╮
│ 1                                                        │
╰──────────────────────────────────────────────────────────╯

"""
        "demo · Q8_0 · CPU · load 0.12 s · image 2.25 s\n"
        "prompt 0.03 s · 64 tokens in 1.60 s · 40 tokens/s\n"
    )


@pytest.mark.parametrize("width", [20, 80, 120])
def test_chunks_and_colour_change_nothing_else(width: int) -> None:
    raw = RAW.replace("That leaves 1.", "Again and again it is looked at. " * 20)
    whole = render([make_answer(raw)], width, size=10_000, is_footer=False)
    assert max(map(cell_len, whole.split("\n"))) == width
    for size in (1, 4, 33):
        assert render([make_answer(raw)], width, size=size, is_footer=False) == whole
    coloured = render([make_answer(raw)], width, color=True, is_footer=False)
    assert coloured != whole
    assert without_codes(coloured) == whole


def test_a_long_conclusion_stays_in_its_box() -> None:
    raw = "<CONCLUSION>Options: 数学 and more words than fit.\n\nB</CONCLUSION>"
    assert render([make_answer(raw)], 24, is_footer=False) == (
        "╭─ Conclusion ─────────╮\n"
        "│ Options: 数学 and    │\n"
        "│ more words than fit. │\n"
        "│                      │\n"
        "│ B                    │\n"
        "╰──────────────────────╯\n"
    )


def test_colours() -> None:
    answer = make_answer("<SUMMARY>s</SUMMARY><CONCLUSION>c</CONCLUSION>")
    assert f"\x1b[2m{QUIET_LINE}\x1b[0m\n" in render([answer], 120, color=True)
    text = render([answer], 20, color=True)
    assert "\x1b[2;36m── \x1b[0m\x1b[1;36mSummary\x1b[0m\x1b[2;36m ─────────\x1b[0m\n" in text
    assert "\x1b[1;32m╭─ Conclusion ─────╮\x1b[0m\n\x1b[1;32m│ \x1b[0m\x1b[1mc\x1b[0m" in text


def test_a_model_cannot_steer_the_terminal() -> None:
    evil = "[red]\x1b[2J\x1b]8;;http://x\x07link[/red]:smile: **b** \x9b5A\r\x00"
    text = render([make_answer(f"<SUMMARY>{evil}</SUMMARY><CONCLUSION>{evil}</CONCLUSION>")], color=True)
    assert "[red][2J]8;;http://xlink[/red]:smile: **b** 5A" in without_codes(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", without_codes(text))


def test_shown_stages_only() -> None:
    assert render([make_answer()], 40, show=("summary", "conclusion"), is_footer=False) == (
        "── Summary ─────────────────────────────\n"
        "I will remove the red objects and count\n"
        "the rest.\n"
        "\n"
        "╭─ Conclusion ─────────────────────────╮\n"
        "│ 1                                    │\n"
        "╰──────────────────────────────────────╯\n"
    )
    assert render([make_answer()], show=("raw",), is_footer=False) == RAW + "\n"


def test_text_outside_stages_is_shown_too() -> None:
    raw = "Sure!<SUMMARY>s</SUMMARY> and\n<CONCLUSION>c</CONCLUSION>\nbye"
    assert render([make_answer(raw)], 20, is_footer=False) == (
        "Sure!\n"
        "\n"
        "── Summary ─────────\n"
        "s\n"
        "\n"
        "and\n"
        "\n"
        "╭─ Conclusion ─────╮\n"
        "│ c                │\n"
        "╰──────────────────╯\n"
        "\n"
        "bye\n"
    )


def test_an_answer_cut_in_a_stage_leaves_whole_lines() -> None:
    cut = make_answer("<CONCLUSION>one tw", finish_reason="length", cut_in="conclusion")
    assert render([cut], 20, is_footer=False) == "╭─ Conclusion ─────╮\n│ one tw           │\n╰──────────────────╯\n"
    assert render([make_answer("<CAPTION>one tw")], 20, is_footer=False) == "── Caption ─────────\none tw\n"


def test_several_pictures() -> None:
    answer = make_answer("<CONCLUSION>1</CONCLUSION>")
    box = "╭─ Conclusion ─────╮\n│ 1                │\n╰──────────────────╯\n"
    assert render([answer, answer], 20, headers=True, is_footer=False) == (
        f"━━ 0.png ━━━━━━━━━━━\n\n{box}\n━━ 1.png ━━━━━━━━━━━\n\n{box}"
    )


def test_a_terminal_without_unicode() -> None:
    answer = make_answer("<SUMMARY>s</SUMMARY><CONCLUSION>1</CONCLUSION>")
    assert render([answer], 20, is_footer=False, encoding="ascii") == (
        "-- Summary ---------\ns\n\n+- Conclusion -----+\n| 1                |\n+------------------+\n"
    )


@pytest.mark.parametrize(
    ("timing", "times"),
    [
        (Timing(0, 0, 12, 500), "prompt 0.01 s · 64 tokens in 0.50 s · 128 tokens/s"),
        (Timing(0, 281_000, 99_940, 32_000), "image 4 min 41 s · prompt 99.9 s · 64 tokens in 32.0 s · 2 tokens/s"),
        (Timing(0, 0, 5, 10), "prompt 0.01 s · 64 tokens in 0.01 s · 6400 tokens/s"),
        (Timing(), "64 tokens in 0.00 s"),
    ],
)
def test_footer(timing: Timing, times: str) -> None:
    assert footer(make_answer(timing=timing), 200) == f"demo · Q8_0 · CPU · {times}"
