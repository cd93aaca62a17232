"""Both vision towers against stored transformers values, and the parts of NumPy's against float64."""

from __future__ import annotations

import math
import signal
import threading
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks.small_checkpoints import write_checkpoint
from convert import convert
from cotcli.errors import ResourceError
from cotcli.mllama import chunks
from cotcli.mllama.vision import on_cpu, on_device, vision_tower
from cotcli.mllama.vision.on_cpu import CpuTower
from cotcli.mllama.vision.on_device import DeviceTower
from cotcli.mllama.weights import WeightFile
from cotcli.native.ggml_backend import Backend, Threadpool, cpu_device
from tests.engine_cases import CASES, KEPT_ROWS, RECIPES, Case, Picture

GOLDEN = np.load(Path(__file__).parent / "data" / "engine_golden.npz")
PICTURES = [case for case in CASES if case.picture is not None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vision")


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Threadpool(1) as threads, Backend(cpu_device(), threads) as backend:
        yield backend


def weights(folder: Path, recipe: str, vision_type: str = "f32") -> WeightFile:
    name = f"{recipe}-{vision_type}"
    if not (folder / name).exists():
        write_checkpoint(folder / name, RECIPES[recipe])
        convert(folder / name, folder, "f32", name=name, vision_type=vision_type)
    return WeightFile(next(folder.glob(f"{name}-*.mmproj.gguf")))


def error(states: np.ndarray[Any, Any], case: Case) -> float:
    golden = GOLDEN[f"{case.name}/states"]
    return float(np.linalg.norm(states[KEPT_ROWS].astype(np.float64) - golden) / np.linalg.norm(golden))


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case.name)
def test_on_the_cpu(folder: Path, case: Case, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut as at 11B shapes: rows into many parts, keys into many blocks, the last of which is not whole."""
    if cut:
        monkeypatch.setattr(on_cpu, "_FEWEST_ROWS", 1)
        monkeypatch.setattr(on_cpu, "_KEYS", 7)
        monkeypatch.setattr(on_cpu, "_ELEMENTS", 50)
    steps: list[tuple[int, int]] = []
    tower = CpuTower(weights(folder, case.recipe), 2)
    states = tower.encode(case.picture, lambda *step: steps.append(step))  # type: ignore[arg-type]
    assert error(states, case) <= 2e-6
    assert [done for done, _ in steps] == list(range(steps[-1][1] + 1)) and len(steps) > 2


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
@pytest.mark.parametrize("case", PICTURES, ids=lambda case: case.name)
def test_on_a_device(folder: Path, backend: Backend, case: Case, cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values are F16 there. On the CPU's own backend, which runs the same graphs."""
    if cut:
        monkeypatch.setattr(on_device, "DEVICE_FLOPS", 1.0)
        monkeypatch.setattr(chunks, "_TILE", 5)
    with closing(DeviceTower(weights(folder, case.recipe), backend)) as tower:
        assert error(tower.encode(case.picture), case) <= 1e-2  # type: ignore[arg-type]


@pytest.mark.parametrize(("vision_type", "tolerance"), [("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2)])
def test_stored_types(folder: Path, vision_type: str, tolerance: float) -> None:
    case = PICTURES[0]
    file = weights(folder, case.recipe, vision_type)
    assert 1e-6 < error(CpuTower(file, 1).encode(case.picture), case) <= tolerance  # type: ignore[arg-type]


def test_the_cpu_has_a_tower_of_its_own(folder: Path, backend: Backend) -> None:
    assert isinstance(vision_tower(weights(folder, PICTURES[0].recipe), backend), CpuTower)


def test_states_are_the_same_with_any_number_of_threads(folder: Path) -> None:
    """Equal to the bit: states of one run are taken by others from the image cache."""
    recipe = replace(RECIPES["gqa2-llama3"], image_size=140)  # 101 rows a tile
    write_checkpoint(folder / "large", recipe)
    file = WeightFile(convert(folder / "large", folder, "f16", name="large").mmproj)
    pixels = np.random.default_rng(0).standard_normal((4, 3, 140, 140), np.float32)
    states = [
        b"".join(
            CpuTower(file, threads).encode(Picture(pixels, ratio, count)).tobytes()  # type: ignore[arg-type]
            for ratio, count in ((1, 1), (6, 4))
        )
        for threads in (1, 2, 3, 5)
    ]
    assert len(set(states)) == 1


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.fixture
def two_blas_threads() -> Iterator[None]:
    with threadpool_limits(2, "blas"):
        yield


@pytest.mark.usefixtures("two_blas_threads")
def test_ctrl_c_ends_it_and_blas_has_its_threads_back(folder: Path) -> None:
    case = PICTURES[0]
    before, running = blas_threads(), threading.active_count()
    tower = CpuTower(weights(folder, case.recipe), 2)

    def interrupt(done: int, total: int) -> None:
        assert all(count == 1 for count in blas_threads())
        if done == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tower.encode(case.picture, interrupt)  # type: ignore[arg-type]
    assert blas_threads() == before and threading.active_count() == running
    assert error(tower.encode(case.picture), case) <= 2e-6  # type: ignore[arg-type]


def test_a_second_image_waits_and_blas_has_its_threads_back(folder: Path) -> None:
    first, second = PICTURES[:2]
    before = blas_threads()
    seen: list[str] = []
    towers = [CpuTower(weights(folder, case.recipe), 2) for case in (first, second)]

    def encode_second() -> None:
        seen.append("begun")
        states = towers[1].encode(second.picture, lambda *_: seen.append(f"{blas_threads()}"))  # type: ignore[arg-type]
        seen.append("right" if error(states, second) <= 2e-6 else "wrong")

    other = threading.Thread(target=encode_second)

    def report(done: int, total: int) -> None:
        if done == 0:
            other.start()
        if done == total:
            assert seen == ["begun"]

    assert error(towers[0].encode(first.picture, report), first) <= 2e-6  # type: ignore[arg-type]
    other.join(60)
    assert set(seen) == {"begun", f"{[1] * len(before)}", "right"} and blas_threads() == before


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("cause", [MemoryError("no room"), RuntimeError("can't start new thread")], ids=repr)
def test_a_part_that_fails(folder: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception) -> None:
    case = PICTURES[0]
    before, running = blas_threads(), threading.active_count()
    tower = CpuTower(weights(folder, case.recipe), 2)

    def fail(*_: object) -> None:
        raise cause

    if isinstance(cause, MemoryError):
        monkeypatch.setattr(on_cpu, "attention", fail)
    else:
        monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(ResourceError) as raised:
        tower.encode(case.picture)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert "--threads" in str(raised.value.hint)
    assert blas_threads() == before and threading.active_count() == running


@pytest.mark.parametrize(("threads", "vision_type"), [(1, "f16"), (3, "f16"), (1, "bf16"), (3, "q8_0")])
@pytest.mark.parametrize(("ratio", "tiles"), [(1, 1), (6, 4)])
def test_memory_is_estimated(folder: Path, threads: int, vision_type: str, ratio: int, tiles: int) -> None:
    recipe = replace(
        RECIPES["gqa2-llama3"], image_size=280, patch_size=14, vision_hidden_size=160, vision_intermediate_size=640
    )
    name = f"wide-{vision_type}"
    if not (folder / name).exists():
        write_checkpoint(folder / name, recipe)
        convert(folder / name, folder, "f16", name=name, vision_type=vision_type)
    file = WeightFile(next(folder.glob(f"{name}-*.mmproj.gguf")))
    picture = Picture(np.zeros((4, 3, 280, 280), np.float32), ratio, tiles)
    tower = CpuTower(file, threads)
    tower.encode(picture)  # type: ignore[arg-type]  # imports what it needs
    tracemalloc.start()
    try:
        tower.encode(picture)  # type: ignore[arg-type]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimate = on_cpu.working_memory(file.hparams, threads)
    assert 0.7 * estimate <= peak <= estimate


@pytest.mark.parametrize(
    "offsets",
    [(0,), (1000, 0), (0, 1000), (-1000, 0), (-1000, -500), (30, 80, 130), (90, -90), (-200,)],
    ids=str,
)
def test_attention_is_the_softmax_of_any_scores(offsets: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores that rise and fall by whole blocks of keys, beyond what float32 can take the exponential of."""
    monkeypatch.setattr(on_cpu, "_KEYS", 10)
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 8)).astype(np.float32) for n in (5, 10 * len(offsets), 10 * len(offsets)))
    q[:, 0], k[:, 0] = 1, np.repeat(offsets, 10)
    q[3] *= -1  # for which all is the other way round
    scores = q.astype(np.float64) @ k.astype(np.float64).T
    exact = np.exp(scores - scores.max(axis=1, keepdims=True))
    exact = exact / exact.sum(axis=1, keepdims=True) @ v.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = on_cpu.attention(q, k, np.concatenate([v, np.ones((len(v), 1), np.float32)], axis=1))
    assert np.abs(ours - exact).max() < 2e-7 * (1 + np.abs(offsets).max())


def test_gelu_is_that_of_erf() -> None:
    x = np.concatenate([np.linspace(-12, 12, 100_001), [1e-30, -1e-30, 0, 1e18, -1e18]]).astype(np.float32)
    exact = np.array([value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x.astype(np.float64)])
    ours = x.copy()
    on_cpu.gelu_inplace(ours)
    assert (np.abs(ours - exact) <= 3e-7 * np.maximum(1, np.abs(exact))).all()


@pytest.mark.parametrize(("rows", "first", "end"), [(6432, 0, 6432), (6432, 1601, 6432), (6432, 0, 1601), (20, 3, 20)])
def test_parts_cover_the_rows(rows: int, first: int, end: int) -> None:
    parts = list(on_cpu.split(rows, first, end, 24))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(first, end))
    assert len(parts) <= 24


@pytest.mark.parametrize("flops", [chunks.CPU_FLOPS, chunks.DEVICE_FLOPS])
def test_no_chunk_is_below_a_tile(flops: float) -> None:
    for first, end in ((0, 6404), (0, 1601), (1601, 6432), (0, 3202), (3202, 6432), (0, 4803), (0, 64), (5, 40)):
        parts = list(chunks.split_rows(first, end, 62e6, flops))
        assert [row for start, count in parts for row in range(start, start + count)] == list(range(first, end))
        assert all(count % 64 == 0 for _, count in parts[:-1])
        assert parts[-1][1] >= min(64, end - first)
        assert max(count for _, count in parts) <= chunks.most_rows(62e6, flops)
