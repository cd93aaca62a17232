"""Conversions from a hub: huggingface_hub's client against a server on loopback that speaks its protocol or misbehaves.

Whatever happens on the way, what is installed in the end is byte for byte what converting the folder gives.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import hf_hub_download

from benchmarks.hub_server import Hub, Request, Trouble
from benchmarks.small_checkpoints import TINY, edit_json, random_tensors, write_checkpoint
from convert import Repository, convert, survey
from convert import pair as pair_module
from cotcli import hub as hub_module
from cotcli.errors import CheckpointError, HubError, UsageError
from cotcli.hub import HubRepo
from cotcli.install import read_record

REPO = "someone/tiny"
NAMES = ["tiny-Q8_0.gguf", "tiny-Q8_0.json", "tiny-Q8_0.mmproj.gguf"]
SHARDS = [f"model-{i}-of-00004.safetensors" for i in ("00001", "00002", "00003", "00004")]
PULL = "tiny-Q8_0.pull"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    write_checkpoint(folder, replace(TINY, shards=4))
    return folder


@pytest.fixture(scope="module")
def expected(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Both files of the folder's own conversion."""
    pair = convert(checkpoint, tmp_path_factory.mktemp("expected"), "q8_0")
    return {path.name: path.read_bytes() for path in (pair.language, pair.mmproj)}


