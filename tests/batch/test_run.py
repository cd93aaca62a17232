"""Batches from Python, with the bundled model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cotcli
from cotcli import batch
from cotcli.answer import GenerationParams
from cotcli.batch import Item
from cotcli.cli.drawn import draw_one
from cotcli.errors import UsageError
from cotcli.generate import Reasoner

QUESTION = "Is there a circle?"


class Heard:
    """What a model tells while it works."""

    def __init__(self) -> None:
        self.encoded = 0

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.encoded += phase == "image" and done == 0


@pytest.fixture(scope="module")
def heard() -> Heard:
    return Heard()


@pytest.fixture(scope="module")
def model(heard: Heard) -> Iterator[Reasoner]:
    with cotcli.load("demo", threads=1, stage_format="none", image_cache=False, on_progress=heard) as model:
        yield model


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """Three pictures."""
    (tmp_path / "pics").mkdir()
    for seed in range(3):
        (tmp_path / "pics" / f"{seed}.png").write_bytes(draw_one(seed).png)
    return batch.from_paths(QUESTION, [str(tmp_path / "pics")])


def ask(model: Reasoner, items: list[Item], output: Path | None, **options: Any) -> batch.Summary:
    params = options.pop("params", GenerationParams(**{**PARAMS, **options.pop("changes", {})}))
    return batch.ask_all(model, items, output, params, **options)


PARAMS: dict[str, Any] = {"temperature": 0.0, "choices": ("yes", "no"), "max_tokens": 16}


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text("utf-8").splitlines()]


def test_what_is_done_is_not_asked_again(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    told: list[str] = []
    first = ask(model, items, output, limit=2, on_record=lambda item, record: told.append(record["id"]))
    assert (first.answered, first.failed, first.left) == (2, 0, 1) and first.ok and first.seconds > 0
    assert told == ids(output) == ["0.png", "1.png"]
    second = ask(model, items, output)
    assert (second.answered, second.answered_before, second.left) == (1, 2, 0)
    third = ask(model, items, output)
    assert (third.answered, third.answered_before, third.seconds, third.per_minute) == (0, 3, 0.0, 0.0)
    with pytest.raises(UsageError, match="temperature"):
        ask(model, items, output, changes={"temperature": 1.0})
    assert ask(model, items, None, on_record=lambda item, record: told.append(record["answer"])).answered == 3
    assert told[2:] == [json.loads(line)["answer"] for line in output.read_text("utf-8").splitlines()]


def test_questions_about_one_picture_encode_it_once(model: Reasoner, heard: Heard, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(draw_one(0).png)
    (tmp_path / "b.png").write_bytes(draw_one(1).png)
    rows = ["a.png,Is there a star?", "a.png,Is there a circle?", "a.png,Is there a cross?", "b.png,Is there a star?"]
    (tmp_path / "q.csv").write_text("\n".join(["image,question", *rows]))
    before = heard.encoded
    assert ask(model, batch.from_questions(tmp_path / "q.csv"), tmp_path / "out.jsonl").answered == 4
    assert heard.encoded - before == 2
    assert ids(tmp_path / "out.jsonl") == ["a.png", "a.png#2", "a.png#3", "b.png"]


def test_the_file_ends_in_the_order_of_the_items(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ask(model, [items[2]], output)
    ask(model, [items[1]], output)
    assert ids(output) == ["2.png", "1.png"], "what nobody asks about comes first"
    ask(model, items, output)
    assert ids(output) == ["0.png", "1.png", "2.png"]


def test_answers_that_end_early_are_written_early(items: list[Item], tmp_path: Path) -> None:
    first, *others = items
    longer = [
        Item(first.id, first.source, "What is in the picture?"),
        *(replace(item, choices=("a", "b")) for item in others),
    ]
    params = GenerationParams(temperature=0.0, max_tokens=12)
    written: dict[str, list[str]] = {"one.jsonl": [], "three.jsonl": []}
    with cotcli.load("demo", threads=1, stage_format="none", image_cache=False, max_sequences=3) as model:
        for name, parallel in (("one.jsonl", 1), ("three.jsonl", 3)):

            def tell(item: Item, record: dict[str, Any], ids: list[str] = written[name]) -> None:
                ids.append(item.id)

            summary = batch.ask_all(model, longer, tmp_path / name, params, parallel=parallel, on_record=tell)
            assert (summary.answered, summary.failed) == (2, 1), "the first is cut"
    assert written == {"one.jsonl": ["0.png", "1.png", "2.png"], "three.jsonl": ["1.png", "2.png", "0.png"]}
    one, three = (
        [{**json.loads(line), "timing_ms": None} for line in (tmp_path / name).read_text("utf-8").splitlines()]
        for name in written
    )
    assert one == three, "in the end, the file is in order"


def test_ctrl_c_on_the_callers_side_keeps_what_was_answered(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"

    def interrupt(item: Item, record: dict[str, Any]) -> None:
        if record["id"] == "1.png":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(model, items, output, on_record=interrupt)
    assert ids(output) == ["0.png", "1.png"]
    assert ask(model, items, output).answered == 1


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to oneself is POSIX")
def test_ctrl_c_lets_a_record_be_told_that_is_in_the_file(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    told: list[str] = []

    def tell(item: Item, record: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        told.append(record["id"])

    with pytest.raises(KeyboardInterrupt):
        ask(model, items, output, on_record=tell)
    assert told == ids(output) == ["0.png"]


def test_a_picture_that_has_changed_is_another(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ask(model, items, output, limit=1)
    assert isinstance(items[0].source, Path)
    data = items[0].source.read_bytes()
    items[0].source.write_bytes(data)
    assert ask(model, items, output, limit=1).answered_before == 1, "written again is not changed"
    before = output.read_bytes()
    items[0].source.write_bytes(draw_one(7).png)
    for options in ({}, {"retry_errors": True}):
        with pytest.raises(UsageError, match=r"0\.png has changed since .*out\.jsonl was made \(0\.png\)"):
            ask(model, items, output, **options)
    assert output.read_bytes() == before
    items[0].source.unlink()
    assert ask(model, items, output).answered_before == 2, "one that is gone is not asked about"


def test_a_picture_whose_failure_is_forgotten_may_have_changed(
    model: Reasoner, items: list[Item], tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    cut = {"choices": None, "max_tokens": 1}
    assert ask(model, [replace(items[0], question="What is in the picture?")], output, changes=cut).failed == 1
    assert json.loads(output.read_text())["image"]["path"] == str(items[0].source)
    assert isinstance(items[0].source, Path)
    items[0].source.write_bytes(draw_one(7).png)
    again = [replace(items[0], question="What is in the picture?")]
    with pytest.raises(UsageError, match="has changed"):
        ask(model, again, output, changes=cut)
    assert ask(model, again, output, changes=cut, retry_errors=True).failed == 1


def test_a_file_is_about_one_question(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    """Also where none of its pictures is asked about."""
    output = tmp_path / "out.jsonl"
    ask(model, items[:1], output)
    before = output.read_bytes()
    with pytest.raises(UsageError, match="the question 'Is there a circle\\?', not 'Is there a star\\?'"):
        ask(model, [replace(item, question="Is there a star?") for item in items[1:]], output)
    with pytest.raises(UsageError, match="the parameter choices"):
        ask(model, items[1:], output, changes={"choices": ("yes", "no", "?")})
    rows = ["1.png,Is there a star?", "2.png,Is there a cross?"]
    (tmp_path / "pics" / "q.csv").write_text("\n".join(["image,question", *rows]))
    with pytest.raises(UsageError, match="other questions, such as 'Is there a circle\\?'") as caught:
        ask(model, batch.from_questions(tmp_path / "pics" / "q.csv"), output)
    assert "overwrite=True" in str(caught.value.hint)
    assert output.read_bytes() == before
    assert ask(model, items, output).answered == 2, "nothing holds its lock"


def test_rows_come_and_go(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    questions, output = tmp_path / "pics" / "q.csv", tmp_path / "out.jsonl"
    rows = ["0.png,Is there a star?,", '1.png,Is there a cross?,"yes,no,?"', "2.png,Is there a circle?,"]
    for kept, answered in ((rows[:2], 2), (rows[1:], 1), (rows[:1] + rows[2:], 0)):
        questions.write_text("\n".join(["image,question,choices", *kept]))
        assert ask(model, batch.from_questions(questions), output).answered == answered
    assert ids(output) == ["1.png", "0.png", "2.png"]


@pytest.mark.parametrize("third", ["Is there a circle?", "Is there a star?"])
def test_rows_may_be_asked_some_at_a_time(model: Reasoner, items: list[Item], tmp_path: Path, third: str) -> None:
    """Also one alone, which as a question of its own would be all that the file takes; and the file may grow."""
    questions, output = tmp_path / "pics" / "q.csv", tmp_path / "out.jsonl"
    lines = ["image,question", "0.png,Is there a star?", "1.png,Is there a star?", f"2.png,{third}"]
    questions.write_text("\n".join(lines[:2]))
    assert ask(model, batch.from_questions(questions), output).answered == 1
    questions.write_text("\n".join(lines))
    rows = batch.from_questions(questions)
    for part, answered in ((rows[2:], 1), (rows[1:2], 1), (rows[:1], 0), (rows, 0)):
        assert ask(model, part, output).answered == answered
        assert ids(output) == sorted(ids(output)), "in the order of the rows, whichever were asked"
    with pytest.raises(UsageError, match="the question 'Is there a star\\?', not 'Is there a cross\\?'"):
        ask(model, [replace(rows[0], question="Is there a cross?")], output)
    questions.write_text("\n".join(lines[:1] + lines[3:]))
    assert ask(model, batch.from_questions(questions), output).answered_before == 1, "or shrink, to one"


def test_overwritten_by_nothing_it_is_empty(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    ask(model, items, output, limit=1)
    with batch.Batch([], batch.RunConfig.of(model.info, model.defaults), batch.BatchOptions(output, True)) as nothing:
        nothing.finish()
    assert output.read_bytes() == b""


@pytest.mark.parametrize("field", ["name", "quant", "sha256", "stage_format", "pair_id", "mmproj_id", "prompt_id"])
def test_all_that_is_known_of_a_model_is_compared(
    model: Reasoner, items: list[Item], tmp_path: Path, field: str
) -> None:
    output = tmp_path / "out.jsonl"
    ask(model, items, output, limit=1)
    record = json.loads(output.read_text())
    assert record["model"][field] == getattr(model.info, field) is not None
    output.write_text(json.dumps({**record, "model": {**record["model"], field: "other"}}) + "\n")
    with pytest.raises(UsageError, match=r"was made with the .* 'other', not"):
        ask(model, items, output)
    del record["model"][field]  # as an earlier release wrote it
    output.write_text(json.dumps(record) + "\n")
    assert ask(model, items, output, limit=1).answered_before == 1


def test_a_schema_that_no_grammar_can_be_made_of_ends_it(model: Reasoner, items: list[Item], tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ask(model, items, tmp_path / "out.jsonl", changes={"choices": None, "json_schema": '{"$ref": "#/nowhere"}'})
    assert not (tmp_path / "out.jsonl").exists()
