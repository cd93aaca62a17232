"""What a shell is offered: Typer's protocol as the shells speak it, and bash itself, with readline on a terminal."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.process import COMMAND, ROOT, cotcli, environment

BASH = shutil.which("bash")


def bash_offers(*words: str, broken: bool = False) -> list[str]:
    """What bash is told of the last word. With `broken`, the words are as bash breaks them, at : and =."""
    parts = [part for word in words for part in (re.split("([:=]+)", word) if broken else [word])]
    while broken and "" in parts[:-1]:
        parts.remove("")
    env = {
        "_COTCLI_COMPLETE": "complete_bash",
        "COMP_WORDS": "\n".join(["cotcli", *parts]),
        "COMP_CWORD": str(len(parts)),
    }
    done = cotcli(env=env)
    assert (done.code, done.err) == (0, "")
    return done.out.split()


def test_commands_and_options() -> None:
    assert {"ask", "demo", "model", "config"} <= set(bash_offers(""))
    assert bash_offers("conf") == ["config"]
    assert bash_offers("config", "") == ["show", "path"]
    assert bash_offers("ask", "--stage-m") == ["--stage-max-tokens"]
    assert bash_offers("ask", "--color", "") == ["auto", "always", "never"]
    assert bash_offers("demo", "--kind", "ex") == ["exists", "extreme"]


def test_models_and_quantizations(home: Path) -> None:
    for name in ("mine-Q8_0.gguf", "mine-Q8_0.mmproj.gguf", "mine-Q4_K_M.gguf", "mine-Q4_K_M.mmproj.gguf"):
        path = home / "models" / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert bash_offers("ask", "'How many?'", "--model", "") == ["demo", "mine", "demo:Q8_0", "mine:Q4_K_M", "mine:Q8_0"]
    assert bash_offers("ask", "-m", "mi") == ["mine", "mine:Q4_K_M", "mine:Q8_0"]
    # Of what bash has broken off at a colon, only what comes after it is replaced.
    assert bash_offers("ask", "--model", "mine:Q", broken=True) == ["Q4_K_M", "Q8_0"]
    assert bash_offers("ask", "--model", "mine:", broken=True) == ["Q4_K_M", "Q8_0"]
    assert bash_offers("ask", "--model=mi", broken=True) == ["mine", "mine:Q4_K_M", "mine:Q8_0"]
    assert bash_offers("score", "--model=mine:Q8", broken=True) == ["Q8_0"]
    assert "llava-cot" in bash_offers("model", "show", "")
    assert bash_offers("model", "show", "dem") == ["demo", "demo:Q8_0"]


def test_stages_and_types() -> None:
    assert bash_offers("ask", "--show", "c") == ["caption", "conclusion"]
    assert bash_offers("demo", "--show", "caption,") == ["caption,summary", "caption,reasoning", "caption,conclusion"]
    assert bash_offers("ask", "--stages", "") == ["tags", "sections", "turns", "none"]
    assert bash_offers("ask", "--stage-max-tokens", "re") == ["reasoning="]
    assert bash_offers("convert", "--type", "Q5") == ["Q5_K_M", "Q5_K_S"]
    assert bash_offers("convert", "--type", "q5_k_s") == ["q5_k_s"]


def test_files_are_left_to_the_shell(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert bash_offers("ask", "'How many?'", str(tmp_path)) == []
    assert bash_offers("ask", "--schema", "") == []
    assert bash_offers("ask", "--model", "./") == []


def test_zsh_and_fish() -> None:
    env = {"_COTCLI_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "cotcli ask 'How many?' --model dem"}
    done = cotcli(env=env)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("_arguments '*: :((") and '"demo":"' in done.out and r'"demo\\:Q8_0":"' in done.out
    assert cotcli(env={**env, "_TYPER_COMPLETE_ARGS": "cotcli ask 'How many?' pho"}).out == "_files\n"
    env = {"_COTCLI_COMPLETE": "complete_fish", "_TYPER_COMPLETE_ARGS": "cotcli ask 'How many?' --model dem"}
    offered = cotcli(env={**env, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}).out.splitlines()
    assert [line.split("\t")[0] for line in offered] == ["demo", "demo:Q8_0"]
    assert cotcli(env={**env, "_TYPER_COMPLETE_FISH_ACTION": "is-args"}).code == 0
    files = {**env, "_TYPER_COMPLETE_FISH_ACTION": "is-args", "_TYPER_COMPLETE_ARGS": "cotcli ask 'How many?' pho"}
    assert cotcli(env=files).code == 1


def test_a_broken_home_stops_no_one_from_typing(home: Path) -> None:
    home.mkdir()
    (home / "models.toml").write_text("nonsense")
    (home / "config.toml").write_text("nonsense")
    assert bash_offers("ask", "--top") == ["--top-p", "--top-k"]
    env = {"_COTCLI_COMPLETE": "complete_bash", "COMP_WORDS": "cotcli\nask\n-m\n", "COMP_CWORD": "3"}
    done = cotcli(env=env)
    assert (done.out, done.err) == ("", "")
    done = cotcli(env={**env, "COMP_CWORD": "x"})
    assert (done.code, done.out, done.err) == (1, "", "")


def test_installing(tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = cotcli("--install-completion", "bash", env=env)
    assert done.code == 0, done.err
    script = tmp_path / ".bash_completions" / "cotcli.sh"
    assert f"source '{script}'" in (tmp_path / ".bashrc").read_text()
    assert "_COTCLI_COMPLETE=complete_bash" in script.read_text()
    assert cotcli("--show-completion", "bash", env=env).out.strip() == script.read_text().strip()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """bash with readline on a terminal, and its folder: cotcli is on its path, and its completion is loaded."""
    if BASH is None or os.name == "nt":
        pytest.skip("has no bash")
    import pty

    (tmp_path / "cotcli").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    (tmp_path / "cotcli").chmod(0o755)
    (tmp_path / "script").write_text(cotcli(env={"_COTCLI_COMPLETE": "source_bash"}).out)
    outer, inner = pty.openpty()
    kept = environment({"PS1": "$ ", "HOME": str(tmp_path), "INPUTRC": os.devnull})
    env = {**kept, "PATH": f"{tmp_path}:{kept['PATH']}", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [BASH, "--norc", "--noprofile", "-i"],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env=env,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(inner)
    os.write(outer, b"bind 'set enable-bracketed-paste off'; source ./script; echo rea''dy\n")
    read_until(outer, "ready\r\n")
    try:
        yield outer, tmp_path
    finally:
        os.write(outer, b"\x15exit\n")
        process.wait(timeout=60)
        os.close(outer)


def read_until(terminal: int, text: str, seconds: float = 120) -> str:
    """All that the terminal shows until it shows a text."""
    import select

    shown = ""
    end = time.monotonic() + seconds
    while text not in shown:
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536).decode()
    return shown


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("cotcli conf\tpa\t", "cotcli config path "),
        ("cotcli ask 'How many?' --model=demo:Q\t", "cotcli ask 'How many?' --model=demo:Q8_0 "),
        ("cotcli ask 'How many?' pict\t", "cotcli ask 'How many?' picture.png "),
    ],
)
def test_bash_itself(shell: tuple[int, Path], typed: str, line: str) -> None:
    terminal, folder = shell
    (folder / "picture.png").touch()
    os.write(terminal, typed.encode())
    assert line in read_until(terminal, line)
