"""The stage parser: what a broken answer gives, and that no way of splitting it changes that."""

from __future__ import annotations

import random
import re

import pytest

from cotcli.stages import NONE, STAGES, StageDelta, StageEnd, StageEvent, StageParser, StageStart, parser_of


def parse(text: str, sizes: list[int] | None = None, parser: StageParser | None = None) -> list[StageEvent]:
    """All events of a text that is fed in chunks of the given sizes, or whole."""
    parser = parser or parser_of()
    events: list[StageEvent] = []
    position = 0
    for size in sizes or [len(text)]:
        events += parser.feed(text[position : position + size])
        position += size
    assert position >= len(text)
    return events + parser.close()


def merged(events: list[StageEvent]) -> list[StageEvent]:
    """Neighbouring deltas made one."""
    result: list[StageEvent] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, StageDelta) and isinstance(last, StageDelta):
            assert event.stage == last.stage
            result[-1] = StageDelta(last.stage, last.text + event.text)
        else:
            result.append(event)
    return result


def test_a_whole_answer() -> None:
    parser = parser_of()
    text = "<SUMMARY>\nCount.\n</SUMMARY>\n\n<CAPTION>Two cats</CAPTION><REASONING>1, 2</REASONING>"
    text += "<CONCLUSION> 2 </CONCLUSION>"
    assert parse(text, parser=parser) == [
        StageStart("summary"),
        StageDelta("summary", "\nCount.\n"),
        StageEnd("summary", True),
        StageDelta(None, "\n\n"),
        StageStart("caption"),
        StageDelta("caption", "Two cats"),
        StageEnd("caption", True),
        StageStart("reasoning"),
        StageDelta("reasoning", "1, 2"),
        StageEnd("reasoning", True),
        StageStart("conclusion"),
        StageDelta("conclusion", " 2 "),
        StageEnd("conclusion", True),
    ]
    assert parser.stages == {"summary": "Count.", "caption": "Two cats", "reasoning": "1, 2", "conclusion": "2"}
    assert parser.answer == "2"
    assert parser.raw == text


def test_deltas_come_at_once() -> None:
    parser = parser_of()
    parser.feed("<REASONING>")
    assert parser.feed("a b") == [StageDelta("reasoning", "a b")]
    assert parser.feed(" 1 < 2") == [StageDelta("reasoning", " 1 < 2")]
    assert parser.feed(" <") == [StageDelta("reasoning", " ")]
    assert parser.feed("/REAS") == []
    assert parser.feed("ON>") == [StageDelta("reasoning", "</REASON>")]
    assert parser.feed("</REASONING") == []
    assert parser.feed(">\n") == [StageEnd("reasoning", True), StageDelta(None, "\n")]


@pytest.mark.parametrize(
    ("text", "stages", "closed"),
    [
        ("no tags at all", {}, []),
        ("", {}, []),
        ("<CONCLUSION>", {"conclusion": ""}, [False]),
        ("</CONCLUSION>", {}, []),
        ("<CONCLUSION>B", {"conclusion": "B"}, [False]),
        ("<CAPTION>a<CONCLUSION>B</CONCLUSION>", {"caption": "a", "conclusion": "B"}, [False, True]),
        ("<CONCLUSION>B</CONCLUSION><SUMMARY>s</SUMMARY>", {"summary": "s", "conclusion": "B"}, [True, True]),
        ("<REASONING>a</SUMMARY>b</REASONING>", {"reasoning": "ab"}, [True]),
        ("<REASONING>a<CAPTION>b</CAPTION>c</REASONING>", {"caption": "b", "reasoning": "a"}, [False, True]),
        ("<CONCLUSION>A</CONCLUSION><CONCLUSION>B</CONCLUSION>", {"conclusion": "B"}, [True, True]),
        ("<CONCLUSION>A</CONCLUSION><CONCLUSION>The", {"conclusion": "A"}, [True, False]),
        ("<CONCLUSION>A</CONCLUSION><CONCLUSION> </CONCLUSION>", {"conclusion": "A"}, [True, True]),
        ("<CONCLUSION>A<CONCLUSION>", {"conclusion": "A"}, [False, False]),
        ("<CONCLUSION>A<CONCLUSION>B", {"conclusion": "B"}, [False, False]),
        ("< CONCLUSION >A</ CONCLUSION\n>", {"conclusion": "A"}, [True]),
        ("<   CONCLUSION>A", {}, []),
        ("<conclusion>A</Conclusion>", {"conclusion": "A"}, [True]),
        ("<REASONING>HTML <caption>x</caption></REASONING>", {"reasoning": "HTML <caption>x</caption>"}, [True]),
        ("<<CONCLUSION>>A<</CONCLUSION>>", {"conclusion": ">A<"}, [True]),
        ("<CONCLUSION>A</CONCLUSIO", {"conclusion": "A</CONCLUSIO"}, [False]),
        ("<CONCLUSION><CONCLUSION x></CONCLUSION>", {"conclusion": "<CONCLUSION x>"}, [True]),
        ("<ſUMMARY>the long s is not an s", {}, []),
    ],
)
def test_broken_structure(text: str, stages: dict[str, str], closed: list[bool]) -> None:
    parser = parser_of()
    events = parse(text, parser=parser)
    assert parser.stages == stages
    assert [event.closed for event in events if isinstance(event, StageEnd)] == closed
    assert parser.raw == text


