"""Stages under headings and in turns: what whole and broken answers give, and that no way of splitting changes it."""

from __future__ import annotations

import random
import re

import pytest

from cotcli.errors import UsageError
from cotcli.specs import specs
from cotcli.stages import (
    FORMATS,
    NONE,
    STAGES,
    Section,
    StageDelta,
    StageEnd,
    StageEvent,
    StageFormat,
    StageParser,
    StageStart,
    Turn,
    parser_of,
)
from tests.test_stages import check_structure, merged, parse, random_sizes

MULBERRY = specs()["mulberry"].stages
# As its training data are written: comcts/code/data_construction.py of the project lays answers out thus.
WHOLE = """### Image Description:
A kite W X Y Z.

### Rationales:
Its diagonals are perpendicular.

### Let's think step by step.

### Step 1:
WP is 6.

### Step 2:
ZY is 8√10.

### The final answer is:
D: 8√10"""


def stages_of(text: str) -> dict[str, str]:
    parser = parser_of(MULBERRY)
    parse(text, parser=parser)
    return parser.stages


def test_a_whole_answer() -> None:
    parser = parser_of(MULBERRY)
    events = merged(parse(WHOLE, parser=parser))
    assert [event for event in events if not isinstance(event, StageDelta)] == [
        *(StageStart("caption"), StageEnd("caption", True), StageStart("summary"), StageEnd("summary", True)),
        *(StageStart("reasoning"), StageEnd("reasoning", True), StageStart("conclusion"), StageEnd("conclusion", True)),
    ]
    assert parser.stages == {
        "summary": "Its diagonals are perpendicular.",
        "caption": "A kite W X Y Z.",
        "reasoning": "### Step 1:\nWP is 6.\n\n### Step 2:\nZY is 8√10.",
        "conclusion": "D: 8√10",
    }
    assert list(parser.stages) == ["summary", "caption", "reasoning", "conclusion"]
    assert parser.raw == WHOLE and parser.answer == "D: 8√10"


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("", {}),
        ("no headings at all", {}),
        ("### The final answer is: C", {"conclusion": "C"}),
        ("### the FINAL answer is:C", {"conclusion": "C"}),
        ("So\n### The final answer is: C\n", {"conclusion": "C"}),
        ("So ### The final answer is: C", {}),
        ("## The final answer is: C", {}),
        ("### The final answer is:", {"conclusion": ""}),
        ("### The final answer", {}),
        ("### Step 2:\nx\n### The final answer is: C", {"reasoning": "### Step 2:\nx", "conclusion": "C"}),
        ("### Step 12:\nx", {"reasoning": "### Step 12:\nx"}),
        ("### Step 1234:\nx", {}),
        ("### Step :\nx", {}),
        ("### Rationales:\na\n### Step\nb", {"summary": "a\n### Step\nb"}),
        ("### Rationales:\na\n### Rationales:\nb", {"summary": "a\n### Rationales:\nb"}),
        ("### The final answer is: A\n### The final answer is: B", {"conclusion": "B"}),
        ("### The final answer is: A\n### The final answer is:", {"conclusion": "A"}),
        (
            "### Let's think step by step.\n1.\n\n### Step 1:\n2.\nI think I have made a mistake.\n### Step 1:\n3.",
            {"reasoning": "1.\n\n### Step 1:\n2.\nI think I have made a mistake.\n### Step 1:\n3."},
        ),
        ("### Rationales:### The final answer is: C", {"summary": "### The final answer is: C"}),
        ("\n### Rationales:\n<CONCLUSION>x</CONCLUSION>", {"summary": "<CONCLUSION>x</CONCLUSION>"}),
    ],
)
def test_broken_structure(text: str, stages: dict[str, str]) -> None:
    assert stages_of(text) == stages


def test_deltas_come_at_once() -> None:
    parser = parser_of(MULBERRY)
    assert parser.feed("### Rationales:") == [StageStart("summary")]
    assert parser.feed("a b") == [StageDelta("summary", "a b")]
    assert parser.feed("\n#") == [StageDelta("summary", "\n")]
    assert parser.feed("## Step 1") == []
    assert parser.feed("x\n") == [StageDelta("summary", "### Step 1x\n")]
    assert parser.feed("### Step 1") == []
    assert parser.feed(":") == [
        StageEnd("summary", True),
        StageStart("reasoning"),
        StageDelta("reasoning", "### Step 1:"),
    ]
    assert parser.feed(" # ") == [StageDelta("reasoning", " # ")]


def test_the_longer_of_two_headings() -> None:
    sections = (Section("# A", "caption"), Section("# A b", "reasoning"), Section("# Z", "conclusion"))
    for text, stages in (
        ("# A\nx", {"caption": "x"}),
        ("# A b\nx", {"reasoning": "x"}),
        ("# A bx", {"reasoning": "x"}),
    ):
        for sizes in (None, [1] * len(text)):
            parser = parser_of(StageFormat("sections", sections))
            parse(text, sizes, parser)
            assert parser.stages == stages


