"""`cotcli model` and `convert OWNER/REPO` as a user meets them, against a hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from benchmarks.hub_server import Hub, Trouble
from tests.cli.process import COMMAND, Finished, cotcli, cotcli_on_terminal, environment

REPO = "someone/noise"
READY = "someone/gguf"
QUESTION = "How many?"


@pytest.fixture
def serving(hub: Hub, home: Path, checkpoint: Path) -> Hub:
    """A hub with the random checkpoint, which the user's models.toml calls `mine`."""
    hub.folders[REPO] = checkpoint
    home.mkdir()
    (home / "models.toml").write_text(
        f'[models.mine]\nrepo = "{REPO}"\nlicence = "Only on Sundays"\ndefault_quant = "Q8_0"\n'
        'download_bytes = 1_400_000\nsizes = {Q8_0 = 700_000}\nstage_format = "none"\n'
    )
    return hub


@pytest.fixture
def installed(serving: Hub, home: Path) -> Path:
    """The language file of `mine`, pulled."""
    done = cotcli("model", "pull", "mine", "--threads", 1, "--quiet")
    assert (done.code, done.err) == (0, "")
    return Path(done.out.strip())


def fails(done: Finished, code: int, *texts: str) -> None:
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines()
    assert 1 <= len(lines) <= 2 and lines[0].startswith("cotcli: ")
    for text in texts:
        assert text in done.err


def entries(name: str) -> list[dict[str, Any]]:
    return [entry for entry in json.loads(cotcli("model", "ls", "--json").out) if entry["name"] == name]


def test_pull(serving: Hub, home: Path, checkpoint: Path, picture: Path, tmp_path: Path) -> None:
    language = home / "models" / "mine" / "mine-Q8_0.gguf"
    done = cotcli("model", "pull", "mine", "--dry-run")
    commit = serving.commit(REPO)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()] == ["source", "licence", "download", "result", "disk"]
    assert f"{REPO} at {commit}" in done.out and "Only on Sundays" in done.out and str(language) in done.out
    assert not language.parent.exists() and serving.fetched == []

    done = cotcli("model", "pull", "mine", "--threads", 1)
    assert (done.code, done.out) == (0, f"{language}\n")
    lines = done.err.splitlines()
    assert lines[0] == f"cotcli: {REPO} at {commit[:12]}, since no revision is pinned"
    assert "to download; disk: " in lines[1]
    assert lines[2:4] == ["cotcli: licence: Only on Sundays", "cotcli: file 1 of 1 is here: model.safetensors"]
    assert len(lines) == 5 and "\x1b" not in done.err

    converted = cotcli("convert", checkpoint, "--type", "q8_0", "--name", "mine", "--out", tmp_path / "folder")
    for suffix in (".gguf", ".mmproj.gguf"):
        expected = Path(converted.out.strip()).with_name(f"mine-Q8_0{suffix}").read_bytes()
        assert language.with_name(f"mine-Q8_0{suffix}").read_bytes() == expected

    # From here on nothing needs the hub.
    serving.requests.clear()
    asked = cotcli("ask", QUESTION, picture, "-m", "mine", "--json", "--max-tokens", 3, "--threads", 1)
    assert json.loads(asked.out)["model"]["sha256"] == hashlib.sha256(language.read_bytes()).hexdigest()
    again = cotcli("model", "pull", "mine")
    assert (again.code, again.out) == (0, f"{language}\n") and "installed already; --force" in again.err
    assert serving.requests == []
    [entry] = entries("mine")
    assert (entry["installed"], entry["quant"], entry["repo"], entry["revision"]) == (True, "Q8_0", REPO, commit)
    assert f"from {REPO} at {commit}" in cotcli("model", "show", "mine").out


