"""Several answers at once: each must be what it is alone, whatever runs beside it or goes wrong there."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cotcli
from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from convert import convert
from cotcli.answer import Answer, GenerationParams
from cotcli.engine import Decode, Engine, EngineOptions
from cotcli.errors import ImageError, ResourceError, UsageError
from cotcli.generate import Reasoner, Request
from cotcli.image import LoadedImage, PreparedImage
from cotcli.registry import ResolvedModel
from cotcli.shapes.questions import KINDS, make_question
from cotcli.shapes.scenes import HELD_OUT_SEED, draw, make_scene
from cotcli.specs import ModelSpec
from cotcli.stages import StageDelta, StageEnd, StageEvent

Items = list[tuple[Request, Any]]


@pytest.fixture(scope="module")
def demo() -> Iterator[Reasoner]:
    with cotcli.load("demo", max_sequences=3) as model:
        yield model


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A random model in F32, whose greedy text never ends."""
    folder = tmp_path_factory.mktemp("together")
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400)
    tensors = random_tensors(recipe)
    tensors["language_model.lm_head.weight"][-7:] = 0  # special tokens: never the likeliest
    write_checkpoint(folder / "checkpoint", recipe, tensors)
    converted = convert(folder / "checkpoint", folder, "f32", name="random")
    return converted.language, converted.mmproj


def reasoner(files: tuple[Path, Path], context: int = 512, **extra: Any) -> Reasoner:
    options = EngineOptions(threads=1, context_length=context, max_sequences=3)
    return Reasoner(ResolvedModel(ModelSpec("random", stage_format="none"), "F32", *files), options, **extra)


@pytest.fixture(scope="module")
def endless(files: tuple[Path, Path]) -> Iterator[Reasoner]:
    with reasoner(files) as model:
        yield model


PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40 + 20 * seed, 3), np.uint8))
    for seed in range(4)
]
GREEDY = GenerationParams(temperature=0.0, max_tokens=4000)


def answers(items: Items) -> dict[Any, Any]:
    """What each request ended with, by its key."""
    return {request.key: item for request, item in items if not isinstance(item, StageEvent)}


def text_of(items: Items, key: Any) -> str:
    return "".join(item.text for request, item in items if request.key == key and isinstance(item, StageDelta))


def end_of(items: Items, key: Any) -> int:
    """Where among all items a request's last one is."""
    return max(place for place, (request, _) in enumerate(items) if request.key == key)


