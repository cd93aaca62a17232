"""The engine against stored transformers values, and what happens to sequences when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from cotcli.engine import Decode, Engine, EngineOptions, TokenSequence
from cotcli.errors import CotcliError, ModelError, ResourceError, UsageError
from cotcli.mllama import chunks, cross_attention, weights
from cotcli.mllama.cross_attention import CrossAttentionLayer, ImageKV
from cotcli.native import ggml_backend
from cotcli.native.ggml_backend import GraphAllocator
from tests.engine_cases import CASES, KEPT_ROWS, KEPT_TOKENS, RECIPES, Case

GOLDEN = np.load(Path(__file__).parent / "data" / "engine_golden.npz")
TOLERANCE = 1e-5
OPTIONS = EngineOptions(threads=1, ubatch=48, context_length=512, max_sequences=6)


def relative_error(ours: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    return float(np.linalg.norm(ours.astype(np.float64) - reference) / np.linalg.norm(reference))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    made: dict[str, tuple[Path, Path]] = {}

    def pair(name: str) -> tuple[Path, Path]:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write_checkpoint(folder / "checkpoint", RECIPES[name])
            converted = convert(folder / "checkpoint", folder, "f32", name=name)
            made[name] = converted.language, converted.mmproj
        return made[name]

    return pair


@pytest.fixture(scope="module")
def engine(pairs: Callable[[str], tuple[Path, Path]]) -> Iterator[Engine]:
    with Engine(*pairs("gqa2-llama3"), OPTIONS) as engine:
        yield engine


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


ROW, SQUARE = case_named("gqa2-llama3-row"), case_named("gqa2-llama3-square")
TEXT = case_named("gqa2-llama3-text")


def load_image(engine: Engine, case: Case) -> ImageKV | None:
    picture = case.picture
    if picture is None:
        return None
    return engine.load_image(engine.encode(picture), picture.num_tiles)  # type: ignore[arg-type]


def start(engine: Engine, case: Case) -> TokenSequence:
    """A sequence that alone holds the case's image."""
    image = load_image(engine, case)
    sequence = engine.sequence(image)
    if image is not None:
        engine.release_image(image)
    return sequence


def step(engine: Engine, tokens: Sequence[tuple[TokenSequence, int]]) -> None:
    """One token each."""
    engine.extend([(sequence, [token]) for sequence, token in tokens])


def check_logits(engine: Engine, case: Case, tolerance: float = TOLERANCE) -> None:
    sequence = start(engine, case)
    ours = np.stack([row.copy() for row in engine.each_logits(sequence, case.tokens)])
    engine.drop(sequence)
    assert relative_error(ours[KEPT_TOKENS], GOLDEN[f"{case.name}/logits"]) <= tolerance


@pytest.mark.parametrize("name", RECIPES)
def test_states_and_logits_are_those_of_transformers(pairs: Callable[[str], tuple[Path, Path]], name: str) -> None:
    with Engine(*pairs(name), OPTIONS) as engine:
        for case in (case for case in CASES if case.recipe == name):
            if case.picture is not None:
                states = engine.encode(case.picture)  # type: ignore[arg-type]
                assert relative_error(states[KEPT_ROWS], GOLDEN[f"{case.name}/states"]) <= TOLERANCE
            check_logits(engine, case)


