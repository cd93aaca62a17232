"""What is found of a machine and an installation: versions, devices, models, where things are, and what is wrong.

Knows nothing of how it is found (`cotcli.doctor`) or shown (`cotcli.render`). All sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotcli.selftest import SelfTest

CHECKED, DIFFERS, UNCHECKED, UNKNOWN = "ok", "differs", "not checked", "unknown"
"""What a model's files are, compared with their checksums."""


@dataclass(frozen=True)
class Versions:
    """Of everything whose version matters; None for what cannot be loaded."""

    cotcli: str
    python: str
    platform: str
    llama_cpp_python: str | None
    llama_cpp: str | None = None
    ggml: str | None = None
    ggml_commit: str | None = None


@dataclass(frozen=True)
class Cpu:
    """``features`` are those that ggml was built with and finds. Memory in bytes; ``limited_by`` says what sets it."""

    name: str
    features: tuple[str, ...]
    threads: int
    total: int
    available: int
    limited_by: str


@dataclass(frozen=True)
class DeviceReport:
    """One device; memory in bytes, 0 where it does not tell. ``offload``: layers go there unless told otherwise."""

    name: str
    description: str
    type: str
    backend: str
    total: int
    free: int
    offload: bool
    self_test: SelfTest | None = None


@dataclass(frozen=True)
class Share:
    """What a model takes in one place: bytes that must be there, and those that stay in mapped files."""

    place: str
    resident: int
    mapped: int


@dataclass(frozen=True)
class ModelReport:
    """One installed pair, as it would be loaded now with nothing but its name.

    ``files``: CHECKED, DIFFERS, UNCHECKED, or UNKNOWN where no checksum is known.
    """

    name: str
    quant: str
    bytes: int
    files: str
    gpu_layers: int | None
    all_layers: int | None
    notes: tuple[str, ...]
    memory: tuple[Share, ...]


@dataclass(frozen=True)
class DefaultReport:
    """The model that a command takes when none is named; ``hint`` is the next step where it is not installed."""

    name: str
    installed: bool
    hint: str | None


@dataclass(frozen=True)
class CacheReport:
    """A cache on disk. ``bytes`` None: it is not there, or cannot be read."""

    name: str
    folder: str
    bytes: int | None


@dataclass(frozen=True)
class PathReport:
    """Where something is looked for."""

    name: str
    path: str
    exists: bool


@dataclass(frozen=True)
class Problem:
    """``exit_code`` is that of an error of its kind."""

    message: str
    hint: str | None
    exit_code: int


@dataclass(frozen=True)
class Report:
    """All of it. Without ``cpu``, llama.cpp cannot be used, and there are neither devices nor models.

    ``default`` is None there too, and where the user's models.toml cannot be read, which is a problem.
    """

    versions: Versions
    cpu: Cpu | None
    devices: tuple[DeviceReport, ...]
    models: tuple[ModelReport, ...]
    default: DefaultReport | None
    caches: tuple[CacheReport, ...]
    paths: tuple[PathReport, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems
