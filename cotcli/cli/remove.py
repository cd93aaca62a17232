"""`cotcli model rm`: frees the disk that a model takes."""

from __future__ import annotations

import shutil
import sys

from cotcli.cli.run import note
from cotcli.errors import Interrupted, ModelNotFoundError, UsageError
from cotcli.install import locked, size_text
from cotcli.registry import Traces, model_folder, traces
from cotcli.specs import specs


def remove(name: str, *, yes: bool) -> None:
    """Removes what there is of NAME or NAME:QUANT; asks first unless ``yes``."""
    base, _, quant = name.partition(":")
    spec = specs().get(base)
    found = traces(base, quant or None)
    if not found:
        if spec is not None and spec.files:
            raise UsageError(f"{base} comes with cotcli and cannot be removed alone", "All of it: pip uninstall cotcli")
        raise ModelNotFoundError(f"{name} is not installed", "To see what is installed: cotcli model ls")
    total = sum(trace.size for trace in found)
    what = ", ".join(f"{trace.name}:{trace.quant}{' (unfinished)' if _is_only_begun(trace) else ''}" for trace in found)
    if not yes:
        _ask(f"{what}, {size_text(total)}")
    for trace in found:
        _delete(trace)
    folder = model_folder(base)
    if not any(folder.iterdir()):
        folder.rmdir()
    note(f"removed {what}: {size_text(total)} freed")


def _is_only_begun(trace: Traces) -> bool:
    return trace.language not in trace.paths


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError(f"this would remove {what}, and there is no terminal to ask on", "To do it: --yes")
    print(f"cotcli: remove {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Interrupted("nothing was removed")


def _delete(trace: Traces) -> None:
    """The language file first: without it there is no model to be found, however this ends."""
    with locked(trace.language):
        for path in sorted(trace.paths, key=lambda path: path != trace.language):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
