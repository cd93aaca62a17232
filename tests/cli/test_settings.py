"""Flag, then `COTCLI_*`, then the config file, then the default: of every option of every command."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from cotcli.cli import main
from cotcli.cli.app import root
from cotcli.cli.config_file import config_file
from cotcli.cli.tree import VARIABLES, Settable, settable
from tests.cli.process import ROOT, Finished, cotcli

PICTURE = ROOT / "tests" / "data" / "scene.png"
OPTIONS = {f"{option.table}.{option.key}": option for option in settable(root())}
Run = Callable[..., Finished]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the config file of the test's own home would be; no variable of ours but that is set."""
    for name in [name for name in os.environ if name.startswith("COTCLI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COTCLI_HOME", str(tmp_path))
    return tmp_path / "config.toml"


@pytest.fixture
def run(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs cotcli in this process: what is looked at ends before a model would load."""

    def call(*args: str, env: Mapping[str, str] | None = None) -> Finished:
        with monkeypatch.context() as patch:
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            code = main(args)
        return Finished(code, *capsys.readouterr())

    return call


def shown(run: Run, *names: str, env: Mapping[str, str] | None = None) -> list[tuple[Any, str]]:
    """Value and origin of settings, as `config show` tells them; (None, "") for one that it does not list."""
    done = run("config", "show", "--json", env=env)
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    return [(told[name]["value"], told[name]["origin"]) if name in told else (None, "") for name in names]


def test_the_environment_comes_before_the_file(run: Run, config: Path) -> None:
    config.write_text("temperature = 0.5\ntop_k = 7\n")
    names = ("temperature", "top_k", "top_p")
    assert shown(run, *names) == [(0.5, f"{config}: temperature"), (7, f"{config}: top_k"), (None, "default")]
    env = {"COTCLI_TEMPERATURE": "0.25", "COTCLI_TOP_K": "", "COTCLI_TOP_P": "0.5"}
    assert shown(run, *names, env=env) == [
        (0.25, "COTCLI_TEMPERATURE"),
        (7, f"{config}: top_k"),  # an empty variable is none
        (0.5, "COTCLI_TOP_P"),
    ]


def test_one_command_comes_before_all(run: Run, config: Path) -> None:
    config.write_text('model = "all"\n[ask]\nmodel = "own"\n[convert]\ntype = "q8_0"\n')
    names = ("model", "ask.model", "convert.type")
    own = ("own", f"{config}: ask.model")
    assert shown(run, *names) == [("all", f"{config}: model"), own, ("q8_0", f"{config}: convert.type")]
    # What the environment says of all commands comes before what the file says of one.
    assert shown(run, *names, env={"COTCLI_MODEL": "env"})[:2] == [("env", "COTCLI_MODEL"), (None, "")]
    env = {"COTCLI_MODEL": "env", "COTCLI_SCORE_MODEL": "of score"}
    assert shown(run, "model", "score.model", env=env) == [("env", "COTCLI_MODEL"), ("of score", "COTCLI_SCORE_MODEL")]


def test_a_flag_comes_before_all(config: Path) -> None:
    config.write_text("temperature = 0.5\ntop_k = 7\nmin_p = 0.125\nmax_tokens = 4\nseed = 3\n[ask]\nmax_tokens = 3\n")
    env = {
        "COTCLI_HOME": str(config.parent),
        "COTCLI_MODEL": "demo",
        "COTCLI_THREADS": "1",
        "COTCLI_JSON": "1",
        "COTCLI_TOP_K": "9",
        "COTCLI_SEED": "4",
    }
    done = cotcli("ask", "What is this?", PICTURE, "--seed", 5, "--temperature", 0, env=env)
    record = json.loads(done.out)
    assert (done.code, record["finish_reason"], record["usage"]["completion_tokens"]) == (6, "length", 3)
    expected = {"temperature": 0.0, "top_k": 9, "min_p": 0.125, "max_tokens": 3, "seed": 5}
    assert {name: record["params"][name] for name in expected} == expected


def test_kinds_of_values(run: Run, config: Path) -> None:
    config.write_text('json = true\nverbose = 2\nstage_max_tokens = ["caption=4", "summary=5"]\nshow = "summary"\n')
    names = ("json", "verbose", "stage_max_tokens", "show")
    assert [value for value, _ in shown(run, *names)] == [True, 2, ["caption=4", "summary=5"], "summary"]
    env = {"COTCLI_JSON": "0", "COTCLI_VERBOSE": "1", "COTCLI_STAGE_MAX_TOKENS": "caption=4 'summary=5'"}
    assert [value for value, _ in shown(run, *names, env=env)] == [False, 1, ["caption=4", "summary=5"], "summary"]


BAD = {"json": "maybe", "verbose": "x", "stage_max_tokens": "'open"}


def bad_value(option: Settable) -> str | None:
    """What the option cannot take; None where any text will do as far as Typer knows."""
    for text in ("not-a-choice", "x"):
        try:
            option.parameter.process_value(typer.Context(root(), resilient_parsing=True), text)
        except Exception:
            return text
    return None


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_can_be_set_and_names_its_origin(name: str, run: Run, config: Path) -> None:
    option = OPTIONS[name]
    text = bad_value(option)
    if text is None or option.parameter.multiple:
        assert shown(run, name, env={option.own_variable: "a"})[0][1] == option.own_variable
        config.write_text(f'[{option.table}]\n{option.key} = "a"\n')
        assert shown(run, name)[0] in [(value, f"{config}: {name}") for value in ("a", ["a"])]
        return
    arguments = [*option.command, *(["X"] * sum(p.param_type_name == "argument" for p in command_of(option).params))]
    for parameter in command_of(option).params:
        if parameter.required and parameter.param_type_name == "option":
            arguments += [parameter.opts[0], "X"]
    variables = [option.own_variable] + ([option.variable] if option.shared else [])
    for variable in variables:
        for args in (arguments, ["config", "show"]):
            refused(run(*args, env={variable: text}), f"cotcli: {variable}: ", text)
    config.write_text(f'[{option.table}]\n{option.key} = "{text}"\n')
    for args in (arguments, ["config", "show"]):
        refused(run(*args), f"cotcli: {config}: {name}: ", "")


def command_of(option: Settable) -> Any:
    command: Any = root()
    for word in option.command:
        command = command.commands[word]
    return command


def refused(done: Finished, start: str, *texts: str) -> None:
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(start) and 1 <= done.err.count("\n") <= 2, done.err
    for text in texts:
        assert text in done.err


def test_values_that_the_command_itself_refuses(run: Run, config: Path) -> None:
    ask = ("ask", "Q", str(PICTURE))
    for variable, value, message in (
        ("COTCLI_TEMPERATURE", "-1", "temperature must be 0 or more, not -1.0"),
        ("COTCLI_SHOW", "thoughts", "--show does not know thoughts"),
        ("COTCLI_STAGE_MAX_TOKENS", "reasoning", "--stage-max-tokens takes STAGE=N, not reasoning"),
        ("COTCLI_STAGE_MAX_TOKENS", "thoughts=1", "a stage in stage_max_tokens must be one of"),
        ("COTCLI_CHOICES", "A,,B", "choices must be different and not empty"),
        ("COTCLI_SCHEMA", "no-such-file", "--schema no-such-file: No such file or directory"),
        ("COTCLI_SCHEMA", __file__, f"--schema {__file__}: is not JSON: "),
    ):
        refused(run(*ask, env={variable: value}), f"cotcli: {variable}: {message}")
    many = run("batch", "Q", str(PICTURE), env={"COTCLI_BATCH_PARALLEL": "257"})
    refused(many, "cotcli: COTCLI_BATCH_PARALLEL: 257 ", "256\n")  # in Typer's words
    refused(run(*ask, "--quiet", env={"COTCLI_VERBOSE": "1"}), "cotcli: COTCLI_VERBOSE: --quiet and")
    config.write_text("temperature = -2\n[convert]\ntype = 'q3'\n")
    refused(run(*ask), f"cotcli: {config}: temperature: temperature must be 0 or more, not -2.0\n")
    refused(run("convert", str(config.parent)), f"cotcli: {config}: convert.type: unknown type 'q3'\n")
    # A flag in its place is the command line's own.
    refused(run(*ask, "--temperature", "-3"), "cotcli: temperature must be 0 or more, not -3.0\n")


def test_a_model_that_is_missing_names_its_origin(run: Run, config: Path) -> None:
    for name in ("typo", "x", "3"):
        done = run("ask", "Q", str(PICTURE), env={"COTCLI_MODEL": name})
        assert (done.code, done.err.splitlines()[0]) == (4, f"cotcli: COTCLI_MODEL: there is no model {name}")
    config.write_text("model = 3\n")
    done = run("ask", "Q", str(PICTURE))
    assert (done.code, done.err.splitlines()[0]) == (4, f"cotcli: {config}: model: there is no model 3")
    # A single character may be in a message by chance.
    config.write_text("model = 'a'\n")
    refused(run("ask", "Q", str(PICTURE), "--stage-max-tokens", "x=1"), "cotcli: a stage in stage_max_tokens must be")


def test_flags_that_exclude_each_other_say_how_to_go_on(run: Run, config: Path) -> None:
    config.write_text("json = true\n")
    ask = ("ask", "Q", str(PICTURE), "--model", "typo")
    done = run(*ask, "--show", "all")
    record = json.loads(done.out)
    assert done.code == 2 and record["error"]["message"].startswith("--show is for text")
    done = run(*ask, "--stream-json")
    assert done.err == (
        f"cotcli: {config}: json: --json and --stream-json exclude each other\nFor this once: COTCLI_JSON=0 cotcli …\n"
    )
    assert run(*ask, "--stream-json", env={"COTCLI_JSON": "0"}).code == 4


def test_errors_are_records_where_json_is_set(run: Run, config: Path) -> None:
    config.write_text("[ask]\njson = true\n[score]\njson = false\n")
    assert json.loads(run("ask").out)["error"]["code"] == "usage"
    assert json.loads(run("ask", env={"COTCLI_STREAM_JSON": "yes"}).out)["event"] == "result"
    assert run("score").out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature = 1", "temprature is not known; did you mean temperature?"),
        ("max-tokens = 1", "max-tokens is not known; did you mean max_tokens?"),
        ("[ask]\ntemprature = 1", "ask.temprature is not known; did you mean temperature?"),
        ("[aks]\njson = true", "aks is not known; did you mean ask?"),
        ("zzzzzz = 1", "zzzzzz is not known\n"),
        ("type = 'q8_0'", "type is not an option of all commands\nPut it under [convert], [model_pull]\n"),
        ("version = true", "version can be given on the command line only"),
        ("[ask]\nquestion = 'Q'", "ask.question can be given on the command line only"),
        ("[ask]\nhelp = true", "ask.help can be given on the command line only"),
        ("[score]\nanswer = '1'", "score.answer can be given on the command line only"),
        ("ask = 1", "ask is a command and takes a table\nFor example: [ask]"),
        ("[model]\njson = true", "model takes a value, not a table\nThe tables are [ask], "),
        ("json = 1", "json: takes true or false"),
        ("verbose = true", "verbose: takes a whole number"),
        ("temperature = [1]", "temperature: takes a text or a number"),
        ("stage_max_tokens = [[1]]", 'stage_max_tokens: takes texts, such as ["…", "…"]'),
        ("model = true", "model: takes a text or a number"),
        ("model = ", "Invalid value (at "),
        ("model = 'a\xff'", "'utf-8' codec can't decode"),
    ],
)
def test_files_that_are_refused(text: str, message: str, run: Run, config: Path) -> None:
    config.write_text(text, encoding="latin-1")
    for args in (("ask", "Q", str(PICTURE)), ("config", "show")):
        refused(run(*args), f"cotcli: {config}: {message}")


def test_help_is_there_even_then(run: Run, config: Path) -> None:
    config.write_text("nonsense = 1\n[model_ls]\njson = 7\n")
    for args in (["--help"], ["ask", "--help"], ["--version"], ["config", "--help"], ["model", "ls", "-h"]):
        done = run(*args)
        assert (done.code, done.err) == (0, "") and done.out
    assert run("config", "path").out == f"{config}\n"
    refused(run("model", "ls"), f"cotcli: {config}: nonsense is not known")


def test_a_file_that_is_named_must_be_there(run: Run, config: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    env = {"COTCLI_CONFIG": str(other)}
    refused(run("config", "show", env=env), f"cotcli: {other}: No such file or directory\n", "cotcli config path")
    config.write_text("seed = 1\n")
    other.write_text("seed = 2\n")
    assert shown(run, "seed", env=env) == [(2, f"{other}: seed")]
    assert shown(run, "seed", env={"COTCLI_CONFIG": os.devnull}) == [(None, "default")]


def test_where_the_file_is(tmp_path: Path) -> None:
    assert config_file({"COTCLI_CONFIG": "~/x.toml"}) == Path.home() / "x.toml"
    without = cotcli("config", "path", env={"COTCLI_HOME": "", "HOME": str(tmp_path), "XDG_CONFIG_HOME": ""})
    folder = Path(without.out.strip()).relative_to(tmp_path)  # the platform's
    assert folder.parts[-2:] == ("cotcli", "config.toml")


def test_variables_that_set_nothing_are_told_of(run: Run) -> None:
    done = run("config", "show", env={"COTCLI_TEMPRATURE": "1", "COTCLI_DEBUG": "0"})
    assert done.code == 0
    assert done.err == "cotcli: COTCLI_TEMPRATURE sets nothing; did you mean COTCLI_TEMPERATURE?\n"
    done = run("model", "ls", env={"COTCLI_MODLE": "demo", "COTCLI_CONFGI": "x", "COTCLI_ZZZZZZ": "1"})
    assert done.code == 0 and "demo-Q8_0.gguf" in done.out
    assert done.err.splitlines() == [
        "cotcli: COTCLI_CONFGI sets nothing; did you mean COTCLI_CONFIG?",
        "cotcli: COTCLI_MODLE sets nothing; did you mean COTCLI_MODEL?",
        "cotcli: COTCLI_ZZZZZZ sets nothing",
    ]
    ask = ("ask", "Q", str(PICTURE), "--model", "typo")
    noted = "cotcli: COTCLI_MODLE sets nothing; did you mean COTCLI_MODEL?\n"
    env = {"COTCLI_MODLE": "demo"}
    assert run(*ask, env=env).err.startswith(f"{noted}cotcli: there is no model typo\n")
    assert run(*ask, "--quiet", env=env).err.startswith("cotcli: there is no model typo\n")
    assert run("ask", "--help", env=env).err == ""


def test_show_as_text(run: Run, config: Path) -> None:
    config.write_text("stage_max_tokens = ['caption=4', 'a b']\nquiet = true\n")
    rows = {line.split()[0]: line.split(None, 1)[1] for line in run("config", "show", "--origin").out.splitlines()}
    assert rows["stage_max_tokens"].split("  ", 1) == ["caption=4 'a b'", f"{config}: stage_max_tokens"]
    assert rows["quiet"].split() == ["true", *f"{config}: quiet".split()]
    assert rows["top_p"].split() == ["-", "default"]
    plain = run("config", "show").out.splitlines()
    assert [line.split()[0] for line in plain] == list(rows)
    assert next(line for line in plain if line.startswith("convert.type")).split() == ["convert.type", "Q4_K_M"]


def test_no_variable_means_two_things() -> None:
    meanings: dict[str, set[str]] = {name: {name} for name in VARIABLES}
    for name, option in OPTIONS.items():
        meanings.setdefault(option.own_variable, set()).add(name)
        if option.shared:
            meanings.setdefault(option.variable, set()).add(option.key)
    assert {name: kinds for name, kinds in meanings.items() if len(kinds) > 1} == {}
    tables = {option.table for option in OPTIONS.values()}
    assert len(tables) == len({option.command for option in OPTIONS.values()})


def test_options_of_several_commands_are_shared() -> None:
    shared: dict[str, set[bool]] = {}
    for option in OPTIONS.values():
        shared.setdefault(option.key, set()).add(option.shared)
    assert all(len(kinds) == 1 for kinds in shared.values())
    assert {key for key in ("model", "json", "image_cache", "type", "name") if shared[key] == {True}} == {
        *("model", "json", "image_cache")
    }


def test_one_setting_serves_all_commands(run: Run) -> None:
    json.loads(run("model", "ls", env={"COTCLI_JSON": "1"}).out)
