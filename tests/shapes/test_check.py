"""The checker: right answers pass; one thing changed in a stage is found in that stage and named."""

from __future__ import annotations

import random
import re
import string
from dataclasses import replace

import pytest

from cotcli.shapes.answers import (
    CAPTION_OPENINGS,
    STAGES,
    join_stages,
    judge,
    make_answer,
    make_stages,
    needs_cells,
    split_stages,
)
from cotcli.shapes.check import FAULTS, Check, Fault, check
from cotcli.shapes.questions import KINDS, Filter, Question, make_question
from cotcli.shapes.scenes import COLOURS, SHAPES, Background, Scene, SceneObject, Seen
from tests.shapes.reading import scene_of

SEEDS = range(60)
CASES = [(seed, kind) for seed in SEEDS for kind in KINDS]


def told(seed: int, kind: str) -> tuple[Scene, Question, str]:
    scene, rng = scene_of(seed), random.Random(seed)
    question = make_question(scene, rng, kind)
    return scene, question, make_answer(scene.seen, question, rng)


def part(answer: str, tag: str) -> str:
    stages = split_stages(answer)
    assert stages is not None
    return stages[STAGES.index(tag)]


def changed(answer: str, tag: str, text: str) -> str:
    """The answer with another text in one stage."""
    assert text != part(answer, tag)
    return join_stages([text if stage == tag else part(answer, stage) for stage in STAGES])


def other(word: str, words: tuple[str, ...]) -> str:
    return words[(words.index(word) + 1) % len(words)]


@pytest.mark.parametrize("kind", KINDS)
def test_right_answers_have_no_fault(kind: str) -> None:
    for seed in range(150):
        scene, question, answer = told(seed, kind)
        assert check(answer, scene, question) == Check(())
        assert check(f"\n{answer}\n", scene, question).fault is None


def a_scene() -> tuple[Scene, Question]:
    """Three objects, and a question of how many there are that are red."""
    ground = Background("plain", (0, 0, 0), (0, 0, 0), 0.0, 0.0)
    objects = (
        SceneObject("circle", "red", "small", 40, 90, 8, (212, 36, 36)),
        SceneObject("star", "blue", "big", 100, 30, 20, (40, 84, 214)),
        SceneObject("cross", "red", "small", 160, 150, 8, (212, 36, 36)),
    )
    question = Question(
        "count", "How many red objects are there?", (Filter(colour="red"),), "", "", "2", ("5", "2"), "B"
    )
    return Scene(0, 200, 200, ground, objects), question


WRITTEN = """<SUMMARY>I will count the red objects.</SUMMARY>

<CAPTION>From left to right:
1. small red circle
2. big blue star
3. small red cross</CAPTION>

<REASONING>One by one: small red circle: red yes (1); big blue star: red no (1); small red cross: red yes (2). \
The total is 2. Options: A. 5 B. 2, so B.</REASONING>

<CONCLUSION>B</CONCLUSION>"""


