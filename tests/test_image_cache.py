"""The image cache: the same bits with and without, whoever writes, dies, prunes or damages files meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import cotcli
from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from convert import convert
from cotcli import image_cache
from cotcli.cli.options import parse_size
from cotcli.errors import UsageError
from cotcli.generate import Reasoner
from cotcli.image import ImagePreprocessing, prepare_image
from cotcli.image_cache import CacheUsage, ImageCache, key_of
from cotcli.mllama import vision
from cotcli.mllama.weights import WeightFile
from cotcli.native.ggml_backend import cpu_device
from tests import image_cache_worker as worker
from tests.cli.process import ROOT, environment
from tests.cli.process import cotcli as command

PICTURE = ROOT / "tests" / "data" / "scene.png"
QUESTION = "How many big circles are there?"
KEY, OTHER, THIRD, FOURTH = (f"{digit}" * 64 for digit in "0a5f")
KILLS = int(os.environ.get("TEST_KILLS", "8"))


def states(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((5, 7), np.float32)


SIZE = 84 + states().nbytes


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> ImageCache:
    return ImageCache(tmp_path / "cache", on_note=notes.append)


@pytest.fixture
def all_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled model encodes a picture in less time than is worth keeping."""
    monkeypatch.setattr(image_cache, "WORTH_S", 0.0)


def files(cache: ImageCache) -> list[str]:
    return sorted(path.name for path in cache.folder.iterdir() if path.name != ".lock")


# -- entries ----------------------------------------------------------------------------------------------------------


def test_what_comes_back_is_what_was_stored(cache: ImageCache, notes: list[str]) -> None:
    odd = np.array([[0.0, -0.0, np.inf], [-np.inf, np.float32(1e-45), 3.4e38]], np.float32)
    odd = np.vstack([odd, np.frombuffer(b"\1\0\xc0\x7f" * 3, np.float32)])  # NaN with a payload
    assert cache.load(KEY) is None
    assert cache.store(KEY, odd) and cache.store(OTHER, states().T)  # not contiguous
    for key, expected in ((KEY, odd), (OTHER, states().T)):
        found = cache.load(key)
        assert found is not None and found.dtype == np.float32 and found.shape == expected.shape
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
        found += 1  # it is the caller's own
    assert cache.usage() == CacheUsage(2 * 84 + odd.nbytes + states().nbytes, 2)
    assert cache.clear() == CacheUsage(2 * 84 + odd.nbytes + states().nbytes, 2)
    assert (cache.usage(), files(cache), notes) == (CacheUsage(0, 0), [], [])
    if os.name == "posix":
        assert cache.folder.stat().st_mode & 0o077 == 0


def test_damage_anywhere_is_a_miss(cache: ImageCache, notes: list[str]) -> None:
    cache.store(KEY, states())
    path = cache.folder / files(cache)[0]
    whole = path.read_bytes()
    assert len(whole) == SIZE
    damaged = [whole[:i] + bytes((whole[i] ^ 1 << i % 8,)) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole[:end] for end in range(len(whole))] + [whole + b"\0", bytes(len(whole)), bytes(84)]
    damaged.append(whole[:12] + bytes(4) + whole[16:84])  # no rows, and none there
    for data in damaged:
        path.write_bytes(data)
        assert cache.load(KEY) is None
        assert not path.exists()
    assert len(notes) == len(damaged) and "damaged" in notes[0]
    path.write_bytes(whole)
    assert cache.load(KEY) is not None


def test_a_file_under_another_name_is_a_miss(cache: ImageCache) -> None:
    cache.store(KEY, states())
    path = cache.folder / files(cache)[0]
    path.rename(path.with_name(path.name.replace(KEY, OTHER)))
    assert cache.load(OTHER) is None


def test_another_format_is_a_miss(cache: ImageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(image_cache, "_VERSION", 99)
        assert cache.store(KEY, states())
        assert cache.load(KEY) is not None
    assert cache.load(KEY) is None


# -- size -------------------------------------------------------------------------------------------------------------


def used(cache: ImageCache, *keys: str) -> None:
    """Sets the times of last use, in this order, to a while ago."""
    for minutes, key in enumerate(reversed(keys), 1):
        moment = time.time() - 60 * minutes
        os.utime(cache.folder / f"{key}.states", (moment, moment))


def kept(cache: ImageCache) -> set[str]:
    return {name.removesuffix(".states") for name in files(cache)}


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path, max_bytes=3 * SIZE)
    for key in (KEY, OTHER, THIRD):
        assert cache.store(key, states())
    used(cache, KEY, OTHER, THIRD)
    assert cache.load(KEY) is not None
    assert cache.store(FOURTH, states())
    assert kept(cache) == {KEY, THIRD, FOURTH}
    smaller = ImageCache(tmp_path, max_bytes=2 * SIZE - 1)
    used(cache, FOURTH, KEY, THIRD)
    assert smaller.store(OTHER, states())
    assert kept(cache) == {OTHER}


