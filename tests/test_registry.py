"""What a model's name or path on the command line finds."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cotcli import registry
from cotcli.errors import ModelError, ModelNotFoundError, UsageError
from cotcli.install import InstallRecord, file_record, read_record, record_beside, work_beside, write_record
from cotcli.specs import ModelSpec, ReadyPair, specs

READY = ReadyPair("F16", "someone/gguf", "0" * 40, "a.gguf", "b.gguf", "0" * 64, "1" * 64)


@pytest.fixture(autouse=True)
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("COTCLI_HOME", str(home))
    return home


def make_pair(folder: Path, stem: str) -> Path:
    """Two empty files with the names of a pair; the registry never opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.mmproj.gguf").touch()
    (folder / f"{stem}.gguf").touch()
    return folder / f"{stem}.gguf"


def test_nothing_installed_names_the_next_command() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        registry.resolve("llava-cot")
    assert caught.value.exit_code == 4
    assert caught.value.message == "the model llava-cot is not installed"
    assert caught.value.hint == (
        "To install it: cotcli model pull llava-cot (42.7 GB to download, 7.9 GB on disk). "
        "The bundled model runs now: cotcli demo"
    )


@pytest.mark.parametrize("name", ["no-such-model", "no/such/path.gguf", "no-such.gguf", "a.gguf,b.gguf", "x:Q8_0", ""])
def test_unknown(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        registry.resolve(name)


def test_installed_by_name(empty_home: Path) -> None:
    q8 = make_pair(empty_home / "models" / "llava-cot", "llava-cot-Q8_0")
    found = registry.resolve("llava-cot")
    assert (found.language, found.quant, found.spec.name) == (q8, "Q8_0", "llava-cot")
    assert found.mmproj == q8.with_name("llava-cot-Q8_0.mmproj.gguf")

    q4 = make_pair(empty_home / "models" / "llava-cot", "llava-cot-Q4_K_M")
    assert registry.resolve("llava-cot").language == q4, "the default quantization"
    assert registry.resolve("llava-cot:q8_0").language == q8
    with pytest.raises(ModelNotFoundError, match="llava-cot is not installed as F16") as caught:
        registry.resolve("llava-cot:F16")
    assert caught.value.hint == (
        "To install it: cotcli model pull llava-cot:F16 (42.7 GB to download, 21.5 GB on disk). "
        "The bundled model runs now: cotcli demo"
    )
    assert [pair.language for pair in registry.installed() if pair.spec.name == "llava-cot"] == [q4, q8]


def test_a_name_that_models_toml_does_not_have(empty_home: Path) -> None:
    q8 = make_pair(empty_home / "models" / "mine", "mine-Q8_0")
    assert registry.resolve("mine").language == q8
    make_pair(empty_home / "models" / "mine", "mine-Q6_K")
    with pytest.raises(UsageError) as caught:
        registry.resolve("mine")
    assert caught.value.hint == "Name one of them: mine:Q6_K, mine:Q8_0"


def test_installed_under_the_name_of_its_repository(empty_home: Path) -> None:
    language = make_pair(empty_home / "models" / "Llama-3.2V-11B-cot", "Llama-3.2V-11B-cot-Q4_K_M")
    found = registry.resolve("Llama-3.2V-11B-cot")
    assert (found.language, found.spec.name, found.spec.bos_count) == (language, "Llama-3.2V-11B-cot", 2)


@pytest.mark.parametrize(
    ("stem", "name", "bos_count", "stage_format"),
    [
        ("Llama-3.2V-11B-cot-Q4_K_M", "llava-cot", 2, "tags"),
        ("llama-3.2-11b-vision-instruct-F16", "llama-3.2-vision", 1, "none"),
        ("Llama-3.2V-11B-cot", "llava-cot", 2, "tags"),
        ("another-Q8_0", "another", 1, "tags"),
    ],
)
def test_the_name_of_the_repository(tmp_path: Path, stem: str, name: str, bos_count: int, stage_format: str) -> None:
    spec = registry.resolve(make_pair(tmp_path, stem)).spec
    assert (spec.name, spec.bos_count, spec.stage_format) == (name, bos_count, stage_format)


def test_how_to_install() -> None:
    assert registry.how_to_install(specs()["demo"]) == "pip install --force-reinstall cotcli"
    assert registry.how_to_install(ModelSpec("mine")) == "cotcli convert SRC --name mine"
    assert registry.how_to_install(ModelSpec("mine"), "F16") == "cotcli convert SRC --name mine --type F16"
    assert registry.how_to_install(specs()["llava-cot"]) == "cotcli model pull llava-cot"
    assert registry.how_to_install(specs()["llava-cot"], "Q8_0") == "cotcli model pull llava-cot:Q8_0"
    assert registry.how_to_install(ModelSpec("mine", ready=(READY,))) == "cotcli model pull mine"


def test_how_large() -> None:
    assert registry.how_large(specs()["llava-cot"]) == "42.7 GB to download, 7.9 GB on disk"
    assert registry.how_large(specs()["llava-cot"], "q8_0") == "42.7 GB to download, 12.3 GB on disk"
    assert registry.how_large(ModelSpec("mine")) == ""
    ready = ModelSpec("mine", download_bytes=9_000_000_000, sizes={"F16": 12_300_000}, ready=(READY,))
    assert registry.how_large(ready, "F16") == "12.3 MB to download"


def test_checksums_come_from_the_record(empty_home: Path) -> None:
    language = make_pair(empty_home / "models" / "llava-cot", "llava-cot-Q8_0")
    language.write_bytes(b"language")
    found = registry.resolve("llava-cot")
    assert (found.sha256, found.mmproj_sha256, found.record) == (None, None, None)
    record = InstallRecord(
        file_record(language), file_record(found.mmproj), "Q8_0", repo="someone/model", revision="0" * 40
    )
    write_record(language, record)
    found = registry.resolve("llava-cot")
    assert found.sha256 == hashlib.sha256(b"language").hexdigest()
    assert (found.mmproj_sha256, found.record) == (hashlib.sha256(b"").hexdigest(), record)
    language.write_bytes(b"another language")  # replaced by hand: the record is not about that
    assert registry.resolve("llava-cot").sha256 is None
    record_beside(language).write_text("{")  # a broken record does not keep a model from running
    assert registry.resolve("llava-cot").language == language
    with pytest.raises(ModelError, match=r"llava-cot-Q8_0\.json cannot be read"):
        read_record(language)


def test_traces(empty_home: Path) -> None:
    folder = empty_home / "models" / "llava-cot"
    q8 = make_pair(folder, "llava-cot-Q8_0")
    record_beside(q8).write_text("")
    q4 = folder / "llava-cot-Q4_K_M.gguf"
    work_beside(q4).mkdir()
    (work_beside(q4) / "language.part").write_bytes(bytes(5000))
    (folder / "notes.txt").touch()
    (folder / "llava-cot-F16.mmproj.gguf.part").touch()
    found = {trace.quant: trace for trace in registry.traces("llava-cot")}
    assert {
        quant: [path.name.removeprefix(f"llava-cot-{quant}") for path in t.paths] for quant, t in found.items()
    } == {
        "Q8_0": [".gguf", ".json", ".mmproj.gguf"],
        "Q4_K_M": [".pull"],
        "F16": [".mmproj.gguf.part"],
    }
    assert found["Q4_K_M"].unfinished and found["Q4_K_M"].size == 5000 and not found["Q8_0"].unfinished
    assert [(trace.name, trace.quant) for trace in registry.unfinished()] == [("llava-cot", "Q4_K_M")]
    assert registry.how_to_go_on(found["Q4_K_M"]) == "cotcli model pull llava-cot:Q4_K_M"
    assert [trace.quant for trace in registry.traces("llava-cot", "q8_0")] == ["Q8_0"]
    assert registry.traces("demo") == registry.traces("../models") == registry.traces("none") == []


def test_by_path(tmp_path: Path) -> None:
    language = make_pair(tmp_path / "pair", "llava-cot-Q5_K_S")
    for given in (language, str(language), tmp_path / "pair", f"{language},{language.with_suffix('')}.mmproj.gguf"):
        found = registry.resolve(given)
        assert (found.language, found.quant, found.spec.bos_count) == (language, "Q5_K_S", 2)


def test_two_files_of_any_name(tmp_path: Path) -> None:
    for name in ("one.gguf", "two.gguf"):
        (tmp_path / name).touch()
    found = registry.resolve(f"{tmp_path}/one.gguf,{tmp_path}/two.gguf")
    assert (found.language.name, found.mmproj.name, found.spec.name, found.quant) == (
        "one.gguf",
        "two.gguf",
        "one",
        "unknown",
    )


def test_half_a_pair(tmp_path: Path) -> None:
    language = make_pair(tmp_path, "a-F16")
    with pytest.raises(UsageError) as caught:
        registry.resolve(language.with_name("a-F16.mmproj.gguf"))
    assert caught.value.hint == f"Give its language half: {language}"
    language.with_name("a-F16.mmproj.gguf").unlink()
    with pytest.raises(ModelNotFoundError, match=r"has no a-F16\.mmproj\.gguf beside it"):
        registry.resolve(language)
    with pytest.raises(ModelNotFoundError, match="holds no pair"):
        registry.resolve(tmp_path)


def test_a_folder_with_several_pairs(tmp_path: Path) -> None:
    make_pair(tmp_path, "a-F16")
    make_pair(tmp_path, "a-Q8_0")
    with pytest.raises(UsageError) as caught:
        registry.resolve(tmp_path)
    assert caught.value.hint == "Name the file of one: a-F16.gguf, a-Q8_0.gguf"


def test_the_nearest_name_is_told() -> None:
    for text, near in (("lava-cot", "llava-cot"), ("Llava-Cot:Q8_0", "llava-cot"), ("mulbery", "mulberry")):
        with pytest.raises(ModelNotFoundError) as caught:
            registry.resolve(text)
        assert caught.value.message == f"there is no model {text}"
        assert caught.value.hint == f"Did you mean {near}? To see what is installed: cotcli model ls"
    with pytest.raises(ModelNotFoundError) as caught:
        registry.resolve("zebra")
    assert caught.value.hint == "To see what is installed: cotcli model ls"