@pytest.mark.parametrize(
    ("old", "new", "fault", "detail"),
    [
        ("red objects.", "blue objects.", "summary", 'the summary says "I will count the blue objects.", asked is to'),
        ("3. small red cross", "3. small red star", "caption", "caption line 3: small red star, the picture has small"),
        ("\n3. small red cross", "", "caption", "caption line 3 is missing: small red cross (2 listed, 3 in the pic"),
        (
            "2. big blue star\n3. s",
            "2. s",
            "caption",
            "caption line 2: small red cross, the picture has big blue star (",
        ),
        (
            "cross</",
            "cross\n4. big red star</",
            "caption",
            "caption line 4: big red star, the picture has no more obje",
        ),
        ("2. big blue star", "2. big bluish star", "caption", 'caption line 2: "2. big bluish star" is no object'),
        (
            "2. big blue star",
            "3. big blue star",
            "caption",
            'caption line 2: "3. big blue star" is no object under its',
        ),
        (
            "2. big blue star",
            "2. big blue star C1",
            "caption",
            'caption line 2: "2. big blue star C1" has a square not',
        ),
        ("From left", "Left", "caption", 'caption: "Left to right:" is not how a caption of this question begins'),
        (
            "yes (1)",
            "no (1)",
            "reasoning",
            'reasoning step 1: "One by one: small red circle: red no (1)", from its own',
        ),
        (
            "no (1)",
            "no (2)",
            "reasoning",
            'reasoning step 2: "big blue star: red no (2)", from its own caption follows',
        ),
        ("cross: red", "cross: blue", "reasoning", 'reasoning step 3: "small red cross: blue yes (2)", from its own'),
        ("A. 5 B. 2", "B. 2", "reasoning", 'reasoning step 5: "Options: B. 2, so B.", from its own caption follows "O'),
        (" Options: A. 5 B. 2, so B.", "", "reasoning", 'the reasoning ends before "Options: A. 5 B. 2, so B."'),
        ("2, so B.", "2, so B. Yes.", "reasoning", 'reasoning step 5: "Options: A. 5 B. 2, so B. Yes", from its own'),
        ("(2). ", "(2). It is 2. ", "reasoning", 'reasoning step 4: "It is 2", from its own caption follows "The tot'),
        ("(2). The", "(2); The", "reasoning", "the reasoning is not punctuated as what follows from its own caption"),
        (">B<", ">A<", "conclusion", 'it concludes "A", its reasoning comes to B'),
        (">B<", "><", "conclusion", 'it concludes "", its reasoning comes to B'),
        ("<REASONING>", "", "form", "the stage REASONING is not opened"),
        ("</CONCLUSION>", "", "form", "the stage CONCLUSION is not closed"),
        ("<CAPTION>", "<CAPTION><CAPTION>", "form", "the stage CAPTION is there more than once"),
        ("</CAPTION>\n", "</CAPTION> then", "form", "the stages are out of order, or there is text outside of them"),
    ],
)
def test_details_name_what_differs(old: str, new: str, fault: str, detail: str) -> None:
    scene, question = a_scene()
    assert check(WRITTEN, scene, question) == Check(())
    assert WRITTEN.count(old) >= 1
    found = check(WRITTEN.replace(old, new, 1), scene, question)
    assert (found.fault, found.detail[: len(detail)]) == (fault, detail)
    assert "\n" not in found.detail


@pytest.mark.parametrize("said", ["B", "b.", "(B)", "B. 2", "2"])
def test_conclusions_are_read_as_leniently_as_by_the_judge(said: str) -> None:
    scene, question = a_scene()
    assert check(WRITTEN.replace(">B<", f">{said}<"), scene, question) == Check(())


def test_faults_of_several_stages_are_all_told() -> None:
    scene, question = a_scene()
    wrong = WRITTEN.replace("2. big blue", "2. big pink").replace("yes (2). T", "no (1). T").replace(">B<", ">A<")
    found = check(wrong, scene, question)
    assert [fault.stage for fault in found.faults] == ["caption", "reasoning", "conclusion"]
    assert found.faults[0] == Fault("caption", "caption line 2: big pink star, the picture has big blue star")
    assert FAULTS == ("form", "summary", "caption", "reasoning", "conclusion")


def test_another_object_in_the_caption_is_the_caption_s_fault_alone_if_reasoned_soundly() -> None:
    for seed, kind in CASES:
        scene, question, _ = told(seed, kind)
        for attribute, words in (("colour", tuple(COLOURS)), ("shape", SHAPES)):
            index = random.Random(seed).randrange(len(scene.seen))
            seen = list(scene.seen)
            wrong = other(getattr(seen[index], attribute), words)
            seen[index] = replace(seen[index], **{attribute: wrong})
            found = check(make_answer(seen, question, random.Random(seed)), scene, question)
            assert [fault.stage for fault in found.faults] == ["caption"]
            assert found.detail == (
                f"caption line {index + 1}: {seen[index].name}, the picture has {scene.seen[index].name}"
            )


def test_a_colour_changed_in_the_caption_only_is_the_caption_s_fault_first() -> None:
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        colour = scene.seen[-1].colour
        before, _, after = part(answer, "CAPTION").rpartition(colour)
        wrong = changed(answer, "CAPTION", before + other(colour, tuple(COLOURS)) + after)
        assert check(wrong, scene, question).fault == "caption"


def test_a_lost_or_doubled_object_is_the_caption_s_fault() -> None:
    for seed, kind in CASES:
        scene, question, _ = told(seed, kind)
        index = random.Random(seed).randrange(len(scene.seen))
        for seen in (
            scene.seen[:index] + scene.seen[index + 1 :],
            (*scene.seen[: index + 1], *scene.seen[index:]),
            scene.seen[::-1] if len({item.name for item in scene.seen}) > 1 else (),
        ):
            if [item.name for item in seen] == [item.name for item in scene.seen[::-1]] == [i.name for i in scene.seen]:
                continue
            answer = make_answer(seen, question, random.Random(seed))
            assert [fault.stage for fault in check(answer, scene, question).faults] == ["caption"]


