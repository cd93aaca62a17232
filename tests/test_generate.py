"""The data path as a whole on a random model: it writes garbage, of which everything promised must still hold."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from convert import convert
from cotcli.answer import Answer, GenerationParams
from cotcli.engine import Decode, EngineOptions
from cotcli.errors import CotcliError, ImageError, ResourceError, UsageError
from cotcli.generate import Reasoner
from cotcli.registry import ResolvedModel
from cotcli.specs import ModelSpec
from cotcli.stages import TAGS, StageDelta, StageEnd, StageEvent, StageStart
from cotcli.writer import AnswerWriter


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("generate")
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400)
    tensors = random_tensors(recipe)
    tensors["language_model.lm_head.weight"][-7:] = 0  # special tokens: never the likeliest, so greedy text never ends
    write_checkpoint(folder / "checkpoint", recipe, tensors)
    converted = convert(folder / "checkpoint", folder, "f32", name="random")
    return converted.language, converted.mmproj


def reasoner(files: tuple[Path, Path], stage_format: str = "tags", context: int = 512, **extra: Any) -> Reasoner:
    spec = ModelSpec("random", stage_format=stage_format, bos_count=2)
    return Reasoner(ResolvedModel(spec, "F32", *files), EngineOptions(threads=1, context_length=context), **extra)


@pytest.fixture(scope="module")
def tagged(files: tuple[Path, Path]) -> Iterator[Reasoner]:
    with reasoner(files) as model:
        yield model


@pytest.fixture(scope="module")
def plain(files: tuple[Path, Path]) -> Iterator[Reasoner]:
    with reasoner(files, "none") as model:
        yield model


PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))
GREEDY = GenerationParams(temperature=0.0, max_tokens=4000)
SAMPLED = GenerationParams(temperature=1.0, top_p=1.0, seed=1, max_tokens=40)


def test_events_carry_all_text_and_end_with_the_answer(tagged: Reasoner) -> None:
    *events, answer = tagged.stream(PICTURE, "What is this?", GREEDY, max_tokens=40)
    assert isinstance(answer, Answer)
    assert answer.usage.completion_tokens == 40 and answer.finish_reason == "length"
    assert "".join(event.text for event in events if isinstance(event, StageDelta)) == answer.raw
    assert answer.raw and not answer.ok and answer.answer == ""
    assert answer.image is not None and (answer.image.width, answer.image.height) == (90, 40)
    assert answer.timing.image > 0 and answer.timing.decode > 0


def test_same_seed_same_text_and_another_seed_another(tagged: Reasoner) -> None:
    first = tagged.ask(PICTURE, "What?", SAMPLED)
    assert tagged.ask(PICTURE, "What?", SAMPLED).raw == first.raw
    assert tagged.ask(PICTURE, "What?", SAMPLED, seed=2).raw != first.raw


def test_the_same_picture_is_encoded_once(files: tuple[Path, Path]) -> None:
    phases: list[str] = []
    with reasoner(files, on_progress=lambda phase, done, total: phases.append(phase)) as model:
        model.ask(PICTURE, "One?", SAMPLED)
        assert phases.count("image") == 6  # three local layers, two global ones, and the start
        model.ask(PICTURE, "Two?", SAMPLED)
        assert phases.count("image") == 6
        model.ask(PICTURE.rotate(90, expand=True), "Three?", SAMPLED)
        assert phases.count("image") == 12


def test_choices_bind_a_model_that_would_say_anything(plain: Reasoner) -> None:
    said = {plain.ask(PICTURE, "?", SAMPLED, choices=("A", "dark blue", "Ü"), seed=seed).answer for seed in range(12)}
    assert said <= {"A", "dark blue", "Ü"} and len(said) > 1


def test_choices_open_the_conclusion_when_the_model_does_not(tagged: Reasoner) -> None:
    """So hot that it soon happens to end its turn; the conclusion it owes is then asked of it."""
    answer = tagged.ask(PICTURE, "?", GenerationParams(temperature=5.0, top_p=1.0, max_tokens=4000), choices=("A", "B"))
    assert answer.answer in ("A", "B")
    assert answer.finish_reason == "stop" and answer.ok
    assert re.search(r"\n\n<CONCLUSION>[ \n]?[AB][ \n]?</CONCLUSION>$", answer.raw)


def test_schema_makes_json(plain: Reasoner) -> None:
    schema = {
        "type": "object",
        "properties": {"count": {"type": "integer"}, "colour": {"enum": ["red", "blue"]}},
        "required": ["count", "colour"],
        "additionalProperties": False,
    }
    answer = plain.ask(PICTURE, "?", SAMPLED, json_schema=json.dumps(schema), max_tokens=200)
    record = json.loads(answer.answer)
    assert isinstance(record["count"], int) and record["colour"] in ("red", "blue") and answer.finish_reason == "stop"


@pytest.mark.parametrize("form", ["tags", "none"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"conclusion": {"enum": ["a", "b"]}}, "required": ["conclusion"]},
        {"type": "object", "properties": {"value": {"type": "null"}, "root": {"const": 1}}, "required": ["value"]},
        {"type": "array", "items": {"type": "boolean"}, "maxItems": 3},
    ],
    ids=lambda schema: "-".join(schema),
)
def test_schemas_whose_rules_might_be_called_as_ours(
    tagged: Reasoner, plain: Reasoner, form: str, schema: dict[str, Any]
) -> None:
    model = tagged if form == "tags" else plain
    hot = GenerationParams(temperature=5.0, top_p=1.0, max_tokens=450)
    for seed in range(4):
        answer = model.ask(PICTURE, "?", hot, seed=seed, json_schema=json.dumps(schema))
        if answer.ok and answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.answer), schema)


def test_text_of_ours_that_no_longer_fits_ends_the_answer(files: tuple[Path, Path]) -> None:
    """A stage's limit is reached with too little context left for its closing tag: nothing is lost."""
    with reasoner(files, context=256) as model:
        room = 256 - len(model.prompt("?", model.encode(PICTURE)))
        for spare in range(4):
            writer = _writer(model, stage_max_tokens=(("caption", room - spare - 9),))
            events = written(model, writer.write())
            assert writer.finish_reason in ("context", "stage_length")
            assert "".join(e.text for e in events if isinstance(e, StageDelta)) in writer.parser.raw
            assert writer.parser.raw.startswith("<CAPTION>") and len(writer.parser.raw) > 50
            model.engine.drop(writer._sequence)


