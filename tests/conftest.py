"""No test sees what is installed on the machine it runs on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def nothing_installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An empty folder for installed models, here and in every process that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COTCLI_HOME", str(tmp_path_factory.mktemp("home")))
        yield


# Started in the background of a shell, a process ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
