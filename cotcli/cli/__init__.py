"""The command line: parse, call, render. The only place with options and exit codes.

    run        streams, errors and exit codes of the whole process
    options    the options that commands share
    output     options -> the form of output
    ask, score, demo, convert, model, schema    one file a command or group

Importing this imports neither NumPy, Pillow, rich nor llama.cpp: `cotcli --help` must not wait for them.
"""

from __future__ import annotations

from cotcli.cli.run import main

__all__ = ["main"]
