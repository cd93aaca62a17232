"""Whether what listens at HOST:PORT is an RPC server that this release's ggml can talk to.

Asked before ggml connects: ggml ends the process when it cannot connect or is answered otherwise than it expects, and
waits without end for what says nothing. Speaks only the first message of the protocol, over a connection of its own
that is closed again, since a server serves one client at a time. Source: ``ggml-rpc.h`` and ``ggml-rpc.cpp`` of the
bundled release. Knows nothing of devices.
"""

from __future__ import annotations

import socket
import struct
import time

from cotcli.errors import ResourceError
from cotcli.native.library import PINNED

VERSION = (7, 0)  # RPC_PROTO_MAJOR_VERSION, RPC_PROTO_MINOR_VERSION
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_SIZE = struct.Struct("<Q")
_CAPABILITIES = bytes(24)  # rpc_msg_hello_req: none but TCP
_HELLO = b"\x0e" + _SIZE.pack(len(_CAPABILITIES)) + _CAPABILITIES  # RPC_CMD_HELLO
_ANSWER_SIZE = 4 + len(_CAPABILITIES)  # rpc_msg_hello_rsp: major, minor, patch, padding, conn_caps


def check_server(host: str, port: int, seconds: float = _ANSWER_SECONDS) -> None:
    """Says hello, and goes.

    Args:
        seconds: how long the answer may take.

    Raises:
        ResourceError: no machine of that name, nothing listens there, or it is silent, no RPC server, or one of another
            release, which ggml would not talk to.
    """
    endpoint = f"{host}:{port}"
    start = f"Start llama.cpp's rpc-server there, of the same release: rpc-server --host {host} --port {port}"
    try:
        # The one address that ggml takes, which knows IPv4 only.
        *_, address = socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ResourceError(
            f"no address is known of {host}, where the RPC server should be",
            f"Name the machine by its IPv4 address, such as 192.168.1.20:{port}",
        ) from None
    try:
        connection = socket.create_connection((str(address[0]), port), timeout=_CONNECT_SECONDS)
    except OSError as error:
        raise ResourceError(f"no RPC server answers at {endpoint}: {error.strerror or error}", start) from None
    with connection:
        try:
            connection.sendall(_HELLO)
            answer = _answer(connection, time.monotonic() + seconds)
        except TimeoutError:
            raise ResourceError(
                f"what listens at {endpoint} does not answer as an RPC server within {seconds:g} s",
                "An RPC server serves one client at a time: see whether another is using it, and that it is rpc-server",
            ) from None
        except OSError as error:
            raise ResourceError(
                f"what listens at {endpoint} breaks the connection off: {error.strerror or error}", start
            ) from None
    if not answer:
        raise ResourceError(f"what listens at {endpoint} hangs up when it is spoken to as an RPC server", start)
    if len(answer) != _SIZE.size + _ANSWER_SIZE or _SIZE.unpack_from(answer)[0] != _ANSWER_SIZE:
        raise ResourceError(f"what listens at {endpoint} does not speak as an RPC server", start)
    major, minor = answer[_SIZE.size : _SIZE.size + 2]
    if major != VERSION[0] or minor > VERSION[1]:
        ours = ".".join(map(str, VERSION))
        raise ResourceError(
            f"the RPC server at {endpoint} speaks version {major}.{minor} of the protocol, not {ours}",
            f"Start one there of the llama.cpp that is in {PINNED}: rpc-server --host {host} --port {port}",
        )


def _answer(connection: socket.socket, deadline: float) -> bytes:
    """What a server says to a hello; or what has come when it is clear that it is something else, or has hung up."""
    received = b""
    while len(received) < _SIZE.size + _ANSWER_SIZE:
        # A time limit for all of it: what sends a byte now and then is no better than what is silent.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        piece = connection.recv(_SIZE.size + _ANSWER_SIZE - len(received))
        received += piece
        if not piece or (len(received) >= _SIZE.size and _SIZE.unpack_from(received)[0] != _ANSWER_SIZE):
            break
    return received