def test_only_the_small_n_is_a_number() -> None:
    sections = (Section("Step {N}", "reasoning", kept=True), Section("So", "conclusion"))
    for text, stages in (("Step {n}\nx", {"reasoning": "Step {n}\nx"}), ("Step 1\nx", {})):
        for sizes in (None, [1] * len(text)):
            parser = parser_of(StageFormat("sections", sections))
            parse(text, sizes, parser)
            assert parser.stages == stages


HEADINGS = [section.heading.replace("{n}", "3") for section in MULBERRY.sections]
PIECES = [*HEADINGS, *(f"\n{heading}" for heading in HEADINGS), *(heading.upper() for heading in HEADINGS)]
PIECES += [
    "\n",
    "\n\n",
    "\r\n",
    "#",
    "###",
    "### ",
    "### Step",
    "### Step 9",
    "### The",
    ":",
    " ",
    "word ",
    "é",
    "数",
    "K",
]


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(20)))


@pytest.mark.parametrize("seed", range(10))
def test_chunks_do_not_matter_and_no_text_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(150):
        text = random_text(rng)
        whole = parser_of(MULBERRY)
        expected = merged(parse(text, parser=whole))
        for sizes in ([1] * len(text), random_sizes(rng, len(text)), random_sizes(rng, len(text))):
            parser = parser_of(MULBERRY)
            assert merged(parse(text, sizes, parser)) == expected, (text, sizes)
            assert (parser.raw, parser.stages) == (text, whole.stages)
        check_structure(expected)
        check_text(text, expected)


def check_text(text: str, events: list[StageEvent]) -> None:
    """The deltas are the text less its marks. Read here from the whole text, line by line."""
    kept, stage = "", None
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        for section in MULBERRY.sections:
            match = re.match(re.escape(section.heading).replace(r"\{n\}", r"\d{1,3}"), line, re.IGNORECASE | re.ASCII)
            if match and (section.stage != stage or (stage == "conclusion")):
                stage = section.stage
                line = line if section.kept else line[match.end() :]
                break
        kept += line
    assert "".join(event.text for event in events if isinstance(event, StageDelta)) == kept


@pytest.mark.parametrize("seed", range(3))
def test_little_is_held_back(seed: int) -> None:
    rng = random.Random(seed)
    longest = max(map(len, HEADINGS)) + 2
    for _ in range(60):
        text = random_text(rng)
        parser = parser_of(MULBERRY)
        for end, char in enumerate(text, 1):
            parser.feed(char)
            assert text[:end].endswith(parser._pending)
            assert len(parser._pending) < longest
            assert not parser._pending or parser._pending.startswith("#")


def test_turns_are_begun_by_the_writer() -> None:
    parser = parser_of(specs()["llamav-o1"].stages)
    events = [*parser.begin("summary"), *parser.feed("### The final answer is: <CONCLUSION>"), *parser.end()]
    events += [*parser.begin("caption"), *parser.end(), *parser.begin("conclusion"), *parser.feed("D"), *parser.close()]
    assert events == [
        *(StageStart("summary"), StageDelta("summary", "### The final answer is: <CONCLUSION>")),
        *(StageEnd("summary", True), StageDelta(None, "\n\n"), StageStart("caption"), StageEnd("caption", True)),
        *(StageDelta(None, "\n\n"), StageStart("conclusion"), StageDelta("conclusion", "D")),
        StageEnd("conclusion", True),
    ]
    assert parser.raw == "### The final answer is: <CONCLUSION>\n\n\n\nD"
    assert parser.stages == {"summary": "### The final answer is: <CONCLUSION>", "caption": "", "conclusion": "D"}


def test_what_is_written_for_a_model_fits_its_format() -> None:
    """Forced text is read by the parser as what it is meant for."""
    for form in (StageFormat("tags"), MULBERRY):
        for stage, following in (("summary", {"reasoning", None}), ("caption", {"summary", None})):
            parser = parser_of(form)
            text = form.opening_of_conclusion + "x" + ("</CONCLUSION>" if form.name == "tags" else "")
            opening = {"tags": f"<{stage.upper()}>", "sections": _heading(stage)}[form.name]
            parse_open(parser, f"{opening}text{form.end_of(stage)}")
            assert parser.stages[stage] == "text" and parser.stage in following
            parse_open(parser, text)
            assert parser.answer == "x"


def _heading(stage: str) -> str:
    return next(section.heading for section in MULBERRY.sections if section.stage == stage)


def parse_open(parser: StageParser, text: str) -> None:
    for char in text:
        parser.feed(char)


def test_formats() -> None:
    assert {spec.stages.name for spec in specs().values()} == set(FORMATS)
    with pytest.raises(UsageError, match="once"):
        StageFormat("turns", turns=(Turn("conclusion", "a"), Turn("conclusion", "b")))
    assert type(parser_of(NONE)) is StageParser
    assert NONE.stages == ("conclusion",)
    assert StageFormat("tags").stages == MULBERRY.stages == specs()["llamav-o1"].stages.stages == STAGES
    only = StageFormat("turns", turns=(Turn("reasoning", "{question}"), Turn("conclusion", "So?")))
    assert only.stages == ("reasoning", "conclusion")
