"""http and https URLs, against real servers on the loopback interface."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from cotcli import __version__
from cotcli.errors import ImageError
from cotcli.image import ImageLimits, load_image
from tests.image_files import pattern, written

PNG = written(Image.fromarray(pattern(40, 30, 3)), "PNG")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["User-Agent"]))  # type: ignore[attr-defined]
        route, _, rest = self.path.lstrip("/").partition("/")
        getattr(self, f"get_{route.partition('?')[0]}", self.get_missing)(rest)

    def answer(self, body: bytes, kind: str | None = "image/png", status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def get_missing(self, rest: str) -> None:
        self.answer(b"no", "text/plain", 404)

    def get_picture(self, rest: str) -> None:
        self.answer(PNG)

    def get_kind(self, rest: str) -> None:
        self.answer(PNG, rest.replace("%20", " ") or None)

    def get_page(self, rest: str) -> None:
        self.answer(b"<!doctype html><p>A cat</p>", "text/html; charset=utf-8")

    def get_status(self, rest: str) -> None:
        self.answer(PNG, status=int(rest))

    def get_hop(self, rest: str) -> None:
        """/hop/N leads to /picture over N redirects, of each status in turn."""
        left = int(rest)
        self.send_response((301, 302, 303, 307, 308)[left % 5])
        self.send_header("Location", f"../hop/{left - 1}" if left > 1 else "/picture")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get_to(self, rest: str) -> None:
        self.send_response(302)
        self.send_header("Location", rest)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def get_short(self, rest: str) -> None:
        self.answer(PNG[:100], length=len(PNG))

    def get_announced(self, rest: str) -> None:
        self.answer(PNG, length=10**12)

    def get_chunked(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(PNG), 1000):
            part = PNG[start : start + 1000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write({"cut": b"ff\r\nshort", "odd": b"zz\r\n"}.get(rest, b"0\r\n\r\n"))
        self.close_connection = True

    def get_endless(self, rest: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.drip(bytes(10_000), 0.0)

    def get_slow(self, rest: str) -> None:
        """A byte every tenth of a second: no single read ever takes long."""
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        self.drip(b"x", 0.1)

    def get_silent(self, rest: str) -> None:
        self.server.closing.wait(20)  # type: ignore[attr-defined]

    def get_slowhead(self, rest: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        self.drip(b"x", 0.1)

    def get_nothttp(self, rest: str) -> None:
        self.wfile.write(b"\x00\x01\x02 SSH-2.0\r\n\r\n")
        self.close_connection = True

    def drip(self, data: bytes, pause: float) -> None:
        try:
            while not self.server.closing.wait(pause):  # type: ignore[attr-defined]
                self.wfile.write(data)
        except OSError:
            pass  # the client went away, as it should
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str]] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


Refused = Callable[..., ImageError]


@pytest.fixture
def refused(server: Server) -> Refused:
    def check(path: str, **limits: float) -> ImageError:
        with pytest.raises(ImageError) as caught:
            load_image(server.url + path, limits=ImageLimits(**limits))  # type: ignore[arg-type]
        error = caught.value
        assert error.exit_code == 3
        assert error.hint
        assert error.message.isprintable()
        assert error.message.startswith(server.url + path[:20]), error.message
        return error

    return check


def test_picture_arrives(server: Server) -> None:
    loaded = load_image(server.url + "/picture")
    np.testing.assert_array_equal(np.asarray(loaded.image), pattern(40, 30, 3))
    assert loaded.source == server.url + "/picture"
    assert server.seen == [("/picture", f"cotcli/{__version__}")]
    assert load_image(server.url.upper() + "/picture").width == 40
    assert load_image(server.url + "/chunked").width == 40


def test_addresses_are_escaped_as_browsers_do(server: Server) -> None:
    assert load_image(server.url + "/picture/a b/ü%20.png?q=[ä b]&x=1#part").width == 40
    assert server.seen[-1][0] == "/picture/a%20b/%C3%BC%20.png?q=%5B%C3%A4%20b%5D&x=1"


def test_no_header_can_be_smuggled_in(server: Server) -> None:
    assert load_image(server.url + "/picture/a\r\nUser-Agent: x").width == 40
    assert server.seen[-1] == ("/picture/aUser-Agent:%20x", f"cotcli/{__version__}")


@pytest.mark.parametrize("kind", ["", "image/webp", "IMAGE/PNG;%20charset=x", "application/octet-stream"])
def test_accepted_content_types(server: Server, kind: str) -> None:
    assert load_image(f"{server.url}/kind/{kind}").width == 40


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "video/mp4", "application/pdf"])
def test_refused_content_types(refused: Refused, kind: str) -> None:
    assert refused(f"/kind/{kind}").message.endswith(f"this is {kind}, not an image")


def test_web_page(refused: Refused) -> None:
    error = refused("/page")
    assert error.message.endswith("this is a web page, not an image")
    assert error.hint is not None and "Copy image address" in error.hint


@pytest.mark.parametrize(
    ("status", "reason"),
    [(404, "Not Found"), (403, "Forbidden"), (500, "Internal Server Error"), (429, "Too Many Requests"), (206, "")],
)
def test_status(refused: Refused, status: int, reason: str) -> None:
    error = refused(f"/status/{status}")
    assert f"the server answers {status} {reason}".strip() in error.message
    assert error.hint is not None and ("Try again later" in error.hint) == (status in (500, 429))


def test_redirects_are_followed_and_counted(server: Server, refused: Refused) -> None:
    assert load_image(server.url + "/hop/5").width == 40
    assert len(server.seen) == 6
    server.seen.clear()
    assert "more than 5 redirects" in refused("/hop/6").message
    assert len(server.seen) == 6
    assert "more than 0 redirects" in refused("/hop/1", max_redirects=0).message
    assert "more than 5 redirects" in refused("/to//to/x").message  # from there on, /to/x leads to itself


def test_redirects_stay_on_http(server: Server, refused: Refused) -> None:
    for target in ("file:///etc/passwd", "ftp://127.0.0.1/a.png", "data:image/png,x"):
        with pytest.raises(ImageError, match=r"redirected to .*, which is not http or https"):
            load_image(f"{server.url}/to/{target}")


def test_size_limits(server: Server, refused: Refused) -> None:
    assert load_image(server.url + "/picture", limits=ImageLimits(max_download_bytes=len(PNG))).width == 40
    for path in ("/picture", "/chunked", "/endless"):
        assert "more than" in refused(path, max_download_bytes=len(PNG) - 1).message
    assert "more than 64 MiB" in refused("/announced").message


def test_connection_closed_early(refused: Refused) -> None:
    assert f"the connection closed after 100 of {len(PNG)} bytes" in refused("/short").message
    assert "the connection closed before the end" in refused("/chunked/cut").message
    assert "the connection closed before the end" in refused("/chunked/odd").message


@pytest.mark.parametrize("path", ["/silent", "/slow", "/slowhead"])
def test_time_limit_is_for_the_whole_transfer(refused: Refused, path: str) -> None:
    start = time.monotonic()
    assert "not loaded within 0.6 seconds" in refused(path, timeout_s=0.6).message
    assert time.monotonic() - start < 5


def test_not_http(refused: Refused) -> None:
    assert "does not speak HTTP" in refused("/nothttp").message


def test_https_to_a_server_without_it(server: Server) -> None:
    with pytest.raises(ImageError, match="no secure connection"):
        load_image(server.url.replace("http:", "https:") + "/picture")


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ImageError, match="no connection"):
        load_image(f"http://127.0.0.1:{port}/a.png")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://", "no host name"),
        ("http:///a.png", "no host name"),
        ("http:a.png", "no host name"),
        ("http://[::1/a.png", "not a valid URL"),
        ("http://localhost:port/a.png", "not a valid URL"),
        ("http://localhost:99999/a.png", "not a valid URL"),
        ("http://" + "a" * 70 + ".org/", "not a valid URL"),
        ("http://a..b/", "not a valid URL"),
        ("http://ann:secret@localhost/a.png", "holds a user name or password"),
    ],
)
def test_bad_urls(url: str, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        load_image(url)
    assert "secret" not in caught.value.message + (caught.value.hint or "")
    assert caught.value.message.isprintable()


def test_proxy_of_the_environment_is_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(ImageError, match="404"):
        load_image("http://pictures.example/picture")
    assert server.seen[-1][0] == "http://pictures.example/picture"
