"""No test sees what is installed on the machine it runs on, nor any hub but the one that tests serve themselves."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.hub_server import Hub

# huggingface_hub reads these once, when it is imported.
_HUB = Hub()
os.environ["HF_ENDPOINT"] = _HUB.url
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE"):
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def nothing_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty folder for installed models, here and in every process that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTCLI_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with no repositories yet, and an empty cache for what comes from it, here and in processes."""
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "huggingface" / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "huggingface" / "token"))
    assert _HUB.url == constants.ENDPOINT
    _HUB.reset()
    yield _HUB
    _HUB.reset()


# Started in the background of a shell, a process ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