def test_one_yes_or_no_turned_is_the_reasoning_s_fault() -> None:
    turned = 0
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        if kind in ("relation", "absent"):
            continue
        reasoning = part(answer, "REASONING")
        spots = list(re.finditer(r"\b(yes|no)\b", reasoning))
        if not spots:
            continue
        turned += 1
        spot = random.Random(seed).choice(spots)
        wrong = reasoning[: spot.start()] + {"yes": "no", "no": "yes"}[spot[0]] + reasoning[spot.end() :]
        assert check(changed(answer, "REASONING", wrong), scene, question).fault == "reasoning"
    assert turned > 200


def test_one_count_changed_is_the_reasoning_s_fault() -> None:
    counted = 0
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        reasoning = part(answer, "REASONING")
        spots = list(re.finditer(r"[0-9]", reasoning))
        if not spots:
            continue
        counted += 1
        spot = random.Random(seed).choice(spots)
        wrong = reasoning[: spot.start()] + str((int(spot[0]) + 1) % 10) + reasoning[spot.end() :]
        assert check(changed(answer, "REASONING", wrong), scene, question).fault == "reasoning"
    assert counted > 300


def test_a_wrong_conclusion_of_sound_reasoning_is_the_conclusion_s_fault() -> None:
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        options = question.options or ("1", "2", "Yes", "No", "red", "blue")
        wrong = next(option for option in options if option != question.value)
        if question.options:
            wrong = "ABCD"[question.options.index(wrong)]
        found = check(changed(answer, "CONCLUSION", wrong), scene, question)
        assert [fault.stage for fault in found.faults] == ["conclusion"]


def test_a_conclusion_that_follows_from_wrong_reasoning_is_no_fault_of_its_own() -> None:
    for seed in SEEDS:
        scene, question, answer = told(seed, "count")
        total = str((int(question.value) + 1) % 10)
        reasoning = re.sub(r"total is \d\..*", f"total is {total}.", part(answer, "REASONING"))
        said = total
        if total in question.options:
            said = "ABCD"[question.options.index(total)]
        wrong = changed(changed(answer, "REASONING", reasoning), "CONCLUSION", said)
        assert [fault.stage for fault in check(wrong, scene, question).faults] == ["reasoning"]


def test_a_right_conclusion_of_wrong_reasoning_is_told_as_a_leap() -> None:
    for seed in SEEDS:
        scene, question, answer = told(seed, "exists")
        text = part(answer, "REASONING")
        turned = {"Yes": "no", "No": "yes"}[question.value]
        wrong = changed(answer, "REASONING", re.sub(r"so (yes|no)\..*$", f"so {turned}.", text))
        assert [fault.stage for fault in check(wrong, scene, question).faults] == ["reasoning", "conclusion"]
        assert judge(wrong, question).correct


def test_a_question_misread_is_the_summary_s_fault() -> None:
    misread = 0
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        asked_instead = make_question(scene, random.Random(seed + 1000), kind)
        summary = make_stages(scene.seen, asked_instead, random.Random(0))[0]
        if asked_instead.filters == question.filters and asked_instead.place == question.place:
            continue
        misread += 1
        wrong = changed(answer, "SUMMARY", summary)
        assert [fault.stage for fault in check(wrong, scene, question).faults] == ["summary"]
    assert misread > 300


@pytest.mark.parametrize("tag", STAGES)
def test_a_broken_tag_is_a_fault_of_form(tag: str) -> None:
    scene, question, answer = told(1, "count")
    for old, new in ((f"<{tag}>", ""), (f"</{tag}>", ""), (f"<{tag}>", f"<{tag.lower()}>"), (f"</{tag}>", f"<{tag}>")):
        assert [fault.stage for fault in check(answer.replace(old, new), scene, question).faults] == ["form"]
        assert tag in check(answer.replace(old, new), scene, question).detail


