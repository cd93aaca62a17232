"""What a model's name or path on the command line finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotcli import registry
from cotcli.errors import ModelNotFoundError, UsageError
from cotcli.specs import ModelSpec, specs


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
        "To install it: hf download Xkev/Llama-3.2V-11B-cot --local-dir llava-cot; cotcli convert llava-cot. "
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
    with pytest.raises(ModelNotFoundError, match="llava-cot is not installed as F16"):
        registry.resolve("llava-cot:F16")
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