def _writer(model: Reasoner, **params: Any) -> AnswerWriter:
    """A writer whose answer has begun with a caption."""
    sequence = model.engine.sequence(model.encode(PICTURE).kv)
    model.engine.prefill(sequence, model.prompt("?", model.encode(PICTURE)))
    writer = AnswerWriter(
        model.engine, sequence, TAGS, GenerationParams(temperature=0.0, max_tokens=4000, **params), lambda *_: None
    )
    assert written(model, writer._force("<CAPTION>")) == [StageStart("caption")]
    return writer


def written(model: Reasoner, writing: Iterator[StageEvent | Decode]) -> list[StageEvent]:
    """The events of a piece of writing whose tokens are decoded as it asks for them."""
    events = []
    for item in writing:
        if isinstance(item, Decode):
            model.engine.prefill(*item)
        else:
            events.append(item)
    return events


def test_unfinished_character_stays_in_its_stage(tagged: Reasoner) -> None:
    writer = _writer(tagged)
    assert writer._decoder.decode("数".encode()[:2]) == ""
    written(tagged, writer._force("</CAPTION>"))
    assert writer.parser.stages["caption"] == "\N{REPLACEMENT CHARACTER}"
    tagged.engine.drop(writer._sequence)


def test_question_with_bytes_that_are_no_text(tagged: Reasoner) -> None:
    assert tagged.ask(PICTURE, "what\udcff?", SAMPLED).question == "what\udcff?"


def test_a_stage_of_its_own_limit(plain: Reasoner) -> None:
    answer = plain.ask(PICTURE, "?", GREEDY, stage_max_tokens=(("conclusion", 5),))
    assert answer.finish_reason == "stage_length" and answer.cut_in == "conclusion" and not answer.ok
    assert answer.usage.completion_tokens in (5, 6)


