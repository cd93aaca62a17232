"""What decides a run, kept beside its states, so that no run goes on with another's.

Knows `run.json`. Knows nothing about what the settings mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.files import write_whole

RUN = "run.json"


class OtherRun(ValueError):
    """A folder holds the states of a run with other settings."""


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings, or sees that those written there are the same. States without any are taken for this run's.

    Raises:
        OtherRun: they are others. Nothing is changed.
    """
    found = read_settings(folder)
    if found is None:
        write_whole(folder / RUN, json.dumps(settings, indent=1) + "\n")
        return
    names = [*settings, *(name for name in found if name not in settings)]
    differing = [
        f"{name} is {found.get(name)}, not {settings.get(name)}"
        for name in names
        if found.get(name) != settings.get(name)
    ]
    if differing:
        raise OtherRun(
            f"{folder} holds another run: its {', its '.join(differing)}; go on with its own, or give another --out"
        )


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the folder's run, None where they are not written.

    Raises:
        OtherRun: they cannot be read.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OtherRun(f"{folder / RUN} is not JSON: {error}; give another --out") from error
    return found