def shifted(seen: tuple[Seen, ...], index: int, across: int, down: int) -> tuple[Seen, ...] | None:
    """The objects with one square moved; None where it would leave the grid."""
    column, row = "ABCDEFGH".index(seen[index].cell[0]) + across, int(seen[index].cell[1]) - 1 + down
    if not (0 <= column < 8 and 0 <= row < 8):
        return None
    moved = replace(seen[index], cell="ABCDEFGH"[column] + str(row + 1))
    return (*seen[:index], moved, *seen[index + 1 :])


def test_a_square_may_be_off_by_one_unless_that_decides_but_not_by_two() -> None:
    passed = decided = 0
    for seed, kind in CASES:
        scene, question, _ = told(seed, kind)
        if not needs_cells(question):
            continue
        rng = random.Random(seed)
        index = rng.randrange(len(scene.seen))
        for across, down in ((1, 0), (0, -1), (1, 1), (2, 0), (0, 2), (-1, 2)):
            seen = shifted(scene.seen, index, across, down)
            if seen is None:
                continue
            answer = make_answer(seen, question, rng)
            found = check(answer, scene, question)
            if max(abs(across), abs(down)) == 2:
                assert [fault.stage for fault in found.faults] == ["caption"]
                assert f"at {seen[index].cell}, the picture has it at {scene.seen[index].cell}" in found.detail
            elif judge(answer, question).correct:
                passed += 1
                assert found == Check(())
            else:
                decided += 1
                assert [fault.stage for fault in found.faults] == ["caption"]
                assert f"line {index + 1}" in found.detail and found.detail.endswith("that decides")
    assert passed > 50 and decided > 3


def test_squares_are_needed_where_places_are_asked() -> None:
    cases = [told(seed, "relation") for seed in SEEDS]
    scene, question, answer = next(case for case in cases if case[1].kind == "relation")
    caption = part(answer, "CAPTION")
    bare = changed(answer, "CAPTION", re.sub(r" [A-H][1-8]$", "", caption, flags=re.MULTILINE))
    assert check(bare, scene, question).detail.endswith("lacks a square")
    opened = changed(answer, "CAPTION", "\n".join([CAPTION_OPENINGS[0], *caption.split("\n")[1:]]))
    assert check(opened, scene, question).fault == "caption"


def garbage(rng: random.Random, answer: str) -> str:
    """Random characters, an answer's words shuffled, something put into an answer, or one character of one stage."""
    way = rng.randrange(4)
    if way == 0:
        return "".join(rng.choice(string.printable + "äß漢\u2028\x00🙂") for _ in range(rng.randrange(200)))
    if way == 1:
        pieces = re.split(r"(\W)", answer)
        rng.shuffle(pieces)
        return "".join(pieces)
    if way == 2:
        at = rng.randrange(len(answer))
        odd = rng.choice((answer[at : at + 12], "9" * 5000, " so D.", "(", "\n", "1. ", " so AB.", " total is 3."))
        return answer[:at] + odd + answer[at:]
    stages = list(split_stages(answer) or ())
    which = rng.randrange(4)
    at = rng.randrange(len(stages[which]))
    stages[which] = stages[which][:at] + rng.choice("aA1 <") + stages[which][at + 1 :]
    return join_stages(stages)


def test_any_text_is_judged_without_raising() -> None:
    """And what has no fault is right."""
    stages = set()
    for seed, kind in CASES:
        scene, question, answer = told(seed, kind)
        rng = random.Random(f"{seed} {kind}")
        for text in ("", *(garbage(rng, answer) for _ in range(6))):
            found = check(text, scene, question)
            stages.add(found.fault)
            assert (found.fault is None) == (not found.faults) == (found.detail == "")
            assert found.fault is not None or judge(text, question).correct
            assert len(found.detail) < 260
    assert stages == {None, *FAULTS}


@pytest.mark.parametrize("conclusion", ["", "E", "AB", "ABCD", "Z. 3", "option", ".", "()"])
@pytest.mark.parametrize("reasoning", ["", "so AB.", "so it.", "total is 99999.", "x, so D.", "The total is."])
def test_odd_ends_do_not_confuse_it(reasoning: str, conclusion: str) -> None:
    scene, question = a_scene()
    stages = ("I will count the red objects.", "From left to right:", reasoning, conclusion)
    assert check(join_stages(stages), scene, question).fault == "caption"


def test_a_question_about_another_scene_is_an_error_of_the_caller() -> None:
    scene, question = a_scene()
    with pytest.raises(ValueError, match="not about this scene"):
        check(WRITTEN, scene, replace(question, truth="A"))