def test_full_context_ends_the_answer(files: tuple[Path, Path]) -> None:
    with reasoner(files, "none", context=256) as model:
        answer = model.ask(PICTURE, "?", GREEDY)
        assert answer.finish_reason == "context"
        assert answer.usage.prompt_tokens + answer.usage.completion_tokens == 256


def test_question_too_long_for_the_context(files: tuple[Path, Path]) -> None:
    with reasoner(files, context=256) as model:
        with pytest.raises(ResourceError, match="context"):
            model.ask(PICTURE, "why " * 400, SAMPLED)
        assert model.ask(PICTURE, "why?", SAMPLED).raw  # and it goes on working


def test_ctrl_c_keeps_what_was_written(plain: Reasoner) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    stream = plain.stream(PICTURE, "?", GREEDY)
    events: list[Any] = []
    timer.start()
    try:
        for event in stream:
            events.append(event)
    except KeyboardInterrupt:  # it may also hit this loop; what then happens is up to the caller
        events += [stream.throw(KeyboardInterrupt()), *stream]
    finally:
        timer.cancel()
        timer.join()
    answer = events[-1]
    assert isinstance(answer, Answer)
    if answer.finish_reason != "context":  # a fast machine fills the context first
        assert answer.finish_reason == "interrupted" and not answer.ok
    assert "".join(event.text for event in events if isinstance(event, StageDelta)) == answer.raw
    assert plain.ask(PICTURE, "again?", SAMPLED).raw


def test_throwing_an_interrupt_into_the_stream_ends_it_with_the_answer(plain: Reasoner) -> None:
    stream = plain.stream(PICTURE, "?", GREEDY)
    assert next(stream) == StageStart("conclusion")
    rest = [stream.throw(KeyboardInterrupt()), *stream]
    assert rest[-2] == StageEnd("conclusion", True) or rest[0] == StageEnd("conclusion", True)
    assert isinstance(rest[-1], Answer) and rest[-1].finish_reason == "interrupted"


def test_abandoned_streams_free_their_sequences(plain: Reasoner) -> None:
    for _ in range(20):  # more than there are sequences
        stream = plain.stream(PICTURE, "?", SAMPLED)
        next(stream)
        stream.close()


def test_text_only_question(tagged: Reasoner) -> None:
    answer = tagged.ask(None, "Is that so?", SAMPLED)
    assert answer.image is None and answer.usage.image_tiles == 0 and answer.raw


def test_score_is_the_log_softmax_of_the_engine(tagged: Reasoner) -> None:
    """Against logits read one token at a time, softmax in NumPy."""
    score = tagged.score(PICTURE, "What?", "<SUMMARY>häh</SUMMARY>")
    assert b"".join(tagged.engine.model.token_bytes(t.id) for t in score.tokens).decode() == "<SUMMARY>häh</SUMMARY>"
    encoded = tagged.encode(PICTURE)
    sequence = tagged.engine.sequence(encoded.kv)
    tokens = tagged.prompt("What?", encoded)
    for token in score.tokens:
        tagged.engine.extend([(sequence, tokens)])
        row = tagged.engine.logits(sequence).astype(np.float64)
        assert token.logprob == pytest.approx(row[token.id] - np.log(np.exp(row).sum()), abs=2e-4)
        tokens = [token.id]
    tagged.engine.drop(sequence)
    assert score.perplexity == pytest.approx(np.exp(-np.mean([t.logprob for t in score.tokens])))
    with pytest.raises(UsageError, match="no answer"):
        tagged.score(PICTURE, "What?", "")


def test_a_picture_that_is_none(tagged: Reasoner, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>404</html>")
    with pytest.raises(ImageError):
        tagged.ask(tmp_path / "page.png", "What?", SAMPLED)


def test_a_closed_model_says_so(files: tuple[Path, Path]) -> None:
    with reasoner(files) as model:
        stream = model.stream(PICTURE, "?", GREEDY)
        next(stream)
    for use in (lambda: list(stream), lambda: model.ask(None, "?"), lambda: model.score(None, "?", "x")):
        with pytest.raises(CotcliError, match="closed"):
            use()