def test_nothing_is_kept_that_is_larger_than_all(tmp_path: Path) -> None:
    for size in (0, SIZE - 1):
        cache = ImageCache(tmp_path / "cache", max_bytes=size)
        assert not cache.store(KEY, states())
        assert not cache.folder.exists()


def test_what_killed_processes_left_goes_first(cache: ImageCache) -> None:
    cache.store(KEY, states())
    (cache.folder / f"{OTHER}.unfinished").write_bytes(bytes(SIZE))
    (cache.folder / "notes.txt").write_text("not the cache's")
    assert cache.usage() == CacheUsage(2 * SIZE, 1)
    full = ImageCache(cache.folder, max_bytes=2 * SIZE)
    assert full.store(THIRD, states())
    assert kept(cache) == {KEY, THIRD, "notes.txt"}


# -- failure ----------------------------------------------------------------------------------------------------------


def test_no_folder_can_be_made(tmp_path: Path, notes: list[str]) -> None:
    (tmp_path / "file").touch()
    cache = ImageCache(tmp_path / "file" / "cache", on_note=notes.append)
    for _ in range(2):
        assert cache.load(KEY) is None
        assert not cache.store(KEY, states())
    assert len(notes) == 2 and "Not a directory" in notes[0] and "cannot be written" in notes[1]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file modes are POSIX's")
def test_a_read_only_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    cache = ImageCache(Path("cache"), on_note=notes.append)
    cache.store(KEY, states())
    cache.store(OTHER, states())
    cache.folder.chmod(0o555)
    (cache.folder / f"{KEY}.states").chmod(0o444)
    (cache.folder / f"{OTHER}.states").chmod(0)
    is_root = os.geteuid() == 0  # may do everything, so becomes nobody for a moment
    if is_root:
        os.seteuid(65534)
    try:
        found = cache.load(KEY)
        assert cache.load(OTHER) is None
        assert not cache.store(THIRD, states())
    finally:
        if is_root:
            os.seteuid(0)
        cache.folder.chmod(0o755)
    np.testing.assert_array_equal(found, states())
    assert [note.partition(": ")[2] for note in notes] == [
        "cannot be read: Permission denied",
        "cannot be written: Permission denied",
    ]


def test_a_disk_with_little_room_is_left_alone(
    cache: ImageCache, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_cache, "_FREE_BYTES", 1 << 60)
    assert not cache.store(KEY, states())
    assert files(cache) == [] and "nearly full" in notes[0]


@pytest.mark.skipif(sys.platform == "win32", reason="the limit is POSIX's")
def test_a_write_that_fails_in_the_middle(tmp_path: Path) -> None:
    """A limit on the size of files is met by the kernel as a full disk is: write() gives fewer bytes, then an error."""
    code = f"""
import numpy as np, resource
from pathlib import Path
from cotcli.image_cache import ImageCache
cache = ImageCache(Path({str(tmp_path)!r}), on_note=print)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
print(cache.store({KEY!r}, np.zeros((300, 300), np.float32)), cache.store({OTHER!r}, np.zeros((9, 9), np.float32)))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert run.stdout == f"image cache {tmp_path}: cannot be written: File too large\nFalse True\n"
    assert {path.name for path in tmp_path.iterdir()} - {".lock"} == {f"{OTHER}.states"}


def test_a_writer_does_not_wait_for_ever(cache: ImageCache, notes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    cache.store(KEY, states())
    monkeypatch.setattr(image_cache, "_PATIENCE_S", 0.05)
    code = f"""
from pathlib import Path
from cotcli.image_cache import ImageCache
with ImageCache(Path({str(cache.folder)!r}))._locked():
    print("locked", flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert not cache.store(OTHER, states())
        assert cache.load(KEY) is not None
        holder.communicate(b"\n")
    assert cache.store(OTHER, states()) and len(notes) == 1


# -- several processes ------------------------------------------------------------------------------------------------


def start(folder: Path, entries: int, rounds: int, seed: int) -> subprocess.Popen[str]:
    args = [sys.executable, "-m", "tests.image_cache_worker", *map(str, (folder, entries, rounds, seed))]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())


