"""models.toml, and the user's own on top of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from convert import QUANTIZATIONS
from cotcli import specs as module
from cotcli.answer import GenerationParams
from cotcli.errors import UsageError
from cotcli.registry import resolve
from cotcli.specs import ModelSpec, default_model, is_name, spec_of_repo, specs
from cotcli.stages import Section, Turn


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's models.toml goes; there is none."""
    monkeypatch.setenv("COTCLI_HOME", str(tmp_path))
    return tmp_path / "models.toml"


def test_bundled_entries() -> None:
    llava_cot = specs()["llava-cot"]
    assert default_model() == "llava-cot"
    assert llava_cot.repo == "Xkev/Llama-3.2V-11B-cot"
    assert llava_cot.bos_count == 2
    assert llava_cot.params == GenerationParams(temperature=0.6, top_p=0.9, max_tokens=2048)
    assert llava_cot.stages.name == "tags" and llava_cot.wording("Why?") == "Why?"
    assert llava_cot.revision is None, "none could be verified"
    assert list(llava_cot.sizes) == [quantization.name for quantization in QUANTIZATIONS.values()]
    plain = specs()["llama-3.2-vision"]
    assert (plain.repo, plain.bos_count, plain.stages.name) == (
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        1,
        "none",
    )


def test_bundled_wordings() -> None:
    """As the projects' own code asks: Mulberry's infer.py, LlamaV-o1's eval/llamav-o1.py."""
    mulberry = specs()["mulberry"]
    asked = mulberry.wording("Why?")
    # Of the text that infer.py makes for --question "Question: Why?".
    assert hashlib.sha256(asked.encode()).hexdigest() == (
        "ccdf459076724785852da472f4fb64b43570576754594a7003378a105b3cab1d"
    ), asked
    assert mulberry.wording("What {question}?").endswith("### The final answer is: \n\nQuestion: What {question}?")
    llamav_o1 = specs()["llamav-o1"]
    assert llamav_o1.wording("Why?") == (
        "Why?\nSummarize how you will approach the problem and explain the steps you will take to reach the answer."
    )
    assert [turn.stage for turn in llamav_o1.stages.turns] == ["summary", "caption", "reasoning", "conclusion"]
    assert (mulberry.bos_count, llamav_o1.bos_count) == (1, 2)


def test_bundled_files_are_as_stated() -> None:
    data = Path(module.__file__).parent / "data"
    [pair] = specs()["demo"].files
    for name, sha256 in ((pair.language, pair.language_sha256), (pair.mmproj, pair.mmproj_sha256)):
        assert hashlib.sha256((data / name).read_bytes()).hexdigest() == sha256


def test_the_users_own_entries(own: Path) -> None:
    before = specs()
    own.write_text(
        """
        default = "mine"
        [models.mine]
        repo = "me/mine"
        stage_format = "none"
        sampling = {temperature = 0, top_k = 40}
        [models.llava-cot]
        default_quant = "Q8_0"
        revision = "main"
        sampling = {temperature = 0.2}
        sizes = {Q8_0 = 7}
        [[models.llava-cot.ready]]
        quant = "Q8_0"
        repo = "me/gguf"
        revision = "0123456789abcdef0123456789abcdef01234567"
        language = "a.gguf"
        mmproj = "b/c.gguf"
        language_sha256 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        mmproj_sha256 = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
        """
    )
    assert default_model() == "mine"
    mine = specs()["mine"]
    assert (mine.repo, mine.stage_format, mine.bos_count) == ("me/mine", "none", 1)
    assert mine.params == GenerationParams(temperature=0, top_k=40)
    changed = specs()["llava-cot"]
    assert (changed.default_quant, changed.repo, changed.bos_count) == ("Q8_0", "Xkev/Llama-3.2V-11B-cot", 2)
    assert changed.params == GenerationParams(temperature=0.2, top_p=0.9, max_tokens=2048)
    assert changed.revision == "main" and changed.download_bytes == before["llava-cot"].download_bytes
    assert changed.sizes == {**before["llava-cot"].sizes, "Q8_0": 7}
    ready = changed.ready_as("q8_0")
    assert ready is not None and (ready.repo, ready.mmproj) == ("me/gguf", "b/c.gguf")
    assert changed.ready_as("Q4_K_M") is None
    assert specs()["demo"] == before["demo"] and list(specs()) == [*before, "mine"]
    own.unlink()
    assert specs() == before


