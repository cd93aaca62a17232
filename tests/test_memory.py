"""The memory plan against what libllama and our own graphs really allocate."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from cotcli.engine import Engine, EngineOptions
from cotcli.memory import Amounts, Demand, MemoryPlan, Pair, plan, read_pair
from cotcli.mllama.cross_attention import CrossAttentionLayer, ImageKV, working_memory
from cotcli.mllama.vision import on_cpu, on_device
from cotcli.mllama.vision.on_device import DeviceTower
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml, ggml_backend, log
from cotcli.native.ggml_backend import Backend, GraphAllocator, Threadpool
from cotcli.native.library import bind
from tests.engine_cases import Picture

# size_t ggml_backend_buffer_get_size(ggml_backend_buffer_t buffer);
buffer_size = bind("ggml_backend_buffer_get_size", ctypes.c_size_t, ctypes.c_void_p)
MIB = 2**20
# Wide enough that a real model's proportions hold: rows outweigh what ggml rounds up.
RECIPE = Recipe(
    vocab_size=2048,
    layers=6,
    kv_heads=4,
    vision_hidden_size=160,
    vision_intermediate_size=640,
    patch_size=14,
    image_size=140,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    write_checkpoint(folder / "checkpoint", RECIPE)
    return folder


@pytest.fixture(scope="module")
def files(folder: Path) -> dict[str, tuple[Path, Path]]:
    pairs = {kind: convert(folder / "checkpoint", folder, kind, name=kind) for kind in ("f32", "q4_k_m")}
    return {kind: (pair.language, pair.mmproj) for kind, pair in pairs.items()}


def pair_of(files: tuple[Path, Path]) -> Pair:
    return read_pair(files[0], WeightFile(files[1]))


def logged_sizes(text: str) -> dict[str, float]:
    """What libllama says it has allocated: `CPU_Mapped model` and so on, in bytes."""
    found = re.findall(r"(\S+)\s+(model|KV|output|compute) buffer size =\s*([\d.]+) MiB", text)
    return {f"{where} {what}": float(size) * MIB for where, what, size in found}


@pytest.mark.parametrize("kind", ["f32", "q4_k_m"])
@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(threads=1, context_length=1000),
        EngineOptions(threads=1, context_length=600, max_sequences=4, ubatch=64, kv_type="f32"),
        EngineOptions(threads=1, context_length=4096, ubatch=512, kv_type="f16"),
        EngineOptions(threads=1, context_length=512, repack=True),
        EngineOptions(threads=1, context_length=256, max_sequences=100),
    ],
    ids=lambda options: f"ctx{options.context_length}",
)
def test_the_plan_is_what_libllama_allocates(
    files: dict[str, tuple[Path, Path]], kind: str, options: EngineOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan(pair_of(files[kind]), options.demand, [], 0)
    log.show(True)
    try:
        with Engine(*files[kind], options) as engine:
            assert engine.placement.plan == planned
    finally:
        log.show(False)
    seen = logged_sizes(capsys.readouterr().err)
    assert {"CPU_Mapped model", "CPU KV", "CPU compute", "CPU output"} <= set(seen)
    host = planned.host

    def near(size: float) -> Any:
        return pytest.approx(size, abs=0.02 * MIB)  # it logs hundredths, and tensors lie apart

    repacked = seen.get("CPU_REPACK model", 0.0)
    language_mapped = host.mapped - host.vision - host.cross_attention
    assert host.language - language_mapped == near(repacked)
    if not options.repack or kind == "f32":
        assert repacked == 0 and language_mapped == near(seen["CPU_Mapped model"])
    assert host.kv_cache == near(seen["CPU KV"])
    logits = options.max_sequences * RECIPE.vocab_size * 4
    assert logits == near(seen["CPU output"])
    cross = working_memory(pair_of(files[kind]).hparams, planned.ubatch)
    assert 0.99 * seen["CPU compute"] <= host.compute - cross - logits <= 1.25 * seen["CPU compute"] + 0.05 * MIB


class Meter:
    """Bytes in buffers and in graphs' scratch memory, as they come and go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.peak = 0
        self.allocators: dict[int, int] = {}
        allocate, free = Backend.allocate, ggml_backend.Buffer._release
        grow, shrink = GraphAllocator.allocate, GraphAllocator._release
        meter = self

        def counted(backend: Backend, arena: ggml.Arena) -> ggml_backend.Buffer:
            buffer = allocate(backend, arena)
            meter.change(int(buffer_size(buffer.handle)))
            return buffer

        def freed(buffer: ggml_backend.Buffer, handle: int) -> None:
            meter.change(-int(buffer_size(handle)))
            free(buffer, handle)

        def grown(allocator: GraphAllocator, graph: int) -> None:
            grow(allocator, graph)
            meter.change(allocator.size - meter.allocators.get(id(allocator), 0))
            meter.allocators[id(allocator)] = allocator.size

        def gone(allocator: GraphAllocator, handle: int) -> None:
            meter.change(-meter.allocators.pop(id(allocator), 0))
            shrink(allocator, handle)

        monkeypatch.setattr(Backend, "allocate", counted)
        monkeypatch.setattr(GraphAllocator, "_release", gone)
        monkeypatch.setattr(ggml_backend.Buffer, "_release", freed)
        monkeypatch.setattr(GraphAllocator, "allocate", grown)

    def change(self, size: int) -> None:
        self.held += size
        self.peak = max(self.peak, self.held)