def test_what_pull_refuses(serving: Hub, home: Path) -> None:
    fails(cotcli("model", "pull", "none"), 4, "there is no model none", "cotcli model ls")
    fails(cotcli("model", "pull", "lava-cot:q8_0"), 4, "there is no model lava-cot", "Did you mean llava-cot? ")
    fails(cotcli("model", "pull", "some/repo"), 4, "cotcli convert some/repo")
    fails(cotcli("model", "pull", "mine:q3"), 2, "Q3")
    fails(cotcli("model", "pull", "mine:q8_0", "--type", "f16"), 2, "two quantizations")
    fails(cotcli("model", "pull", "mine", "--offline"), 4, "not in the Hugging Face cache", "--offline")
    fails(cotcli("model", "pull", "mine", env={"HF_HUB_OFFLINE": "1"}), 4, "not in the Hugging Face cache")
    # A port that nothing listens on.
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    fails(cotcli("model", "pull", "mine", env=nowhere), 4, "cannot reach http://127.0.0.1:9")
    for malformed in ("http://127.0.0.1:port", "http://[::1"):
        fails(cotcli("model", "pull", "mine", env={"HF_ENDPOINT": malformed}), 4, malformed, "HF_ENDPOINT")
    serving.trouble = lambda request: Trouble(403, "GatedRepo") if "/resolve/" in request.path else None
    fails(cotcli("model", "pull", "mine"), 4, f"{REPO} is gated", f"{serving.url}/{REPO}", "hf auth login")
    assert not (home / "models").exists()


def test_what_comes_with_cotcli_is_not_pulled(hub: Hub) -> None:
    done = cotcli("model", "pull", "demo")
    assert done.code == 0 and done.out.endswith("demo-Q8_0.gguf\n") and "comes with cotcli" in done.err
    assert hub.requests == []


def test_pull_again(serving: Hub, installed: Path) -> None:
    before = installed.read_bytes()
    installed.write_bytes(b"broken")
    done = cotcli("model", "pull", "mine:q8_0", "--force", "--quiet", "--threads", 1)
    assert (done.code, done.out, done.err) == (0, f"{installed}\n", "")
    assert installed.read_bytes() == before


