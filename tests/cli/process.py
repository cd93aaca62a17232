"""cotcli as a process of its own: through pipes, and on a pseudo-terminal of a given width."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "cotcli"]
ROOT = Path(__file__).parents[2]
_INHERITED = (
    "PATH",
    "PYTHONPATH",
    "SYSTEMROOT",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "COTCLI_HOME",
    "HF_ENDPOINT",
    "HF_HOME",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True)
class Finished:
    """What a process left; both streams as text."""

    code: int
    out: str
    err: str


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A small environment in UTF-8 that knows nothing of the terminal the tests run in."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **kept, **(extra or {})}


def cotcli(*args: object, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> Finished:
    """Runs cotcli with pipes. Its output must be UTF-8 whatever the locale."""
    done = subprocess.run(
        [*COMMAND, *map(str, args)], input=stdin, capture_output=True, env=environment(env), timeout=120, check=False
    )
    return Finished(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))


def cotcli_on_terminal(
    *args: object, columns: int = 80, env: Mapping[str, str] | None = None, one: bool = False, typed: str = ""
) -> Finished:
    """Runs cotcli with stdout on a terminal of that many columns and stderr on another; line ends come as newlines.

    With `one`, both are on one terminal, as is usual, and `out` has it all. What is `typed` comes from that of stdout.
    """
    out = Terminal(columns)
    err = out if one else Terminal(columns)
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)],
        stdin=out.inner if typed else subprocess.DEVNULL,
        stdout=out.inner,
        stderr=err.inner,
        env=environment(env),
    )
    os.write(out.outer, typed.encode())
    for terminal in {out, err}:
        os.close(terminal.inner)
    texts = read_all([terminal.outer for terminal in {out, err}])
    code = process.wait(timeout=120)
    return Finished(code, texts[out.outer], "" if one else texts[err.outer])


class Terminal:
    """A pseudo-terminal of that many columns: `inner` is for a process, `outer` shows what it writes."""

    def __init__(self, columns: int) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.outer, self.inner = pty.openpty()
        fcntl.ioctl(self.inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))


def read_all(files: list[int]) -> dict[int, str]:
    """Reads until the last writer has closed each; a terminal reports that as an I/O error."""
    import selectors

    data = dict.fromkeys(files, b"")
    with selectors.DefaultSelector() as selector:
        for file in files:
            selector.register(file, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select():
                try:
                    piece = os.read(key.fd, 65536)
                except OSError:
                    piece = b""
                if not piece:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                data[key.fd] += piece
    return {file: text.decode("utf-8").replace("\r\n", "\n") for file, text in data.items()}


def screen(output: str) -> list[str]:
    """What a terminal shows in the end: text, line ends, returns, erased lines and cursor up; colours are dropped."""
    rows, row, column = [""], 0, 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\n\r]|[^\x1b\n\r]+", output):
        if token == "\n":
            row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
        elif token == "\r":
            column = 0
        elif token == "\x1b[2K":
            rows[row] = ""
        elif token == "\x1b[1A":
            row -= 1
        elif not token.startswith("\x1b"):
            rows[row] = rows[row].ljust(column)[:column] + token + rows[row][column + len(token) :]
            column += len(token)
        else:
            assert token[-1] == "m" or token in ("\x1b[?25l", "\x1b[?25h"), token
    return rows