@pytest.fixture
def backend() -> Iterator[Backend]:
    with Threadpool(1) as threads, Backend(ggml_backend.cpu_device(), threads) as backend:
        yield backend


def test_the_plan_is_what_pictures_take(
    files: dict[str, tuple[Path, Path]], backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = WeightFile(files["q4_k_m"][1])
    pair = pair_of(files["q4_k_m"])
    with closing(DeviceTower(file, backend)) as tower:  # in the file, so nothing is allocated
        meter = Meter(monkeypatch)
        side = RECIPE.image_size
        for tiles, ratio in ((4, 6), (1, 1)):
            picture = Picture(np.zeros((4, 3, side, side), np.float32), ratio, tiles)
            states = tower.encode(picture)  # type: ignore[arg-type]
        estimate = on_device.working_memory(pair.hparams)
        assert 0.75 * estimate <= meter.peak <= estimate
    layers = [CrossAttentionLayer(file, index, backend) for index in pair.hparams.text.cross_attention_layers]
    meter = Meter(monkeypatch)
    image = ImageKV(layers, states, len(states), ggml.F16)
    planned = plan(pair, Demand(512, sequences=3, kv_type="f16"), [], 0)
    assert planned.host.images == pytest.approx(3 * meter.held, rel=0.01)
    image.close()
    for layer in layers:
        layer.close()


def test_more_of_anything_takes_more(files: dict[str, tuple[Path, Path]]) -> None:
    pair = pair_of(files["q4_k_m"])

    def host(**changes: int | str) -> Amounts:
        return plan(pair, Demand(**{"context_length": 1024, **changes}), [], 0).host  # type: ignore[arg-type]

    base = host()
    assert host(context_length=2048).kv_cache == 2 * base.kv_cache
    assert host(kv_type="f32").kv_cache == 2 * base.kv_cache
    assert host(sequences=2).images == 2 * base.images
    assert host(ubatch=1024).compute > 4 * base.compute
    assert base.total - base.resident == base.mapped > 0


def test_every_byte_of_both_files_is_somewhere(files: dict[str, tuple[Path, Path]]) -> None:
    """But for the tables that the tower looks up in the file, a place for each tensor."""
    pair = pair_of(files["f32"])
    planned: MemoryPlan = plan(pair, Demand(512), [], 0)
    host = planned.host
    in_tensors = sum(tensor.n_bytes for tensor in (*pair.input, *pair.output, *chain(*pair.layers)))
    assert in_tensors <= host.language <= in_tensors * 1.01
    assert 0.95 * files["f32"][0].stat().st_size < in_tensors <= files["f32"][0].stat().st_size
    assert pair.n_bytes <= host.language + host.vision + host.cross_attention


def test_the_tower_is_planned_where_it_is(files: dict[str, tuple[Path, Path]]) -> None:
    pair = pair_of(files["f32"])
    for threads in (1, 8):
        demand = EngineOptions(threads=threads).demand
        assert plan(pair, demand, [], 0).host.encoder == on_cpu.working_memory(pair.hparams, threads)