def test_processes_that_read_write_and_prune_at_once(tmp_path: Path) -> None:
    """Half of what they ask for fits in, so each removes what the others have just written or are reading."""
    workers = [start(tmp_path, entries=6, rounds=25, seed=seed) for seed in range(3)]
    hits = 0
    for process in workers:
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        hits += int(out)
    cache = ImageCache(tmp_path)
    assert cache.usage() == CacheUsage(3 * worker.ENTRY_BYTES, 3)
    assert sum(worker.right(cache, index) for index in range(6)) == 3
    assert hits > 5


def test_killed_while_writing(tmp_path: Path) -> None:
    """SIGKILL as soon as a file is begun, or a little later. TEST_KILLS=200 for a long look."""
    rng = np.random.default_rng(0)
    notes: list[str] = []
    cache = ImageCache(tmp_path, on_note=notes.append)
    left = 0
    for kill in range(KILLS):
        process = start(tmp_path, entries=8, rounds=0, seed=kill)
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob("*.unfinished")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(float(rng.random()) ** 3 * 0.03)
        process.kill()
        _, err = process.communicate(timeout=60)
        assert process.returncode not in (0, 1), err
        left += any(tmp_path.glob("*.unfinished"))
        for index in range(8):
            worker.right(cache, index)
    assert notes == []  # nothing was damaged
    assert left > 0, "no kill was in the middle of a write"
    assert cache.store(KEY, states())
    assert not any(tmp_path.glob("*.unfinished"))


# -- keys -------------------------------------------------------------------------------------------------------------

PREPROCESSING = ImagePreprocessing(28, 4, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 1 / 255, ((1, 1), (1, 2), (2, 1), (2, 2)))


def test_the_key_is_of_the_tiles_and_the_tower(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    picture = Image.fromarray(pixels)
    changed = pixels.copy()
    changed[39, 49, 2] ^= 255

    def key(image: Image.Image, preprocessing: ImagePreprocessing = PREPROCESSING, identity: str = "x") -> str:
        return key_of(prepare_image(image, preprocessing), identity)

    picture.save(tmp_path / "a.bmp")
    picture.save(tmp_path / "b.png", dpi=(300, 300))
    same = {key(picture), key(Image.open(tmp_path / "a.bmp")), key(Image.open(tmp_path / "b.png"))}
    assert len(same) == 1
    others = [
        key(Image.fromarray(changed)),
        key(picture.rotate(180)),
        key(picture.crop((0, 0, 50, 39))),
        key(picture, replace(PREPROCESSING, image_mean=(0.5, 0.5, 0.51))),
        key(picture, replace(PREPROCESSING, image_std=(0.2, 0.21, 0.2))),
        key(picture, replace(PREPROCESSING, rescale_factor=1 / 256)),
        key(picture, replace(PREPROCESSING, tile_size=14)),
        key(picture, replace(PREPROCESSING, supported_aspect_ratios=((1, 1),))),
        key(picture, replace(PREPROCESSING, supported_aspect_ratios=((2, 2), (1, 1)))),
        key(picture, identity="y"),
    ]
    assert len(same | set(others)) == 1 + len(others)


def test_every_tower_has_an_identity_of_its_own(tmp_path: Path) -> None:
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400)
    tensors = random_tensors(recipe)
    write_checkpoint(tmp_path / "one", recipe, tensors)
    other = {name: tensor.copy() for name, tensor in tensors.items()}
    other["multi_modal_projector.bias"][0] += 1
    write_checkpoint(tmp_path / "two", recipe, other)
    language = dict(tensors)
    language["language_model.model.norm.weight"] = language["language_model.model.norm.weight"] + 1
    write_checkpoint(tmp_path / "three", recipe, language)

    def identity(checkpoint: str, folder: str, language_type: str, vision_type: str) -> str:
        (tmp_path / folder).mkdir()
        pair = convert(tmp_path / checkpoint, tmp_path / folder, language_type, vision_type=vision_type, name="m")
        return vision.identity(WeightFile(pair.mmproj), cpu_device())

    first = identity("one", "a", "f16", "f16")
    assert identity("one", "b", "q8_0", "f16") == first  # the language model has no part in it
    assert len({first, identity("one", "c", "f16", "f32"), identity("two", "d", "f16", "f16")}) == 3
    assert identity("three", "e", "f16", "f16") != first  # another checkpoint: told by the pair's id


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def phases() -> list[str]:
    return []


