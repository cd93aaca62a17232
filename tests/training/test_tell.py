"""What is taught, and which words of it weigh more."""

from __future__ import annotations

import pytest

from training.tell import DECIDED_WEIGHT, SEEN_WEIGHT, Told, tell

STAGES = (
    "I will count the red stars.",
    "There are 2 objects.\n1. small red star\n2. big blue circle at C4",
    "small red star: yes (1). big blue circle: no (1). The total is 1.",
    "1",
)


def weighed(told: Told) -> dict[float, list[str]]:
    """Words by weight, in the order of the text."""
    found: dict[float, list[str]] = {}
    for start, end, weight in sorted(told.spans):
        found.setdefault(weight, []).append(told.text[start:end])
    return found


@pytest.mark.parametrize("form", ["staged", "untagged"])
def test_what_is_seen_and_what_is_decided_weighs_more(form: str) -> None:
    words = weighed(tell(STAGES, form))
    assert words[SEEN_WEIGHT] == ["small", "red", "star", "big", "blue", "circle", "C4"]
    # A bracket's number and the total are in two spans each, of one weight.
    assert words[DECIDED_WEIGHT] == ["yes", "(1)", "1", "no", "(1)", "1", "is 1.", "1", "1"]
    assert set(words) == {SEEN_WEIGHT, DECIDED_WEIGHT}


def test_forms() -> None:
    staged = (
        "<SUMMARY>{}</SUMMARY>\n\n<CAPTION>{}</CAPTION>\n\n<REASONING>{}</REASONING>\n\n<CONCLUSION>{}</CONCLUSION>"
    )
    assert tell(STAGES).text == staged.format(*STAGES)
    assert tell(STAGES, "untagged").text == "\n\n".join(STAGES)
    assert tell(STAGES, "direct") == Told("1", ((0, 1, DECIDED_WEIGHT),))


@pytest.mark.parametrize("form", ["staged", "untagged"])
def test_without_a_picture_the_objects_weigh_nothing(form: str) -> None:
    words = weighed(tell(STAGES, form, blind=True))
    (listed,) = words[0.0]
    assert listed.startswith("1. small red star\n2. big blue circle at C4")
    assert not set(words) - {0.0, DECIDED_WEIGHT}