def test_an_unfinished_pull_is_listed_and_gone_on_with(serving: Hub, home: Path, checkpoint: Path) -> None:
    size = (checkpoint / "model.safetensors").stat().st_size
    tries = iter(range(100))

    def stop(request: Any) -> Trouble | None:
        if not request.path.startswith("/store/") or request.headers.get("range", "").startswith("bytes=0-"):
            return None
        return Trouble(cut=size // 2) if next(tries) == 0 else Trouble(status=404, code="EntryNotFound")

    serving.trouble = stop
    fails(cotcli("model", "pull", "mine", "--quiet"), 4, f"{REPO} lacks a file that it lists")
    [entry] = entries("mine")
    assert (entry["installed"], entry["quant"]) == (False, "Q8_0") and entry["unfinished_bytes"] >= size // 2
    [line] = [line for line in cotcli("model", "ls").out.splitlines() if line.startswith("mine ")]
    assert line.endswith("unfinished: cotcli model pull mine:Q8_0")
    serving.trouble = lambda request: None
    serving.requests.clear()
    done = cotcli("model", "pull", "mine", "--threads", 1)
    assert done.code == 0
    assert [request.first for request in serving.requests if request.file in serving.fetched][-1] == size // 2
    assert sorted(path.name for path in (home / "models" / "mine").iterdir()) == [
        "mine-Q8_0.gguf",
        "mine-Q8_0.json",
        "mine-Q8_0.mmproj.gguf",
    ]


def test_force_begins_anew_where_the_commit_is_gone(serving: Hub, home: Path, checkpoint: Path, tmp_path: Path) -> None:
    last = max(path.name for path in checkpoint.glob("*.safetensors"))
    serving.trouble = lambda request: (
        Trouble(404, "EntryNotFound")
        if request.path.endswith(f"/{last}") and not request.headers.get("range", "").startswith("bytes=0-")
        else None
    )
    fails(cotcli("model", "pull", "mine", "--quiet"), 4, "lacks a file that it lists")
    serving.trouble = lambda request: None
    shutil.copytree(checkpoint, tmp_path / "next")
    (tmp_path / "next" / "generation_config.json").write_text("{}")
    serving.folders[REPO] = tmp_path / "next"
    fails(cotcli("model", "pull", "mine", "--quiet"), 4, "has no revision", "cotcli model pull mine:Q8_0 --force")
    done = cotcli("model", "pull", "mine:Q8_0", "--force", "--quiet", "--threads", 1)
    assert (done.code, done.err) == (0, "")
    [entry] = entries("mine")
    assert entry["revision"] == serving.commit(REPO)


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process is POSIX")
def test_ctrl_c_keeps_what_has_come(serving: Hub, home: Path) -> None:
    serving.delay = 0.2
    command = [*COMMAND, "model", "pull", "mine", "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
    while serving.bytes_sent < 500_000:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == [
        "cotcli: interrupted",
        "What has come is kept for the next time; to drop it: cotcli model rm mine:Q8_0",
    ]
    [entry] = entries("mine")
    assert entry["unfinished_bytes"] > 100_000
    assert "freed" in cotcli("model", "rm", "mine:q8_0", "-y").err and not (home / "models" / "mine").exists()


def test_convert_from_the_hub(serving: Hub, home: Path, tmp_path: Path) -> None:
    language = home / "models" / "mine" / "mine-Q8_0.gguf"
    done = cotcli("convert", REPO, "--type", "q8_0", "--threads", 1)
    assert (done.code, done.out) == (0, f"{language}\n")
    fails(cotcli("convert", REPO, "--type", "q8_0"), 2, "--force")
    revision = ["--revision", serving.commit(REPO)]
    done = cotcli("convert", REPO, *revision, "--out", tmp_path / "out", "--type", "q8_0", "--name", "other")
    assert (done.code, done.out) == (0, f"{tmp_path}/out/other-Q8_0.gguf\n") and "no revision is pinned" not in done.err
    fails(cotcli("convert", REPO, "--revision", "v2", "--type", "f16"), 4, f"{REPO} has no revision v2")


@pytest.fixture
def ready(serving: Hub, home: Path, noise: Path, tmp_path: Path) -> Iterator[Path]:
    """`mine` has a pair on the hub that needs no conversion; the folder that it is served from."""
    folder = tmp_path / "served"
    (folder / "half").mkdir(parents=True)
    shutil.copy(noise, folder / "language.gguf")
    shutil.copy(noise.with_name(noise.name.removesuffix(".gguf") + ".mmproj.gguf"), folder / "half" / "other.gguf")
    serving.folders[READY] = folder
    with (home / "models.toml").open("a") as file:
        file.write(f'[[models.mine.ready]]\nquant = "F32"\nrepo = "{READY}"\nrevision = "{serving.commit(READY)}"\n')
        for half, name in (("language", "language.gguf"), ("mmproj", "half/other.gguf")):
            digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            file.write(f'{half} = "{name}"\n{half}_sha256 = "{digest}"\n')
    yield folder


def test_a_ready_pair_is_not_converted(serving: Hub, ready: Path, home: Path, noise: Path, picture: Path) -> None:
    language = home / "models" / "mine" / "mine-F32.gguf"
    done = cotcli("model", "pull", "mine:f32", "--dry-run")
    size = f"{sum(path.stat().st_size for path in ready.rglob('*.gguf')) / 1e6:.1f} MB"
    assert done.code == 0 and not language.parent.exists()
    assert done.out.splitlines()[:-1] == [
        f"source    {READY} at {serving.commit(READY)}",
        "licence   Only on Sundays",
        f"download  {size} of {size} in 2 files",
        f"result    {language} and its .mmproj.gguf, {size}",
    ]
    assert done.out.splitlines()[-1].startswith(f"disk      {size} needed, ")
    done = cotcli("model", "pull", "mine:f32")
    assert (done.code, done.out) == (0, f"{language}\n")
    assert f"cotcli: {READY} at {serving.commit(READY)[:12]}: " in done.err and "Only on Sundays" in done.err
    assert language.read_bytes() == noise.read_bytes()
    assert sorted(path.name for path in language.parent.iterdir()) == [
        "mine-F32.gguf",
        "mine-F32.json",
        "mine-F32.mmproj.gguf",
    ]
    assert cotcli("model", "verify", "mine").out == "mine:F32  ok\n"
    answered = cotcli("ask", QUESTION, picture, "-m", "mine", "--max-tokens", 3, "--threads", 1, "--json")
    assert json.loads(answered.out)["model"]["quant"] == "F32"
    # The other quantizations come from the checkpoint.
    assert cotcli("model", "pull", "mine:q8_0", "--dry-run").out.startswith(f"source    {REPO} at ")


def test_a_ready_pair_must_be_what_models_toml_says(serving: Hub, ready: Path, home: Path) -> None:
    serving.trouble = lambda request: Trouble(flip=1000) if request.path.startswith("/store/") else None
    fails(cotcli("model", "pull", "mine:f32", "--quiet"), 4, "language.gguf of someone/gguf came with other bytes")
    serving.trouble = lambda request: None
    toml = (home / "models.toml").read_text()
    last = toml.rindex('"') - 1
    (home / "models.toml").write_text(f'{toml[:last]}{"1" if toml[last] == "0" else "0"}"\n')
    done = cotcli("model", "pull", "mine:f32", "--quiet")
    fails(done, 4, "half/other.gguf of someone/gguf is not the file that models.toml names")
    assert not list(home.rglob("*.gguf"))


def test_a_ready_pair_offline(serving: Hub, ready: Path, home: Path, noise: Path) -> None:
    """From the cache, by the checksums of models.toml: the cache's own names may be wrong."""
    pull = ("model", "pull", "mine:f32", "--offline", "--quiet")
    fails(cotcli(*pull), 4, f"{READY} is not in the Hugging Face cache", "--offline")
    commit = serving.commit(READY)
    hf_hub_download(READY, "language.gguf", revision=commit)
    fails(cotcli(*pull), 4, f"half/other.gguf of {READY} is not in the Hugging Face cache", "--offline")
    cached = Path(hf_hub_download(READY, "half/other.gguf", revision=commit))
    serving.requests.clear()
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    fails(cotcli(*pull), 4, f"half/other.gguf of {READY} is damaged", f"Delete {cached.resolve()}")
    cached.write_bytes(whole)
    # All of it is copied, so it needs its room once more, though nothing is to come.
    lines = cotcli("model", "pull", "mine:f32", "--dry-run", env={"HF_HUB_OFFLINE": "1"}).out.splitlines()
    size = f"{(noise.stat().st_size + len(whole)) / 1e6:.1f} MB"
    assert lines[2] == f"download  0.0 MB of {size} in 2 files"
    copied = f"{len(whole) / 1e6:.1f} MB"  # the other half was copied before the damage was found
    assert lines[4].startswith(f"disk      {copied} needed, ")
    done = cotcli(*pull)
    language = home / "models" / "mine" / "mine-F32.gguf"
    assert (done.code, done.out, done.err) == (0, f"{language}\n", "")
    assert language.read_bytes() == noise.read_bytes() and serving.requests == []
    assert cotcli("model", "verify", "mine").out == "mine:F32  ok\n"


def test_what_lacks_its_other_half_is_installed_by_the_command_that_is_named(installed: Path) -> None:
    mmproj = installed.with_name("mine-Q8_0.mmproj.gguf")
    whole = mmproj.read_bytes()
    mmproj.unlink()
    fails(cotcli("model", "show", "mine:q8_0"), 4, "To install it: cotcli model pull mine:Q8_0")
    done = cotcli("model", "pull", "mine:Q8_0", "--quiet", "--threads", 1)
    assert (done.code, done.out, done.err) == (0, f"{installed}\n", "")
    assert mmproj.read_bytes() == whole


def test_verify(installed: Path, home: Path) -> None:
    done = cotcli("model", "verify")
    assert (done.code, done.err) == (0, "")
    assert done.out == "demo:Q8_0  ok\nmine:Q8_0  ok\n"
    mmproj = installed.with_name("mine-Q8_0.mmproj.gguf")
    data = bytearray(mmproj.read_bytes())
    data[-1] ^= 1
    mmproj.write_bytes(data)
    done = cotcli("model", "verify")
    assert done.code == 4
    assert done.out == "demo:Q8_0  ok\nmine:Q8_0  broken: mine-Q8_0.mmproj.gguf has other bytes than it had\n"
    assert done.err.splitlines() == [
        "cotcli: mine:Q8_0 cannot be relied on",
        "Install it again: cotcli model pull mine:Q8_0 --force",
    ]
    done = cotcli("model", "verify", "mine:q8_0", "--json")
    [check] = json.loads(done.out)
    assert done.code == 4 and (check["name"], check["ok"], len(check["problems"])) == ("mine", False, 1)
    mmproj.unlink()
    done = cotcli("model", "verify", "mine")
    assert (done.code, done.out) == (4, "mine:Q8_0  broken: mine-Q8_0.mmproj.gguf is missing\n")
    assert cotcli("model", "verify", "demo").out == "demo:Q8_0  ok\n"
    fails(cotcli("model", "verify", "none"), 4, "none")


def test_verify_without_a_record(installed: Path) -> None:
    installed.with_name("mine-Q8_0.json").unlink()
    done = cotcli("model", "verify", "mine", "--json")
    assert done.code == 0 and json.loads(done.out)[0]["ok"] is None
    assert cotcli("model", "verify", installed).out == "mine:Q8_0  unknown: there is no record of its checksums\n"


def test_rm(serving: Hub, installed: Path, home: Path) -> None:
    fails(cotcli("model", "rm", "demo"), 2, "demo comes with cotcli")
    fails(cotcli("model", "rm", "none", "--yes"), 4, "none is not installed")
    fails(cotcli("model", "rm", "mine:f16", "--yes"), 4, "mine:f16 is not installed")
    fails(cotcli("model", "rm", "mine"), 2, "mine:Q8_0", "--yes")
    assert installed.exists()
    # A killed pull of another quantization has left something; it goes with the rest.
    (installed.parent / "mine-F16.pull" / "files").mkdir(parents=True)
    (installed.parent / "mine-F16.pull" / "files" / "model.safetensors.part").write_bytes(b"1" * 300_000)
    size = sum(path.stat().st_size for path in installed.parent.rglob("*") if path.is_file())
    done = cotcli("model", "rm", "mine", "--yes")
    assert (done.code, done.out) == (0, "")
    assert done.err == f"cotcli: removed mine:F16 (unfinished), mine:Q8_0: {size / 1e6:.1f} MB freed\n"
    assert not installed.parent.exists()
    fails(cotcli("model", "rm", "mine", "--yes"), 4, "mine is not installed")


def test_folders_that_are_called_as_models_are(installed: Path) -> None:
    folder = installed.with_name("mine-F16.gguf")
    folder.mkdir()
    fails(cotcli("model", "verify", "mine:f16"), 4, "mine is not installed as F16")
    installed.with_name("mine-F16.mmproj.gguf").write_bytes(b"half")
    done = cotcli("model", "verify", "mine")
    assert done.code == 4 and "mine:F16  broken: mine-F16.gguf is missing\n" in done.out
    done = cotcli("model", "rm", "mine", "--yes")
    assert done.code == 0 and list(installed.parent.iterdir()) == [folder]


def test_rm_asks_on_a_terminal(installed: Path) -> None:
    for answer, there in (("\n", True), ("n\n", True), ("y\n", False)):
        done = cotcli_on_terminal("model", "rm", "mine", one=True, typed=answer)
        assert "cotcli: remove mine:Q8_0, " in done.out and "? [y/N]" in done.out
        assert (done.code, installed.exists()) == (130 if there else 0, there)
        assert ("nothing was removed" if there else "freed") in done.out


def test_progress_on_a_terminal(serving: Hub, checkpoint: Path) -> None:
    serving.delay = 0.05
    done = cotcli_on_terminal("model", "pull", "mine", "--threads", 1, columns=100)
    assert done.code == 0
    assert done.out.strip().endswith("mine-Q8_0.gguf") and "\x1b" not in done.out
    assert "File 1 of 1" in done.err and "Converting " in done.err and "MB" in done.err
    quiet = cotcli_on_terminal("model", "pull", "mine", "--force", "--quiet", "--threads", 1)
    assert (quiet.code, quiet.err) == (0, "")


def test_show_estimates_memory_of_what_is_not_installed(home: Path) -> None:
    about = json.loads(cotcli("model", "show", "llava-cot", "--json").out)
    assert about["pairs"] == [] and list(about["memory_bytes"]) == list(about["sizes"])
    [more] = {about["memory_bytes"][quant] - size for quant, size in about["sizes"].items()}
    assert more > 1_000_000_000
    [line] = [line for line in cotcli("model", "show", "llava-cot").out.splitlines() if line.startswith("memory ")]
    assert f"Q4_K_M {about['memory_bytes']['Q4_K_M'] / 1e9:.1f} GB" in line


def test_show_estimates_memory() -> None:
    """Of the bundled model: 4 self-attention and 2 cross-attention layers; keys and values of 2 heads of 64, in F16."""
    [pair] = json.loads(cotcli("model", "show", "demo", "--json").out)["pairs"]
    token = 2 * 2 * 64 * 2
    context, picture = 4 * 4096 * token, 2 * 4 * (4 * 4 + 1) * token
    assert pair["memory_bytes"] > pair["bytes"] + context + picture
    shown = cotcli("model", "show", "demo").out
    assert f"needs about {pair['memory_bytes'] / 1e6:.1f} MB of memory: weights " in shown
    assert f", the context {context / 1e6:.1f} MB, a picture {picture / 1e6:.1f} MB, to compute with " in shown
    # The doctor says the same of a machine without a GPU.
    [seen] = json.loads(cotcli("doctor", "--json").out)["models"]
    if seen["gpu_layers"] == 0:
        assert sum(share["resident"] + share["mapped"] for share in seen["memory"]) == pair["memory_bytes"]