def test_work_cut_into_many_graphs_gives_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 11B shapes every layer is cut; here only with a smaller measure."""
    monkeypatch.setattr(cross_attention, "CPU_FLOPS", 1.0)
    monkeypatch.setattr(chunks, "_TILE", 5)
    states = engine.encode(SQUARE.picture)  # type: ignore[arg-type]
    assert relative_error(states[KEPT_ROWS], GOLDEN[f"{SQUARE.name}/states"]) <= TOLERANCE
    check_logits(engine, SQUARE)


def test_two_images_and_a_text_share_batches(engine: Engine) -> None:
    """All prompts but their last tokens at once, then the last tokens in one step."""
    cases = [ROW, SQUARE, TEXT]
    ends = [len(case.tokens[KEPT_TOKENS]) * 4 - 4 for case in cases]  # of these tokens golden logits are kept
    sequences = [start(engine, case) for case in cases]
    engine.extend([(s, case.tokens[:end]) for s, case, end in zip(sequences, cases, ends, strict=True)])
    step(engine, [(s, case.tokens[end]) for s, case, end in zip(sequences, cases, ends, strict=True)])
    for sequence, case in zip(sequences, cases, strict=True):
        assert relative_error(engine.logits(sequence), GOLDEN[f"{case.name}/logits"][-1]) <= TOLERANCE
        engine.drop(sequence)


def test_forks_share_a_prefix_and_then_part(engine: Engine) -> None:
    sequence = start(engine, ROW)
    engine.prefill(sequence, ROW.tokens[:60])
    twin = engine.fork(sequence)
    other = engine.fork(sequence)
    step(engine, [(other, 5), (twin, ROW.tokens[60])])  # 5 must not leak into the twin
    engine.drop(sequence)
    step(engine, [(twin, ROW.tokens[61])])
    engine.drop(other)
    for token in ROW.tokens[62:69]:
        step(engine, [(twin, token)])
    assert relative_error(engine.logits(twin), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(twin)


def test_the_last_takes_the_place_of_one_that_has_ended(engine: Engine) -> None:
    """With an image, without one, and before its image: three kinds of columns in one pass, with a gap between them."""
    with_image, ended, text, before = (start(engine, case) for case in (ROW, SQUARE, TEXT, SQUARE))
    engine.extend([(ended, SQUARE.tokens[:3]), (with_image, ROW.tokens[:68]), (text, TEXT.tokens[:36])])
    engine.prefill(before, SQUARE.tokens[:60])
    engine.drop(ended)
    assert [sequence.id for sequence in (with_image, text, before)] == [0, 2, 3]
    kept = ((with_image, ROW, 17), (text, TEXT, 9), (before, SQUARE, 15))  # of every fourth token
    assert engine.advance([Decode(sequence, [case.tokens[4 * row]]) for sequence, case, row in kept]) == [1, 1, 1]
    assert [sequence.id for sequence in (with_image, before, text)] == [0, 1, 2]
    for sequence, case, row in kept:
        assert relative_error(engine.logits(sequence), GOLDEN[f"{case.name}/logits"][row]) <= TOLERANCE
        engine.drop(sequence)


def test_moves_are_not_felt(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pass that fails, of a fork whose source has gone before any pass, and before tokens are taken back."""
    ended, other, source = start(engine, SQUARE), start(engine, SQUARE), start(engine, ROW)
    engine.extend([(ended, [1]), (other, [1]), (source, ROW.tokens[:40])])
    twin = engine.fork(source)
    engine.drop(ended)
    engine.drop(source)  # their places are 0 and 2, the twin's is 3
    together = [Decode(other, [1]), Decode(twin, ROW.tokens[40:41])]

    def fail(*_: object) -> int:
        raise MemoryError("no room for a graph")

    with monkeypatch.context() as patch:
        patch.setattr(CrossAttentionLayer, "update", fail)
        with pytest.raises(MemoryError):
            engine.advance([Decode(other, [1, 2]), Decode(twin, ROW.tokens[40:42])])
    assert (twin.id, other.id, twin.length, other.length) == (0, 1, 40, 1)
    assert engine.advance(together) == [1, 1]
    third = engine.sequence()
    engine.drop(other)
    assert engine.advance([Decode(third, [1]), Decode(twin, [9])]) == [1, 1]
    assert sorted((third.id, twin.id)) == [0, 1]
    engine.truncate(twin, 41)
    engine.prefill(twin, ROW.tokens[41:69])
    assert relative_error(engine.logits(twin), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(twin)
    engine.drop(third)


def test_only_neighbours_of_as_many_tokens_share_a_pass(engine: Engine) -> None:
    first, second, third = (engine.sequence() for _ in range(3))
    assert engine.advance([Decode(first, [1, 2]), Decode(third, [1, 2]), Decode(second, [1])]) == [2, 0, 0]
    assert engine.advance([Decode(third, [1]), Decode(first, [1, 2]), Decode(second, [1])]) == [1, 0, 1]
    assert engine.advance([Decode(third, [4] * 20), Decode(second, [5] * 20), Decode(first, [6] * 20)]) == [20, 20, 0]
    assert engine.advance([Decode(first, [1] * 99)]) == [engine.ubatch]
    for sequence in (first, second, third):
        engine.drop(sequence)


@pytest.mark.parametrize("kind", ["q4_k_m", "q6_k"])
def test_logits_are_the_same_in_any_company(kind: str, tmp_path: Path) -> None:
    """Equal to the bit, on a CPU, with K-quants: of some other types ggml sums one column in an order of its own."""
    recipe = Recipe(hidden_size=256, intermediate_size=512, heads=8, kv_heads=4, vocab_size=300)
    write_checkpoint(tmp_path / "checkpoint", recipe)
    pair = convert(tmp_path / "checkpoint", tmp_path, kind, name=kind)
    rng = np.random.default_rng(3)
    lengths = (31, 290, 77, *[20] * 9, 9)
    texts = [[int(token) for token in rng.integers(0, 256, length)] for length in lengths]

    def run(engine: Engine, texts: Sequence[list[int]]) -> list[list[bytes]]:
        """The logits after all but the last eight tokens of each, and after each of those."""
        image = load_image(engine, ROW)
        assert image is not None
        sequences = [engine.sequence(image) for _ in texts]
        engine.release_image(image)
        engine.extend([(sequence, [1, 2, 3, 4, 5]) for sequence in sequences])
        engine.extend([(sequence, [engine.image_token]) for sequence in sequences])
        seen: list[list[bytes]] = [[] for _ in texts]
        for due in ([text[:-8] for text in texts], *([[text[place]] for text in texts] for place in range(-8, 0))):
            ahead = [Decode(*one) for one in zip(sequences, due, strict=True)]
            while any(tokens for _, tokens in ahead):
                counts = engine.advance(ahead)
                ahead = [Decode(sequence, tokens[n:]) for (sequence, tokens), n in zip(ahead, counts, strict=True)]
                for rows, (sequence, tokens), count in zip(seen, ahead, counts, strict=True):
                    if count and not tokens:
                        rows.append(engine.logits(sequence).tobytes())
        for sequence in sequences:
            engine.drop(sequence)
        return seen

    options = EngineOptions(threads=2, context_length=512, max_sequences=len(texts))
    with Engine(pair.language, pair.mmproj, options) as engine:
        alone = [run(engine, [text])[0] for text in texts]
        for count in (2, 4, 9, len(texts)):
            assert run(engine, texts[:count]) == alone[:count]
        assert run(engine, texts[::-1]) == alone[::-1]


def test_truncated_sequence_goes_on_as_if_nothing_had_been(engine: Engine) -> None:
    sequence = start(engine, ROW)
    engine.prefill(sequence, [*ROW.tokens[:50], 1, 2, 3, 4])
    engine.truncate(sequence, 50)
    engine.prefill(sequence, ROW.tokens[50:69])
    assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(sequence)


def test_truncating_before_the_image_takes_it_back(engine: Engine) -> None:
    sequence = start(engine, SQUARE)  # its image comes at 66
    engine.prefill(sequence, SQUARE.tokens[:80])
    engine.truncate(sequence, 40)
    engine.prefill(sequence, SQUARE.tokens[40:149])
    assert relative_error(engine.logits(sequence), GOLDEN[f"{SQUARE.name}/logits"][37]) <= TOLERANCE
    engine.drop(sequence)


def test_many_sequences_need_no_large_passes(pairs: Callable[[str], tuple[Path, Path]]) -> None:
    options = EngineOptions(threads=1, ubatch=1, context_length=512, max_sequences=3)
    with Engine(*pairs("gqa2-llama3"), options) as engine:
        sequences = [start(engine, ROW) for _ in range(3)]
        engine.extend([(sequence, ROW.tokens[:68]) for sequence in sequences])
        step(engine, [(sequence, ROW.tokens[68]) for sequence in sequences])
        assert relative_error(engine.logits(sequences[1]), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE


def test_graphs_are_forgotten_when_scratch_memory_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """ggml frees the old scratch memory before it finds that there is no more."""
    sequence = start(engine, ROW)
    engine.prefill(sequence, ROW.tokens[:50])
    step(engine, [(sequence, ROW.tokens[50])])

    def refuse(self: GraphAllocator, graph: int) -> None:
        self.close()
        self._handle = ggml_backend._gallocr_new(engine._hook.layers[0].backend.buffer_type)
        raise ResourceError("not enough memory")

    with monkeypatch.context() as patch:
        patch.setattr(GraphAllocator, "allocate", refuse)
        with pytest.raises(ResourceError):
            engine.prefill(sequence, ROW.tokens[51:])
    assert not engine._hook._graphs
    step(engine, [(sequence, ROW.tokens[51])])
    engine.prefill(sequence, ROW.tokens[52:69])
    assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(sequence)


def test_weights_off_the_file_give_the_same(
    pairs: Callable[[str], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a device: copied into buffers of their own."""
    monkeypatch.setattr(weights, "_CPU_ALIGNMENT", 1 << 60)
    with Engine(*pairs("gqa2-llama3"), OPTIONS) as engine:
        check_logits(engine, ROW)


def test_image_memory_goes_with_its_last_sequence(engine: Engine) -> None:
    image = load_image(engine, ROW)
    assert image is not None
    first = engine.sequence(image)
    second = engine.fork(first)
    engine.release_image(image)
    engine.prefill(first, ROW.tokens[:9])
    engine.drop(first)
    assert image.alive
    engine.prefill(second, ROW.tokens[:9])
    engine.drop(second)
    assert not image.alive


def test_full_context_is_an_error_and_loses_nothing(pairs: Callable[[str], tuple[Path, Path]]) -> None:
    options = EngineOptions(threads=1, ubatch=48, context_length=69, max_sequences=2)
    with Engine(*pairs("gqa2-llama3"), options) as engine:
        sequence = start(engine, ROW)
        with pytest.raises(ResourceError, match="context is full"):
            engine.prefill(sequence, ROW.tokens)
        assert sequence.length == 49  # whole passes stay: the image token's and the first of 48 tokens
        engine.prefill(sequence, ROW.tokens[49:69])
        assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE


def test_no_more_sequences_than_asked_for(engine: Engine) -> None:
    sequences = [engine.sequence() for _ in range(OPTIONS.max_sequences)]
    with pytest.raises(ResourceError, match="6 sequences"):
        engine.sequence()
    for sequence in sequences:
        engine.drop(sequence)


def test_misused_image_token(engine: Engine) -> None:
    without = engine.sequence()
    with pytest.raises(CotcliError, match="image token"):
        engine.prefill(without, [1, engine.image_token])
    engine.drop(without)
    sequence = start(engine, ROW)
    with pytest.raises(CotcliError, match="image token"):
        engine.prefill(sequence, [engine.image_token, 1, engine.image_token])
    engine.drop(sequence)


def test_failing_hook_raises_its_error_and_rolls_back(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sequence = start(engine, ROW)
    engine.prefill(sequence, ROW.tokens[:50])

    def fail(*_: object) -> int:
        raise MemoryError("no room for a graph")

    with monkeypatch.context() as patch:
        patch.setattr(CrossAttentionLayer, "update", fail)
        with pytest.raises(MemoryError, match="no room"):
            engine.prefill(sequence, ROW.tokens[50:])
    assert sequence.length == 50
    engine.prefill(sequence, ROW.tokens[50:69])
    assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(sequence)


def test_a_hook_that_fails_in_a_graph_gone_on_with_rolls_back_too(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the hook knows its nodes by their addresses, and looks at no others."""
    sequence = start(engine, ROW)
    engine.prefill(sequence, ROW.tokens[:50])
    for token in ROW.tokens[50:54]:
        engine.prefill(sequence, [token])
    assert engine._hook._is_quick

    def fail(*_: object) -> None:
        raise MemoryError("no room for a graph")

    with monkeypatch.context() as patch:
        patch.setattr(ggml_backend.Backend, "compute", fail)
        with pytest.raises(MemoryError, match="no room"):
            engine.prefill(sequence, ROW.tokens[54:55])
    assert sequence.length == 54
    for token in ROW.tokens[54:69]:
        engine.prefill(sequence, [token])
    assert engine._hook._is_quick
    assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(sequence)


def test_hook_that_never_runs_is_noticed(engine: Engine) -> None:
    """As when another release of llama.cpp names its nodes differently: garbage must not pass for logits."""
    sequence = start(engine, ROW)
    layers = engine._hook._layer_after
    layers[b"l_out-99"] = layers.pop(b"l_out-1")
    try:
        with pytest.raises(CotcliError, match="did not evaluate l_out-99"):
            engine.prefill(sequence, ROW.tokens)
        assert sequence.length == 0
    finally:
        layers[b"l_out-1"] = layers.pop(b"l_out-99")
    engine.drop(sequence)
    check_logits(engine, ROW)


def test_ctrl_c_in_decoding_stops_and_rolls_back(engine: Engine) -> None:
    sequence = start(engine, ROW)
    engine.prefill(sequence, ROW.tokens[:50])
    with interrupted_after(0.2), pytest.raises(KeyboardInterrupt):
        while True:
            engine.prefill(sequence, [3] * 40)
            engine.truncate(sequence, 50)
    engine.truncate(sequence, 50)
    engine.prefill(sequence, ROW.tokens[50:69])
    assert relative_error(engine.logits(sequence), GOLDEN[f"{ROW.name}/logits"][17]) <= TOLERANCE
    engine.drop(sequence)


def test_ctrl_c_while_a_sequence_is_dropped_frees_its_image(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = engine.context.remove

    def interrupted(*args: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        remove(*args)

    sequence = start(engine, ROW)
    image = sequence.image
    assert image is not None
    monkeypatch.setattr(engine.context, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.drop(sequence)
    assert not image.alive


def test_ctrl_c_in_vision_encoding(engine: Engine) -> None:
    with interrupted_after(0.2), pytest.raises(KeyboardInterrupt):
        while True:
            engine.encode(ROW.picture)  # type: ignore[arg-type]
    check_logits(engine, ROW)


class interrupted_after:
    """Sends this process a real SIGINT while the block runs, and another every two seconds, as a user would whose first
    one fell into a destructor, where Python drops it."""

    def __init__(self, seconds: float) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, args=(seconds,))

    def _send(self, seconds: float) -> None:
        while not self._over.wait(seconds):
            os.kill(os.getpid(), signal.SIGINT)
            seconds = 2.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def test_progress_counts_layers(engine: Engine) -> None:
    seen: list[tuple[int, int]] = []
    engine.encode(ROW.picture, lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    layers = RECIPES["gqa2-llama3"].vision_layers + RECIPES["gqa2-llama3"].global_layers
    assert seen == [(done, layers) for done in range(layers + 1)]


def test_half_precision_stays_close(pairs: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    """F16 weights and caches: the error is that of rounding to 11 bits, far below that of a wrong layer."""
    write_checkpoint(tmp_path / "checkpoint", RECIPES["gqa2-llama3"])
    converted = convert(tmp_path / "checkpoint", tmp_path, "f16", name="half")
    with Engine(converted.language, converted.mmproj, OPTIONS) as engine:
        assert engine.kv_type == "f16"
        sequence = start(engine, ROW)
        rows = np.stack([row.copy() for row in engine.each_logits(sequence, ROW.tokens)])
    assert relative_error(rows[KEPT_TOKENS], GOLDEN[f"{ROW.name}/logits"]) < 0.02


def test_files_of_two_checkpoints_are_refused(pairs: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    other = Recipe(**{**vars(RECIPES["gqa2-llama3"]), "seed": 77})
    write_checkpoint(tmp_path / "checkpoint", other)
    converted = convert(tmp_path / "checkpoint", tmp_path, "f32", name="other")
    with pytest.raises(ModelError, match="do not belong together"):
        Engine(pairs("gqa2-llama3")[0], converted.mmproj, OPTIONS)


@pytest.mark.parametrize("damage", ["empty", "text", "cut-header", "cut-data", "missing", "language"])
@pytest.mark.parametrize("which", [0, 1], ids=["language", "mmproj"])
def test_broken_files_give_a_model_error(
    pairs: Callable[[str], tuple[Path, Path]], tmp_path: Path, which: int, damage: str
) -> None:
    files = list(pairs("gqa2-llama3"))
    data = files[which].read_bytes()
    broken = tmp_path / "broken.gguf"
    contents = {
        "empty": b"",
        "text": b"<!doctype html><title>404</title>" * 20,
        "cut-header": data[: len(data) // 500],
        "cut-data": data[: len(data) * 3 // 4],
        "language": pairs("mqa-neighbours")[1 - which].read_bytes(),
    }
    if damage != "missing":
        broken.write_bytes(contents[damage])
    files[which] = broken
    with pytest.raises(ModelError) as caught:
        Engine(files[0], files[1], OPTIONS)
    assert str(broken) in caught.value.message or damage == "language"


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="f12"):
        EngineOptions(kv_type="f12")
    with pytest.raises(UsageError, match="context_length"):
        EngineOptions(context_length=0)
    EngineOptions(max_sequences=256, context_length=8)
    with pytest.raises(UsageError, match="max_sequences must be at most 256, not 257"):
        EngineOptions(max_sequences=257, context_length=8)


def test_ctrl_c_while_a_model_loads(pairs: Callable[[str], tuple[Path, Path]]) -> None:
    """Whatever the instant, it ends as KeyboardInterrupt and never as a model that cannot be loaded."""
    files = pairs("gqa2-llama3")
    for i in range(12):
        with interrupted_after(0.02 + 0.007 * i), pytest.raises(KeyboardInterrupt):
            while True:
                Engine(*files, OPTIONS).close()


LEAK_CHECK = """
import gc, resource, sys
from pathlib import Path
from cotcli.engine import Engine
from tests.test_engine import OPTIONS, SQUARE, load_image
page, sizes = resource.getpagesize() // 1024, []
for _ in range(40):
    engine = Engine(Path(sys.argv[1]), Path(sys.argv[2]), OPTIONS)
    image = load_image(engine, SQUARE)  # never released
    sequence = engine.sequence(image)
    engine.prefill(sequence, SQUARE.tokens)
    engine.close()
    engine.close()
    del engine, image, sequence
    gc.collect()  # the reader of the mmproj file is full of cycles
    sizes.append(int(open("/proc/self/statm").read().split()[1]) * page)
print(sizes[-1] - sizes[9])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from Linux's /proc")
def test_closing_gives_the_memory_back(pairs: Callable[[str], tuple[Path, Path]]) -> None:
    """In a process of its own, whose size is not hidden by what other tests took. Closing twice is harmless."""
    done = subprocess.run(
        [sys.executable, "-c", LEAK_CHECK, *map(str, pairs("gqa2-llama3"))], capture_output=True, text=True, check=True
    )
    growth = int(done.stdout)
    assert growth < 4000  # KiB over 30 engines; the keys and values of one image take 200 KiB


@pytest.mark.parametrize("imports", ["cotcli.engine, llama_cpp", "llama_cpp, cotcli.engine"])
def test_llama_cpp_may_be_used_beside(pairs: Callable[[str], tuple[Path, Path]], imports: str) -> None:
    """It is imported without the rest of its package, which is there for others; its log stays with us."""
    language, mmproj = pairs("gqa2-llama3")
    script = f"""
import sys
import {imports.partition(", ")[0]}
if {imports.startswith("cotcli")!r}:
    assert not {{"llama_cpp", "jinja2", "diskcache", "pydantic"}} & set(sys.modules)
import {imports}
from pathlib import Path
with cotcli.engine.Engine(Path({str(language)!r}), Path({str(mmproj)!r})):
    theirs = llama_cpp.Llama({str(language)!r}, vocab_only=True, verbose=False)
    print(theirs.n_vocab() == llama_cpp.llama_cpp.llama_vocab_n_tokens(theirs._model.vocab))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")
