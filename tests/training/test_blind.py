"""The guess from the question alone: the commonest truth of its form."""

from __future__ import annotations

from collections import Counter

from cotcli.shapes.questions import NOT_HERE, Filter, Question
from cotcli.shapes.scenes import make_scene
from training.blind import blind_answers, taught
from training.held_out import Item

RED, BIG_STAR, STAR = Filter(colour="red"), Filter(size="big", shape="star"), Filter(shape="star")


def a_question(
    kind: str, value: str, *filters: Filter, asks: str = "", options: tuple[str, ...] = (), text: str = "?"
) -> Question:
    truth = "ABCD"[options.index(value)] if options else value
    return Question(kind, text, filters, asks, "", value, options, truth)


def guesses(learned: list[Question], *asked: Question) -> list[str]:
    items = [Item(make_scene(seed), question, "") for seed, question in enumerate(asked)]
    return [
        answer.removeprefix("<CONCLUSION>").removesuffix("</CONCLUSION>") for answer in blind_answers(items, learned)
    ]


def test_the_commonest_truth_of_the_form() -> None:
    learned = [
        *(a_question("count", value, RED) for value in "2212"),
        *(a_question("count", value, BIG_STAR) for value in "00010"),
        *(a_question("exists", "Yes", RED) for _ in range(9)),
    ]
    blue, small_cross = Filter(colour="blue"), Filter(size="small", shape="cross")
    asked = [a_question("count", "9", each) for each in (blue, small_cross, STAR)]
    assert guesses(learned, *asked) == [
        "2",
        "0",
        "0",
    ]  # of shapes alone no count is known: of all counts 0 is commonest
    assert guesses(learned, a_question("subtract", "9", STAR)) == [NOT_HERE]


def test_among_options_the_commonest_of_them() -> None:
    learned = [a_question("count", value, RED) for value in "22211"]
    assert guesses(learned, a_question("count", "7", RED, options=("7", "1", "2", "3"))) == ["C"]
    assert guesses(learned, a_question("count", "7", RED, options=("7", "4", "1", "3"))) == ["C"]


def test_whether_objects_are_there_is_not_known() -> None:
    """The words of both kinds are the same."""
    learned = [a_question("attribute", "red", STAR, asks="colour"), a_question("absent", NOT_HERE, STAR, asks="colour")]
    learned.append(learned[1])
    assert guesses(learned, a_question("attribute", "blue", STAR, asks="colour")) == [NOT_HERE]
    assert guesses(learned[:1], a_question("absent", NOT_HERE, STAR, asks="colour")) == ["red"]


def test_questions_are_those_of_the_first_scenes() -> None:
    learned = taught(40)
    assert learned == taught(60)[:80]
    assert Counter(question.kind for question in learned)["extreme"] > 5
