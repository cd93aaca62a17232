"""Who listens at HOST:PORT, found out before ggml connects: real sockets, and servers of other kinds.

That a real RPC server is known as one, `tests/test_offload.py` shows.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cotcli.errors import ResourceError
from cotcli.native.rpc_hello import VERSION, check_server
from tests.rpc_server import free_endpoint

SECONDS = 1.0
HELLO = 1 + 8 + 24


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of a server that answers its one client so, in a thread; what fails there is raised at the end."""
    failures: list[BaseException] = []
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def serve() -> None:
            try:
                with server.accept()[0] as client:
                    answer(client)
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()
        for failure in failures:
            raise failure


def hello(major: int, minor: int) -> Callable[[socket.socket], None]:
    """What an RPC server of that version says, byte by byte; then it waits for its client to go."""

    def answer(client: socket.socket) -> None:
        assert client.recv(HELLO, socket.MSG_WAITALL) == struct.pack("<BQ24x", 14, 24)
        for byte in struct.pack("<QBBBB24x", 28, major, minor, 3, 0):
            client.sendall(bytes([byte]))
        assert client.recv(1) == b""

    return answer


def drip(client: socket.socket) -> None:
    """A first byte that might be an answer's, and more of them, slowly."""
    try:
        for byte in struct.pack("<QBBBB24x", 28, *VERSION, 0, 0):
            client.sendall(bytes([byte]))
            time.sleep(SECONDS / 5)
    except OSError:
        pass


def silent(client: socket.socket) -> None:
    client.recv(HELLO, socket.MSG_WAITALL)
    assert client.recv(1) == b""


def hangs_up(client: socket.socket) -> None:
    """As servers before version 4 do, for which a hello is empty."""
    client.recv(HELLO, socket.MSG_WAITALL)


def refused(port: int) -> str:
    with pytest.raises(ResourceError) as error:
        check_server("127.0.0.1", port, SECONDS)
    assert error.value.hint and "rpc-server" in error.value.hint
    return error.value.message


@pytest.mark.parametrize("minor", sorted({0, VERSION[1]}))
def test_a_server_of_this_release_is_let_go_again(minor: int) -> None:
    with listener(hello(VERSION[0], minor)) as port:
        check_server("127.0.0.1", port, SECONDS * 10)


@pytest.mark.parametrize("version", [(VERSION[0] - 1, 0), (VERSION[0] + 1, 0), (VERSION[0], VERSION[1] + 1)])
def test_a_server_that_ggml_would_not_talk_to(version: tuple[int, int]) -> None:
    with listener(hello(*version)) as port:
        assert f"speaks version {version[0]}.{version[1]} of the protocol, not" in refused(port)


@pytest.mark.parametrize("answer", [silent, drip])
def test_no_answer_in_time(answer: Callable[[socket.socket], None]) -> None:
    with listener(answer) as port:
        assert "does not answer as an RPC server within 1 s" in refused(port)


def test_a_connection_that_ends() -> None:
    with listener(hangs_up) as port:
        assert "hangs up" in refused(port)


def test_what_speaks_otherwise() -> None:
    with listener(lambda client: client.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")) as port:
        assert "does not speak as an RPC server" in refused(port)


def test_nobody_there() -> None:
    endpoint = free_endpoint()
    message = refused(int(endpoint.rpartition(":")[2]))
    assert message.startswith(f"no RPC server answers at {endpoint}: ")


@pytest.mark.parametrize("host", ["a" * 70, "::1"])
def test_no_such_host(host: str) -> None:
    with pytest.raises(ResourceError, match=f"no address is known of {host}") as error:
        check_server(host, 50052, SECONDS)
    assert error.value.hint and "192.168.1.20:50052" in error.value.hint