@pytest.fixture
def serving(hub: Hub, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The hub with that checkpoint, to which the client goes back at once after a refusal."""
    monkeypatch.setattr(hub_module, "WAITS", (0.0,) * 5)
    hub.folders[REPO] = checkpoint
    return hub


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def assert_installed(out: Path, expected: dict[str, bytes]) -> None:
    assert listing(out) == NAMES
    for name, data in expected.items():
        assert (out / name).read_bytes() == data


def bodies(change: Callable[[Request], Trouble | None]) -> Callable[[Request], Trouble | None]:
    """Trouble for shards on their way, not for their headers."""
    return lambda request: (
        change(request)
        if request.path.startswith("/store/") and not request.headers.get("range", "").startswith("bytes=0-")
        else None
    )


def test_the_same_files_as_from_the_folder(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    pair = convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    assert serving.fetched == SHARDS
    record = read_record(pair.language)
    assert record is not None
    assert (record.repo, record.revision, record.quant) == (REPO, serving.commit(REPO), "Q8_0")
    assert record.language.bytes == pair.language_bytes == len(expected[NAMES[0]])


def test_at_most_two_shards_are_on_the_disk(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[int] = []

    def look(tensor: str, done: int, total: int) -> None:
        seen.append(len(list((out / PULL / "files").glob("model-*-of-*.safetensors*"))))

    convert(Repository(REPO), out, "q8_0", progress=look, threads=1)
    assert_installed(out, expected)
    assert max(seen) == 2 and seen[-1] == 1


def test_a_survey_is_exact_and_leaves_nothing(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    plan = survey(Repository(REPO), tmp_path / "out", "q8_0")
    assert plan.result_bytes == sum(map(len, expected.values()))
    sizes = {name: (serving.folders[REPO] / name).stat().st_size for name in SHARDS}
    assert plan.files == plan.to_fetch == sizes
    # The last shard is there together with all of the result; before it, less of the result and an earlier one.
    assert plan.disk.shard == max(sizes.values())
    assert plan.result_bytes + sizes[SHARDS[-1]] <= plan.disk.total <= plan.result_bytes + plan.disk.shard
    assert plan.disk.free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert not (tmp_path / "out").exists() and serving.fetched == []


def test_connections_that_break_are_gone_on_with(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    firsts: list[int] = []

    @bodies
    def cut(request: Request) -> Trouble | None:
        firsts.append(request.first)
        return Trouble(cut=100_000)

    serving.trouble = cut
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    assert any(first >= 100_000 for first in firsts)
    total = sum((serving.folders[REPO] / name).stat().st_size for name in SHARDS)
    assert len(firsts) <= total / 100_000 + len(SHARDS), "no byte was sent twice"


def test_a_server_without_ranges(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    cuts = iter([50_000, None, 50_000])
    serving.trouble = bodies(lambda request: Trouble(cut=next(cuts, None), ignore_range=True))
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_refusals_that_pass(status: int, serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    refused: set[tuple[str, str, str]] = set()

    def once(request: Request) -> Trouble | None:
        key = (request.method, request.path, request.headers.get("range", ""))
        if key in refused:
            return None
        refused.add(key)
        return Trouble(status=status)

    serving.trouble = once
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)


def test_a_hub_that_fails_for_good_keeps_what_is_done(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    serving.trouble = bodies(lambda request: Trouble(status=500) if request.file == SHARDS[2] else None)
    with pytest.raises(HubError, match="answers with error 500") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert caught.value.exit_code == 4 and "what has come is kept" in str(caught.value.hint)
    assert listing(tmp_path / "out") == [PULL]
    serving.trouble = lambda request: None
    serving.requests.clear()
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    assert serving.fetched == SHARDS[2:]


def test_ended_between_the_last_shard_and_installing(
    serving: Hub, expected: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashing the result of a large model takes a while."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pair_module, "file_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert listing(tmp_path / "out") == [PULL] and serving.fetched == SHARDS
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    assert serving.fetched == SHARDS, "nothing is fetched again"


def test_what_was_begun_with_is_ended_with(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    """The main branch moves on meanwhile: half of one commit and half of another would be no model."""
    begun = serving.commit(REPO)
    serving.trouble = bodies(lambda request: Trouble(status=500) if request.file == SHARDS[3] else None)
    with pytest.raises(HubError):
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    serving.trouble = lambda request: None
    serving.main[REPO] = "f" * 40
    pair = convert(Repository(REPO), tmp_path / "out", "q8_0")
    record = read_record(pair.language)
    assert record is not None and record.revision == begun
    assert_installed(tmp_path / "out", expected)
    again = read_record(convert(Repository(REPO), tmp_path / "again", "q8_0").language)
    assert again is not None and again.revision == "f" * 40


def test_what_was_begun_with_is_gone(serving: Hub, tmp_path: Path) -> None:
    serving.trouble = bodies(lambda request: Trouble(status=500) if request.file == SHARDS[3] else None)
    with pytest.raises(HubError):
        convert(Repository(REPO), tmp_path / "out", "q8_0", name="mine")
    serving.trouble = lambda request: None
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=4, seed=1))
    serving.folders[REPO] = tmp_path / "tiny"
    with pytest.raises(HubError, match=f"{REPO} has no revision .*, with which an unfinished conversion") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0", name="mine")
    assert "cotcli model pull mine:Q8_0 --force" in str(caught.value.hint)
    assert f"cotcli convert {REPO} --revision main" in str(caught.value.hint)
    pair = convert(Repository(REPO, "main"), tmp_path / "out", "q8_0", name="mine")
    record = read_record(pair.language)
    assert record is not None and record.revision == serving.commit(REPO)


def test_nothing_of_another_commit_is_used(serving: Hub, tmp_path: Path) -> None:
    """Neither a shard that is done, nor one that is here, nor half of one, nor a tokenizer."""

    def stop(request: Request) -> Trouble | None:
        if request.file == SHARDS[2]:
            return Trouble(status=404, code="EntryNotFound") if request.first else Trouble(cut=100_000)
        return None

    serving.trouble = bodies(stop)
    with pytest.raises(HubError):
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert list((tmp_path / "out" / PULL / "files").glob(f"{SHARDS[2]}.*.part"))
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=4, seed=1, vocab_size=330))
    expected = convert(tmp_path / "tiny", tmp_path / "expected", "q8_0")
    serving.folders[REPO] = tmp_path / "tiny"
    serving.trouble = lambda request: None
    serving.requests.clear()
    convert(Repository(REPO, revision=serving.commit(REPO)), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", {path.name: path.read_bytes() for path in (expected.language, expected.mmproj)})
    assert serving.fetched == SHARDS


@pytest.mark.parametrize("file", [SHARDS[1], "tokenizer.json"])
def test_other_bytes_than_the_hub_says(file: str, serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    serving.trouble = lambda request: Trouble(flip=120_000 if file in SHARDS else 50) if request.file == file else None
    with pytest.raises(HubError, match=f"{file} of {REPO} came with other bytes") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert caught.value.exit_code == 4
    assert not [path for path in tmp_path.rglob("*") if path.name in NAMES or path.name.startswith(file)]
    serving.trouble = lambda request: None
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)


def is_head_of(request: Request, shard: str) -> bool:
    return request.file == shard and request.headers.get("range", "").startswith("bytes=0-")


def swapped_header(path: Path) -> bytes:
    """A shard's beginning, in which two tensors of one shape have each other's places."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    by_shape: dict[tuple[int, ...], list[str]] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            by_shape.setdefault(tuple(entry["shape"]), []).append(name)
    one, other = next(names for names in by_shape.values() if len(names) > 1)[:2]
    places = header[one]["data_offsets"], header[other]["data_offsets"]
    header[other]["data_offsets"], header[one]["data_offsets"] = places
    text = json.dumps(header, separators=(",", ":")).encode()
    assert len(text) <= length
    return data[:8] + text.ljust(length)


def test_headers_that_were_changed_do_not_get_through(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    """Headers are read before a hash can be, by requests of their own: the shard itself is what counts."""
    header = swapped_header(serving.folders[REPO] / SHARDS[0])
    serving.trouble = lambda request: Trouble(begin=header) if is_head_of(request, SHARDS[0]) else None
    with pytest.raises(HubError, match=f"the header of {SHARDS[0]} of {REPO} came otherwise") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert "Start it again" in str(caught.value.hint)
    assert not list(tmp_path.rglob("*.gguf"))
    serving.trouble = lambda request: None
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)


def test_a_header_of_the_cache_that_was_changed(serving: Hub, tmp_path: Path) -> None:
    """The whole file is fetched, since the cache's has another hash; by then the header has been read."""
    cached = Path(hf_hub_download(REPO, SHARDS[0]))
    header = swapped_header(cached)
    cached.write_bytes(header + cached.read_bytes()[len(header) :])
    with pytest.raises(HubError, match=f"the header of {SHARDS[0]} of {REPO} came otherwise") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert f"delete {cached.resolve()}" in str(caught.value.hint)
    assert not list((tmp_path / "out").rglob("*.gguf"))


def test_of_a_server_without_ranges_only_the_header_is_read(serving: Hub) -> None:
    repo = HubRepo(REPO)
    data = (serving.folders[REPO] / SHARDS[0]).read_bytes()
    serving.trouble = lambda request: Trouble(ignore_range=True, cut=len(data) // 2)
    # The connection breaks in the middle of the file, which who reads only the beginning does not see.
    assert repo.head(SHARDS[0], 100) == data[:100]


@pytest.mark.parametrize(
    ("trouble", "message", "hint"),
    [
        (Trouble(status=403, code="GatedRepo"), f"{REPO} is gated", "hf auth login"),
        (Trouble(status=401, code="GatedRepo"), f"{REPO} is gated", f"/{REPO}"),
        (Trouble(status=404, code="RepoNotFound"), f"there is no repository {REPO}", "hf auth login"),
        (Trouble(status=404, code="RevisionNotFound"), f"{REPO} has no revision main", "commits"),
        (Trouble(status=403), "refuses someone/tiny", "hf auth login"),
        (Trouble(status=429), "wants fewer requests", "later"),
        (Trouble(status=502), "answers with error 502", "later"),
    ],
)
def test_refusals(trouble: Trouble, message: str, hint: str, serving: Hub, tmp_path: Path) -> None:
    serving.trouble = lambda request: trouble if request.path.startswith("/api/models") else None
    with pytest.raises(HubError, match=message) as caught:
        convert(Repository(REPO), tmp_path / "new" / "out", "q8_0")
    assert caught.value.exit_code == 4
    assert caught.value.hint is not None and hint in caught.value.hint
    assert "\n" not in caught.value.message and not (tmp_path / "new").exists()


@pytest.mark.parametrize("body", [b"<html>Welcome to our network</html>", b"{}", b"[]"])
def test_a_server_that_is_no_hub(body: bytes, serving: Hub, tmp_path: Path) -> None:
    serving.trouble = lambda request: Trouble(body=body)
    with pytest.raises(HubError, match=f"{serving.url} does not answer as a hub does") as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert "HF_ENDPOINT" in str(caught.value.hint) and not (tmp_path / "out").exists()


def test_a_file_that_is_shorter_than_the_hub_says(serving: Hub, checkpoint: Path, tmp_path: Path) -> None:
    """Waiting does not make it longer."""
    shutil.copytree(checkpoint, tmp_path / "changed")
    serving.folders[REPO] = tmp_path / "changed"
    shard = tmp_path / "changed" / SHARDS[2]
    entry = serving.describe(shard)
    size = entry["size"]
    entry["size"] = entry["lfs"]["size"] = size + 1000
    with pytest.raises(
        HubError, match=f"{SHARDS[2]} of {REPO} ends after {size} bytes; .* has {size + 1000}"
    ) as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert "later" not in str(caught.value.hint) and f"/{REPO}" in str(caught.value.hint)


def test_gated_files(serving: Hub, tmp_path: Path) -> None:
    """As the real hub does it: the list of files is open, the files are not."""
    serving.trouble = lambda request: Trouble(status=403, code="GatedRepo") if "/resolve/" in request.path else None
    with pytest.raises(HubError, match=f"{REPO} is gated: its owner lets in who accepts its licence"):
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert not (tmp_path / "out").exists()


def test_the_token_goes_to_the_hub(serving: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    asked = [request for request in serving.requests if request.path.startswith(("/api/models", f"/{REPO}"))]
    assert len(asked) > 10 and {request.headers.get("authorization") for request in asked} == {"Bearer hf_mine"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: edit_json(folder / "config.json", model_type="llava"),
            "tiny/config.json: model_type is 'llava'",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tiny/tokenizer.json is missing"),
        (lambda folder: (folder / "model.safetensors.index.json").unlink(), "tiny has neither model.safetensors.index"),
        (lambda folder: (folder / SHARDS[1]).unlink(), f"tiny lacks {SHARDS[1]}"),
        (lambda folder: (folder / SHARDS[1]).write_bytes(b"\xff" * 64), f"tiny/{SHARDS[1]} is not a safetensors file"),
    ],
)
def test_refused_before_anything_large_is_fetched(
    change: Callable[[Path], object], message: str, serving: Hub, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "changed")
    change(tmp_path / "changed")
    serving.folders[REPO] = tmp_path / "changed"
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert str(tmp_path) not in caught.value.message
    assert serving.fetched == [] and not (tmp_path / "out").exists()


def test_values_that_are_no_numbers_end_it(serving: Hub, tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors["multi_modal_projector.weight"][3, 5] = np.nan
    write_checkpoint(tmp_path / "nan", replace(TINY, shards=4), tensors)
    serving.folders[REPO] = tmp_path / "nan"
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.weight holds NaN"):
        convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert listing(tmp_path / "out") == []


def test_the_cache_is_used_and_left_alone(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    cached = Path(hf_hub_download(REPO, SHARDS[1]))
    broken = Path(hf_hub_download(REPO, SHARDS[2]))
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    serving.requests.clear()
    convert(Repository(REPO), tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    assert serving.fetched == [SHARDS[0], SHARDS[2], SHARDS[3]]
    assert cached.exists() and broken.read_bytes() == data


def test_offline(serving: Hub, expected: dict[str, bytes], tmp_path: Path) -> None:
    source = Repository(REPO, offline=True)
    with pytest.raises(HubError, match="is not in the Hugging Face cache") as caught:
        convert(source, tmp_path / "out", "q8_0")
    assert caught.value.exit_code == 4
    for path in serving.folders[REPO].iterdir():
        hf_hub_download(REPO, path.name)
    serving.requests.clear()
    pair = convert(source, tmp_path / "out", "q8_0")
    assert_installed(tmp_path / "out", expected)
    record = read_record(pair.language)
    assert record is not None and (record.repo, record.revision) == (REPO, serving.commit(REPO))
    assert serving.requests == []


def test_offline_with_a_part_of_it(serving: Hub, tmp_path: Path) -> None:
    for path in serving.folders[REPO].iterdir():
        if path.name != SHARDS[1]:
            hf_hub_download(REPO, path.name)
    with pytest.raises(CheckpointError, match=rf"{SHARDS[1]} of {REPO} is not in the Hugging Face cache"):
        convert(Repository(REPO, offline=True), tmp_path / "out", "q8_0")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", [SHARDS[1], "config.json"])
def test_offline_with_a_damaged_file(file: str, serving: Hub, tmp_path: Path) -> None:
    """Damage that no header and no JSON parser sees: the name of the cache's file is its hash."""
    for path in serving.folders[REPO].iterdir():
        hf_hub_download(REPO, path.name)
    damaged = Path(hf_hub_download(REPO, file))
    data = damaged.read_bytes()
    other = data[:-1] + bytes([data[-1] ^ 1]) if file in SHARDS else data.replace(b": ", b":\t", 1)
    assert len(other) == len(data) and other != data
    damaged.write_bytes(other)
    with pytest.raises(HubError, match=f"{file} of {REPO} is damaged in the Hugging Face cache") as caught:
        convert(Repository(REPO, offline=True), tmp_path / "out", "q8_0")
    assert f"Delete {damaged.resolve()}" in str(caught.value.hint)
    assert not list(tmp_path.glob("out/*.gguf"))


def test_names_that_no_repository_has(serving: Hub, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a/b\.\.c cannot be a repository's name"):
        convert(Repository("a/b..c"), tmp_path / "out", name="x")


def test_a_repository_that_names_its_files_badly(serving: Hub, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "changed")
    edit_json(tmp_path / "changed" / "model.safetensors.index.json", weight_map={"x": "../x.safetensors"})
    serving.folders[REPO] = tmp_path / "changed"
    with pytest.raises(CheckpointError, match=r"tiny/model\.safetensors\.index\.json has no usable weight_map"):
        convert(Repository(REPO), tmp_path / "out", "q8_0")