def asked(cache: ImageCache | bool, phases: list[str]) -> tuple[str, bytes, tuple[float, ...]]:
    """The answer of a model loaded anew, its first logits and the log-probabilities of another answer."""
    with cotcli.load("demo", threads=1, image_cache=cache, on_progress=lambda phase, *_: phases.append(phase)) as model:
        answer = model.ask(PICTURE, QUESTION)
        logits = first_logits(model)
        score = model.score(PICTURE, QUESTION, "<SUMMARY>I see nothing.</SUMMARY>")
        return answer.raw, logits, tuple(token.logprob for token in score.tokens)


def first_logits(model: Reasoner) -> bytes:
    encoded = model.encode(PICTURE)
    sequence = model.engine.sequence(encoded.kv)
    model.engine.prefill(sequence, model.prompt(QUESTION, encoded))
    logits = model.engine.logits(sequence).tobytes()
    model.engine.drop(sequence)
    return logits


@pytest.mark.usefixtures("all_worth_it")
def test_the_same_answer_bit_for_bit(cache: ImageCache, notes: list[str], phases: list[str]) -> None:
    without = asked(False, phases)
    assert "image" in phases
    assert asked(cache, phases) == without
    assert cache.usage().entries == 1 and notes == []
    phases.clear()
    assert asked(cache, phases) == without
    assert "image" not in phases and notes == [f"{PICTURE}: already encoded, from the image cache"]

    path = cache.folder / files(cache)[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert asked(cache, phases) == without
    assert "image" in phases and "damaged" in notes[1]
    assert cache.load(path.stem) is not None  # it was stored anew


def test_what_is_quickly_encoded_is_not_kept(
    cache: ImageCache, monkeypatch: pytest.MonkeyPatch, phases: list[str]
) -> None:
    monkeypatch.setattr(image_cache, "WORTH_S", 1000.0)
    asked(cache, phases)
    assert not cache.folder.exists()


# -- the command ------------------------------------------------------------------------------------------------------

ASK = ("ask", QUESTION, PICTURE, "--model", "demo", "--threads", 1, "--json")


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, all_worth_it: None) -> Iterator[ImageCache]:
    """The user's own cache, with the picture in it."""
    monkeypatch.setenv("COTCLI_HOME", str(tmp_path / "home"))
    cache = ImageCache()
    assert cache.folder == tmp_path / "home" / "cache" / "images"
    with cotcli.load("demo", threads=1) as model:
        model.encode(PICTURE)
    assert cache.usage().entries == 1
    yield cache


def test_commands_use_the_cache_unless_told_not_to(filled: ImageCache) -> None:
    first = command(*ASK, "-v")
    assert "already encoded" in first.err
    second = command(*ASK, "-v", "--no-image-cache")
    assert "already encoded" not in second.err
    assert command(*ASK).err == ""
    records = [json.loads(done.out) for done in (first, second)]
    assert {**records[0], "timing_ms": 0} == {**records[1], "timing_ms": 0}
    score = ("score", *ASK[1:], "--answer", "1", "-v")
    assert "already encoded" in command(*score).err
    assert "already encoded" not in command(*score, "--no-image-cache").err


def test_cache_show_and_clear(filled: ImageCache) -> None:
    usage = filled.usage()
    done = command("cache", "show")
    assert (done.code, done.out) == (0, f"{filled.folder}: 1 picture, {usage.bytes / 1e6:.1f} MB\n")
    shown = {"folder": str(filled.folder), "entries": 1, "bytes": usage.bytes}
    assert json.loads(command("cache", "show", "--json").out) == shown
    for removed in ("1 picture", "0 pictures"):
        done = command("cache", "clear")
        assert (done.code, done.out) == (0, "") and f"removed {removed}" in done.err
    assert filled.usage() == CacheUsage(0, 0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("105", 105), ("500MB", 500_000_000), ("4gb", 4 * 10**9), ("1.5 GiB", 3 * 2**29), ("2k", 2000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "--image-cache-size") == size


@pytest.mark.parametrize("text", ["", "-1", "big", "4XB", "1e9", "GB", "1.GB"])
def test_bad_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--image-cache-size takes a size"):
        parse_size(text, "--image-cache-size")


def test_a_bad_size_is_a_usage_error_before_all_else() -> None:
    assert command("ask", QUESTION, "none.png", "--image-cache-size", "big").code == 2