def scene_requests(tmp_path: Path) -> list[Request]:
    """Two questions each about three scenes, with every kind of limit, and pictures that are none among them."""
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    variants: list[dict[str, Any]] = [
        {},
        {"stage_max_tokens": (("caption", 12), ("reasoning", 9))},
        {"choices": ("A", "B", "none")},
        {"max_tokens": 30},
        {"json_schema": '{"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}'},
        {},
    ]
    requests = []
    for number, overrides in enumerate(variants):
        scene = make_scene(3 * HELD_OUT_SEED + number // 2)
        question = make_question(scene, random.Random(number), KINDS[number % len(KINDS)])
        params = GenerationParams(**{"temperature": 0.0, "max_tokens": 400, **overrides})
        requests.append(Request(draw(scene), question.text, params, key=number))
    return [*requests[:3], Request(broken, "What?", key="broken"), *requests[3:], Request("no/such.png", "?", key="no")]


def test_together_is_as_alone(demo: Reasoner, tmp_path: Path) -> None:
    """The bundled model, greedy: text, stages and reason are those of `ask`, in whatever company."""
    requests = scene_requests(tmp_path)
    alone = {
        request.key: demo.ask(request.image, request.question, request.params)
        for request in requests
        if isinstance(request.key, int)
    }
    assert {answer.finish_reason for answer in alone.values()} == {"stop", "stage_length", "length"}
    for parallel in (1, 3):
        items = list(demo.stream_all(requests, parallel))
        given = answers(items)
        assert isinstance(given.pop("broken"), ImageError) and isinstance(given.pop("no"), ImageError)
        assert given.keys() == alone.keys()
        for key, answer in given.items():
            expected = alone[key]
            assert (answer.raw, answer.stages, answer.finish_reason, answer.cut_in, answer.usage, answer.image) == (
                *(expected.raw, expected.stages, expected.finish_reason, expected.cut_in, expected.usage),
                expected.image,
            )
            events = [item for request, item in items if request.key == key]
            assert events[-1] is answer and sum(isinstance(event, Answer) for event in events) == 1


def test_a_sampled_answer_has_its_own_dice(endless: Reasoner) -> None:
    hot = GenerationParams(temperature=1.0, top_p=1.0, max_tokens=30)
    requests = [Request(PICTURES[seed % 2], "Why?", replace(hot, seed=seed), key=seed) for seed in range(5)]
    together = answers(list(endless.stream_all(requests, 3)))
    assert len({answer.raw for answer in together.values()}) == 5
    for request in requests:
        assert together[request.key].raw == endless.ask(request.image, request.question, request.params).raw


def test_a_free_place_is_taken_at_once(endless: Reasoner) -> None:
    limits = {"long": 60, "a": 10, "b": 10, "c": 10}
    requests = [
        Request(PICTURES[0], "?", GenerationParams(temperature=0.0, max_tokens=limit), key=key)
        for key, limit in limits.items()
    ]
    items = list(endless.stream_all(requests, 2))
    order = [request.key for request, item in items if isinstance(item, Answer)]
    assert order == ["a", "b", "c", "long"]
    first = {key: next(place for place, (request, _) in enumerate(items) if request.key == key) for key in limits}
    assert first["a"] < end_of(items, "a") < first["b"] < end_of(items, "b") < first["c"]
    for key, answer in answers(items).items():
        assert answer.usage.completion_tokens == limits[key] and text_of(items, key) == answer.raw


def test_long_prompts_and_steps_take_turns(endless: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of many passes holds up nobody's next token for more than one of them, nor do steps hold up prompts."""
    passes: list[list[tuple[int, int]]] = []
    advance = Engine.advance

    def watched(self: Engine, requests: Sequence[Decode], *, every: bool = False) -> list[int]:
        counts = advance(self, requests, every=every)
        taken = [(sequence.id, count) for (sequence, _), count in zip(requests, counts, strict=True) if count]
        passes.append(sorted(taken))
        return counts

    monkeypatch.setattr(Engine, "advance", watched)
    short = GenerationParams(temperature=0.0, max_tokens=12)
    requests = [
        *(Request(PICTURES[0], "?", short, key=key) for key in range(2)),
        Request(PICTURES[0], "why " * 100, short, key=2),
    ]
    assert len(answers(list(endless.stream_all(requests, 3)))) == 3
    room = endless.engine.ubatch
    chunks = [place for place, taken in enumerate(passes) if taken == [(2, room)]]
    assert len(chunks) >= 2
    for place, following in pairwise(chunks):
        assert passes[place + 1 : following] == [[(0, 1), (1, 1)]]
    assert [(0, 1), (1, 1), (2, 1)] in passes


def test_requests_are_asked_for_as_they_are_needed(endless: Reasoner) -> None:
    asked: list[int] = []

    def for_ever() -> Iterator[Request]:
        for number in count():
            asked.append(number)
            yield Request(PICTURES[number % 2], "?", GenerationParams(temperature=0.0, max_tokens=3), key=number)

    stream = endless.stream_all(for_ever(), 2)
    assert asked == []
    done = 0
    for _, item in stream:
        done += isinstance(item, Answer)
        assert len(asked) <= done + 2 + 2  # running, read ahead
        if done == 6:
            break
    stream.close()
    assert len(endless.ask(PICTURES[0], "again?", GREEDY, max_tokens=5).raw) > 0
    sequences = [endless.engine.sequence() for _ in range(3)]  # none is left behind
    for sequence in sequences:
        endless.engine.drop(sequence)


def test_a_request_is_begun_before_the_next_is_asked_for(files: tuple[Path, Path]) -> None:
    told: list[str] = []
    brief = GenerationParams(temperature=0.0, max_tokens=3)

    def requests() -> Iterator[Request]:
        for number in range(3):
            told.append(f"asked {number}")
            yield Request(PICTURES[number], "?", brief, key=number)

    with reasoner(files, on_progress=lambda phase, done, _: told.append(f"{phase} {done}")) as model:
        told.clear()
        assert len(answers(list(model.stream_all(requests())))) == 3
    assert told.index("asked 0") < told.index("image 0") < told.index("prompt 0") < told.index("asked 1")


def test_a_known_picture_that_waits_for_its_turn_is_small(endless: Reasoner, tmp_path: Path) -> None:
    kept = {}
    for side in (300, 2000):
        Image.new("RGB", (side, side), "red").save(tmp_path / f"{side}.png")
        endless.encode(tmp_path / f"{side}.png")
        kept[side] = endless._pictures.read(tmp_path / f"{side}.png").pixels
    assert isinstance(kept[300], LoadedImage) and isinstance(kept[2000], PreparedImage)


def test_one_picture_is_encoded_once_and_freed(files: tuple[Path, Path], tmp_path: Path) -> None:
    paths = []
    for name in ("a.png", "copy of a.png"):
        PICTURES[0].save(tmp_path / name)
        paths.append(tmp_path / name)
    PICTURES[1].save(tmp_path / "b.png")
    encoded: list[int] = []
    brief = GenerationParams(temperature=0.0, max_tokens=20)
    with reasoner(
        files, on_progress=lambda phase, done, _: encoded.append(done) if phase == "image" else None
    ) as model:
        order = [paths[0], paths[0], paths[1], tmp_path / "b.png", paths[0], tmp_path / "b.png"]
        requests = [Request(path, "?", brief, key=key) for key, path in enumerate(order)]
        items = list(model.stream_all(requests, 3))
        assert encoded.count(0) == 3  # the last question about a comes when nobody needs it any more
        given = answers(items)
        assert [given[key].image.path for key in range(6)] == list(map(str, order))
        assert given[0].raw == given[2].raw == given[4].raw and given[3].raw == given[5].raw
        gc.collect()
        assert sum(image.alive for image in model.engine._images) == 1  # the last, kept for the next question
        encoded.clear()
        model.ask(tmp_path / "b.png", "And now?", brief)
        assert encoded == []


def test_ctrl_c_ends_all_that_are_written(endless: Reasoner) -> None:
    """A real one, at whatever instant; requests without end, of different lengths, so that one is always written."""
    requests = (Request(PICTURES[key % 4], "why " * (1 + key % 7), GREEDY, key=key) for key in count())
    stream = endless.stream_all(requests, 2)
    items: Items = []
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    try:
        items.append(next(stream))
        timer.start()
        items.extend(stream)
    except KeyboardInterrupt:  # it may hit this test instead
        items += [stream.throw(KeyboardInterrupt()), *stream]
    finally:
        timer.cancel()
        timer.join()
    given = answers(items)
    reasons = [answer.finish_reason for answer in given.values()]
    assert 1 <= reasons.count("interrupted") <= 2, "the ones that were being written"
    for key, answer in given.items():  # a fast machine fills contexts first
        assert answer.finish_reason in ("interrupted", "context") and text_of(items, key) == answer.raw
    assert endless.ask(PICTURES[0], "again?", GREEDY, max_tokens=5).raw


def test_ctrl_c_thrown_in_ends_all_that_are_written(endless: Reasoner) -> None:
    stream = endless.stream_all((Request(picture, "?", GREEDY, key=id(picture)) for picture in PICTURES), 2)
    items: Items = []
    for item in stream:
        items.append(item)
        if len({request.key for request, _ in items}) == 2:
            break
    items += [stream.throw(KeyboardInterrupt()), *stream]
    given = answers(items)
    assert [answer.finish_reason for answer in given.values()] == ["interrupted"] * 2
    for key, answer in given.items():
        assert text_of(items, key) == answer.raw
        assert [item for request, item in items if request.key == key][-2] == StageEnd("conclusion", True)


def test_ctrl_c_before_any_text_comes_out_again(endless: Reasoner) -> None:
    def interrupt(number: int) -> Request:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(endless.stream_all(map(interrupt, [0]), 2))


def test_an_error_of_the_callers_requests_comes_out(endless: Reasoner) -> None:
    def broken() -> Iterator[Request]:
        yield Request(PICTURES[0], "?", GREEDY)
        raise LookupError("row 2")

    with pytest.raises(LookupError, match="row 2"):
        list(endless.stream_all(broken(), 2))
    assert not list(endless.engine._sequences)


@pytest.mark.parametrize("parallel", [1, 2])
def test_answers_do_not_wait_for_the_next_request(endless: Reasoner, parallel: int) -> None:
    """The next comes when all of these are answered, and not before."""
    done = threading.Event()
    brief = GenerationParams(temperature=0.0, max_tokens=5)

    def live() -> Iterator[Request]:
        for key in range(parallel):
            yield Request(PICTURES[key], "?", brief, key=key)
        assert done.wait(60)
        yield Request(PICTURES[3], "?", brief, key="last")

    order = []
    for request, item in endless.stream_all(live(), parallel):
        if isinstance(item, Answer):
            order.append(request.key)
            if len(order) == parallel:
                done.set()
    assert order[-1] == "last" and set(order[:-1]) == set(range(parallel))


def test_a_question_too_long_is_only_its_own_error(endless: Reasoner) -> None:
    brief = GenerationParams(temperature=0.0, max_tokens=20)
    texts = ["Why?", "why " * 600, "Who?"]
    requests = [Request(PICTURES[0], text, brief, key=key) for key, text in enumerate(texts)]
    given = answers(list(endless.stream_all(requests, 3)))
    assert isinstance(given[1], ResourceError) and "context" in given[1].message
    assert [given[key].usage.completion_tokens for key in (0, 2)] == [20, 20]


def test_each_has_a_context_of_its_own(files: tuple[Path, Path]) -> None:
    with reasoner(files, context=100) as model:
        requests = [Request(PICTURES[key], "?", GREEDY, key=key) for key in range(3)]
        given = answers(list(model.stream_all(requests, 3)))
        for answer in given.values():
            assert answer.finish_reason == "context"
            assert answer.usage.prompt_tokens + answer.usage.completion_tokens == 100


def test_a_pass_that_fails_for_one_is_only_its_own_error(endless: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Engine.advance

    def failing(self: Engine, requests: Sequence[Decode], *, every: bool = False) -> list[int]:
        if any(sequence.image and sequence.image.n_real == bad and sequence.length > 40 for sequence, _ in requests):
            raise MemoryError("no room for a graph")
        return advance(self, requests, every=every)

    bad = endless.encode(PICTURES[3]).kv.n_real
    assert bad != endless.encode(PICTURES[0]).kv.n_real
    monkeypatch.setattr(Engine, "advance", failing)
    brief = GenerationParams(temperature=0.0, max_tokens=50)
    requests = [Request(PICTURES[key], "?", brief, key=key) for key in (0, 3, 0)]
    given = answers(list(endless.stream_all(requests, 3)))
    assert isinstance(given[3], ResourceError) and given[3].message == "out of memory"
    assert given[0].usage.completion_tokens == 50
    monkeypatch.undo()
    assert given[0].raw == endless.ask(PICTURES[0], "?", brief).raw


@pytest.mark.parametrize("parallel", [0, 4])
def test_no_more_at_once_than_there_are_sequences(endless: Reasoner, parallel: int) -> None:
    with pytest.raises(UsageError, match="parallel must be 1 to 3"):
        endless.stream_all([], parallel)


def test_nothing_to_ask(endless: Reasoner) -> None:
    assert list(endless.stream_all([], 2)) == []