def test_the_wording_has_an_id() -> None:
    base = ModelSpec("one", stage_format="none")
    unused = replace(base, sections=(Section("#", "conclusion"),))
    same = [replace(base, name="other", description="x", revision="y"), unused]
    assert {spec.prompt_id for spec in same} == {base.prompt_id} and len(base.prompt_id) == 16
    sections = replace(unused, stage_format="sections")
    turns = replace(base, stage_format="turns", turns=(Turn("conclusion", "{question}"),))
    others = [
        replace(base, prompt="Well, {question}"),
        replace(base, stage_format="tags"),
        replace(base, bos_count=2),
        sections,
        replace(sections, sections=(Section("##", "conclusion"),)),
        turns,
        replace(turns, turns=(Turn("conclusion", "So {question}"),)),
    ]
    assert len({spec.prompt_id for spec in (base, *others)}) == len(others) + 1


def test_the_entry_in_the_readme(own: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [entry] = re.findall(r"```toml\n(\[models\.mine\].*?)```", readme, re.DOTALL)
    own.write_text(entry, encoding="utf-8")
    mine = specs()["mine"]
    assert mine.stages.stages == ("caption", "reasoning", "conclusion") and mine.params.temperature == 0.6
    assert mine.wording("Why?") == "Answer under headings.\n\nWhy?"


def test_the_users_entry_counts_for_an_installed_pair(own: Path) -> None:
    own.write_text('[models.mine]\nstage_format = "none"\nbos_count = 2')
    folder = own.parent / "models" / "mine"
    folder.mkdir(parents=True)
    for name in ("mine-Q8_0.gguf", "mine-Q8_0.mmproj.gguf"):
        (folder / name).touch()
    assert resolve("mine").spec == specs()["mine"] == resolve(folder / "mine-Q8_0.gguf").spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models", "Expected"),
        ("\xff", "utf-8"),
        ("defaults = 1", "defaults is not known"),
        ("default = 1", "default must be a string"),
        ("models = 1", "models must be a table"),
        ("models.mine = 1", "models.mine must be a table"),
        ('[models."my model"]', "models.my model: a name has letters, digits and . _ - only"),
        ("[models.mine]\nbos = 1", "models.mine.bos is not known"),
        ("[models.mine]\nfiles = []", "models.mine.files is not known"),
        ("[models.mine]\nrepo = 1", "models.mine.repo must be a string"),
        ("[models.mine]\nbos_count = 1.5", "models.mine.bos_count must be a whole number, 0 or more"),
        ("[models.mine]\nbos_count = true", "models.mine.bos_count must be a whole number, 0 or more"),
        (
            '[models.mine]\nstage_format = "x"',
            "models.mine: stage_format must be one of tags, sections, turns, none, not x",
        ),
        ("[models.mine]\nprompt = 'Say it'", "models.mine: prompt must have {question} in it once"),
        ("[models.mine]\nstage_format = 'turns'", "models.mine: stage_format turns needs turns in the model's entry"),
        ("[models.mine]\nturns = 1", "models.mine.turns must be an array of tables"),
        ("[models.mine]\nturns = [1]", "models.mine.turns, number 1 must be a table"),
        ("[models.mine]\nturns = [{stage = 'caption'}]", "models.mine.turns, number 1 has no prompt"),
        ("[models.mine]\nturns = [{stage = 'x', prompt = ''}]", "models.mine: a stage must be one of summary, caption"),
        ("[models.mine]\nsections = [{heading = 'a', stage = 'caption', kept = 1}]", "kept must be true or false"),
        (
            "[models.mine]\nsections = [{heading = ' a', stage = 'caption'}]",
            "models.mine: a heading in sections must not",
        ),
        (
            "[models.mulberry]\nsections = [{heading = 'Step {n}', stage = 'reasoning'}, "
            "{heading = 'So', stage = 'conclusion'}]",
            "models.mulberry: sections, number 1: a heading with {n} in it must have kept = true",
        ),
        (
            "[models.mulberry]\nsections = [{heading = 'Why', stage = 'caption'}, "
            "{heading = '{n}.{n}', stage = 'reasoning', kept = true}, {heading = 'So', stage = 'conclusion'}]",
            "models.mulberry: sections, number 2: a heading can have {n} in it once",
        ),
        ("[models.mulberry]\nstage_format = 'turns'", "models.mulberry: stage_format turns needs turns"),
        (
            "[models.llamav-o1]\nturns = [{stage = 'caption', prompt = '{question}'}]",
            "turns must end with the conclusion",
        ),
        (
            "[models.llamav-o1]\nturns = [{stage = 'conclusion', prompt = 'Answer.'}]",
            "models.llamav-o1: the first of turns must have {question} in it once",
        ),
        ("[models.mine]\ndownload_bytes = -1", "models.mine.download_bytes must be a whole number, 0 or more"),
        ("[models.mine]\nsizes = 1", "models.mine.sizes must be a table"),
        ('[models.mine.sizes]\nF16 = "1 GB"', "models.mine.sizes.F16 must be a whole number, 0 or more"),
        ("[models.mine]\nready = {}", "models.mine.ready must be an array of tables"),
        ("[[models.mine.ready]]\nrev = 1", "models.mine.ready, number 1.rev is not known"),
        ('[[models.mine.ready]]\nquant = "F16"', "models.mine.ready, number 1 has no repo"),
        (
            '[[models.mine.ready]]\nrevision = "main"',
            "models.mine.ready, number 1.revision must be a commit: 40",
        ),
        (
            '[[models.mine.ready]]\nmmproj_sha256 = "abc"',
            "models.mine.ready, number 1.mmproj_sha256 must be 64 hex",
        ),
        ("[models.mine]\nsampling = 1", "models.mine.sampling must be a table"),
        ("[models.mine.sampling]\nseed = 1", "models.mine.sampling.seed is not known"),
        ('[models.mine.sampling]\ntop_p = "1"', "models.mine.sampling.top_p must be a number"),
        ("[models.demo.sampling]\ntop_p = 7", "models.demo: top_p must be above 0 and at most 1, not 7"),
    ],
)
def test_a_broken_file_names_itself_and_the_key(own: Path, text: str, message: str) -> None:
    own.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError) as caught:
        specs()
    assert caught.value.message.startswith(f"{own}: ")
    assert message in caught.value.message


def test_a_file_that_cannot_be_read(own: Path) -> None:
    own.mkdir()
    with pytest.raises(UsageError, match=r"models\.toml: "):
        specs()


@pytest.mark.parametrize(
    ("repo", "name"),
    [
        ("Xkev/Llama-3.2V-11B-cot", "llava-cot"),
        ("xkev/llama-3.2v-11b-COT", "llava-cot"),
        ("Llama-3.2V-11B-cot", "llava-cot"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "llama-3.2-vision"),
        ("someone/Llama-3.2V-11B-cot", None),
        ("llava-cot", None),
        ("", None),
    ],
)
def test_spec_of_repo(repo: str, name: str | None) -> None:
    spec = spec_of_repo(repo)
    assert (spec.name if spec else None) == name


def test_names() -> None:
    assert all(map(is_name, ("mine", "Llama-3.2V_11B", "4")))
    assert not any(map(is_name, ("", "my model", "a/b", "a:Q8_0", "-a", ".a", "a.gguf", "é", "a\n")))