def test_the_open_stage_can_be_read() -> None:
    parser = parser_of()
    parser.feed("<CAPTION>one</CAPTION><REASONING> two")
    assert parser.stage == "reasoning"
    assert parser.stages == {"caption": "one", "reasoning": "two"}


def test_without_stages_all_is_conclusion() -> None:
    parser = parser_of(NONE)
    assert parse(" A <CAPTION>cat", [2, 5, 20], parser) == [
        StageStart("conclusion"),
        StageDelta("conclusion", " A"),
        StageDelta("conclusion", " <CAP"),
        StageDelta("conclusion", "TION>cat"),
        StageEnd("conclusion", True),
    ]
    assert parser.answer == "A <CAPTION>cat"
    assert parse("", parser=parser_of(NONE)) == []


PIECES = [f"<{slash}{name}>" for name in ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION") for slash in ("", "/")]
PIECES += ["<", ">", "/", "</", "< ", "<SUM", "CONCLUSION>", "<caption>", "</Caption>", "< / SUMMARY >"]
PIECES += ["<  REASONING>", " ", "\n\n", "a", "word ", "1 < 2", "é", "数", "👩‍🚀", "<b>", "<|eot_id|>", "\x1b[31m"]


def random_text(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(25)))


def random_sizes(rng: random.Random, length: int) -> list[int]:
    sizes: list[int] = []
    while sum(sizes) < length:
        sizes.append(rng.choice((0, 1, 1, 2, 3, 7, 20)))
    return sizes


@pytest.mark.parametrize("seed", range(20))
def test_chunks_do_not_matter_and_no_text_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(200):
        text = random_text(rng)
        whole = parser_of()
        expected = merged(parse(text, parser=whole))
        for sizes in ([1] * len(text), random_sizes(rng, len(text)), random_sizes(rng, len(text))):
            parser = parser_of()
            assert merged(parse(text, sizes, parser)) == expected, (text, sizes)
            assert (parser.raw, parser.stages) == (text, whole.stages)
        check_structure(expected)
        check_text(text, expected)


def check_structure(events: list[StageEvent]) -> None:
    """Starts and ends alternate, and each delta lies in the stage it names."""
    open_stage: str | None = None
    for event in events:
        if isinstance(event, StageStart):
            assert open_stage is None
            open_stage = event.stage
        elif isinstance(event, StageEnd):
            assert event.stage == open_stage
            open_stage = None
        else:
            assert event.stage == open_stage and event.text
    assert open_stage is None


def check_text(text: str, events: list[StageEvent]) -> None:
    """The deltas are the text less its tags. Read here from the whole text, where tags can simply be split off."""
    blank = "[ \t\r\n]?"
    pieces = re.split(f"(<{blank}/?{blank}(?:{'|'.join(STAGES)}){blank}>)", text, flags=re.IGNORECASE | re.ASCII)
    kept, stage = "", None
    for index, piece in enumerate(pieces):
        name = re.sub(r"[^a-z]", "", piece.lower())
        closing = "/" in piece
        if index % 2 and (piece.isupper() or (name == stage if closing else stage is None)):
            stage = name if not closing else None if name == stage else stage
        else:
            kept += piece
    assert "".join(event.text for event in events if isinstance(event, StageDelta)) == kept


@pytest.mark.parametrize("seed", range(5))
def test_little_is_held_back(seed: int) -> None:
    rng = random.Random(seed)
    longest = len("< / CONCLUSION >") - 1
    for _ in range(100):
        text = random_text(rng)
        parser = parser_of()
        for end, char in enumerate(text, 1):
            parser.feed(char)
            pending = text[:end][len(text[:end]) - len(parser._pending) :]
            assert parser._pending == pending
            assert len(pending) <= longest
            assert not pending or pending.startswith("<")


def test_stage_text_is_its_deltas_trimmed() -> None:
    rng = random.Random(7)
    for _ in range(300):
        text = random_text(rng)
        parser = parser_of()
        events = merged(parse(text, parser=parser))
        occurrences: dict[str, list[str]] = {}
        for event in events:
            if isinstance(event, StageStart):
                occurrences.setdefault(event.stage, []).append("")
            elif isinstance(event, StageDelta) and event.stage is not None:
                occurrences[event.stage][-1] = event.text.strip()
        assert set(parser.stages) == set(occurrences)
        for stage, written in parser.stages.items():
            assert written in occurrences[stage]
