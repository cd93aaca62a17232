"""http and https URLs -> bytes.

Knows nothing of pictures but that a content type should name one. Uses the standard library: huggingface-hub brings
httpx in one major version and httpx2 in the next, and a time limit over the whole transfer needs the same thread with
either.
"""

from __future__ import annotations

import http.client
import ssl
import threading
import time
import urllib.request
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from cotcli import __version__
from cotcli.errors import ImageError
from cotcli.image.limits import ImageLimits
from cotcli.printable import printable

_CHUNK = 1 << 16
_REDIRECTS = (301, 302, 303, 307, 308)
# Servers that do not know a file's type say octet-stream; what the bytes are is decided when they are decoded.
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_CHECK_ADDRESS = "Check the address, or download the picture in a browser and give the file"
_TRY_LATER = "Try again later, or download the picture in a browser and give the file"


def download(url: str, limits: ImageLimits) -> bytes:
    """The body of an http(s) URL.

    The transfer runs in a thread of its own, because no socket option bounds name look-up or a server that sends a
    byte a second; a thread that overran is left to its socket's time limit.

    Raises:
        ImageError: bad URL, no connection, status other than 200, content type that is not an image's, too many bytes
            or redirects, body shorter than announced, out of time.
    """
    deadline = time.monotonic() + limits.timeout_s
    outcome: list[bytes | BaseException] = []

    def work() -> None:
        try:
            outcome.append(_follow(url, limits, deadline))
        except BaseException as error:  # carried over to the calling thread
            outcome.append(error)

    thread = threading.Thread(target=work, name="cotcli-download", daemon=True)
    thread.start()
    while thread.is_alive() and (left := deadline - time.monotonic()) > 0:
        thread.join(min(left, 0.2))  # in slices: on Windows a longer wait would hold Ctrl-C back
    if not outcome:
        raise _timed_out(url, limits)
    result = outcome[0]
    if isinstance(result, bytes):
        return result
    raise _as_image_error(result, url, limits) from result


def _follow(url: str, limits: ImageLimits, deadline: float) -> bytes:
    opener = _opener()
    target = url
    for _ in range(limits.max_redirects + 1):
        request = urllib.request.Request(
            _encoded(target), headers={"User-Agent": f"cotcli/{__version__}", "Accept": "image/*,*/*;q=0.5"}
        )
        with opener.open(request, timeout=max(0.01, deadline - time.monotonic())) as response:
            location = response.headers.get("Location")
            if response.status in _REDIRECTS and location:
                # http.client reads headers as latin-1; servers write UTF-8.
                target = urljoin(target, location.encode("latin-1", "ignore").decode("utf-8", "replace"))
                continue
            _check_head(url, response, limits)
            return _body(url, response, limits, deadline)
    raise ImageError(f"{printable(url)}: more than {limits.max_redirects} redirects", _CHECK_ADDRESS)


def _check_head(url: str, response: Any, limits: ImageLimits) -> None:
    if response.status != 200:
        hint = _TRY_LATER if response.status == 429 or response.status >= 500 else _CHECK_ADDRESS
        reason = printable(f"{response.status} {response.reason}".strip())
        raise ImageError(f"{printable(url)}: the server answers {reason}", hint)
    kind = (response.headers.get("Content-Type") or "").split(";")[0].strip().lower()
    if not kind.startswith("image/") and kind not in _UNTYPED:
        what = "a web page" if kind == "text/html" else printable(kind)
        raise ImageError(
            f"{printable(url)}: this is {what}, not an image",
            "Give the address of the picture itself (in a browser: Copy image address)",
        )
    announced = response.headers.get("Content-Length") or ""
    if announced.isdecimal() and int(announced) > limits.max_download_bytes:
        raise _too_big(url, limits)


def _body(url: str, response: Any, limits: ImageLimits, deadline: float) -> bytes:
    body = bytearray()
    while chunk := response.read1(_CHUNK):
        body += chunk
        if len(body) > limits.max_download_bytes:
            raise _too_big(url, limits)
        if time.monotonic() > deadline:
            raise _timed_out(url, limits)
    announced = response.headers.get("Content-Length") or ""
    if announced.isdecimal() and len(body) < int(announced):
        raise ImageError(f"{printable(url)}: the connection closed after {len(body)} of {announced} bytes", _TRY_LATER)
    return bytes(body)


def _opener() -> urllib.request.OpenerDirector:
    """Speaks http(s) and proxies only: no file: or ftp: behind a redirect, and redirects are ours to count."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_tls()),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not paths.cafile and not paths.capath and not context.cert_store_stats()["x509_ca"]:
        try:  # python.org's macOS build has no certificates of its own; huggingface-hub's HTTP client brings certifi
            import certifi
        except ImportError:
            return context
        context.load_verify_locations(certifi.where())
    return context


def _encoded(url: str) -> str:
    """The URL with spaces and non-ASCII letters escaped, as a browser would send it.

    Raises:
        ImageError: not an http(s) URL with a host, or one that holds a password.
    """
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError as error:  # a bad port, IPv6 address or international host name
        raise ImageError(f"{printable(url)}: not a valid URL ({printable(str(error))})", _CHECK_ADDRESS) from None
    if parts.scheme.lower() not in ("http", "https"):
        raise ImageError(f"redirected to {printable(url)}, which is not http or https", _CHECK_ADDRESS)
    if parts.username is not None:
        raise ImageError(
            f"URL of {printable(parts.hostname or '?')}: holds a user name or password, which is not supported",
            "Download the picture yourself, as with curl, and give the file",
        )
    if not host:
        raise ImageError(f"{printable(url)}: not a valid URL (no host name)", _CHECK_ADDRESS)
    netloc = (f"[{host}]" if ":" in host else host) + port
    safe = "/%:@!$&'()*+,;=~-._?"
    return urlunsplit((parts.scheme, netloc, quote(parts.path, safe=safe), quote(parts.query, safe=safe), ""))


def _as_image_error(error: BaseException, url: str, limits: ImageLimits) -> BaseException:
    shown = printable(url)
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(error, ImageError) or not isinstance(error, Exception):
        return error
    if isinstance(reason, TimeoutError):
        return _timed_out(url, limits)
    if isinstance(reason, ssl.SSLError):
        return ImageError(f"{shown}: no secure connection ({printable(str(reason))})", _CHECK_ADDRESS)
    if isinstance(error, http.client.IncompleteRead):
        return ImageError(f"{shown}: the connection closed before the end", _TRY_LATER)
    if isinstance(error, OSError):
        return ImageError(f"{shown}: no connection ({printable(str(reason))})", "Check the network and the address")
    return ImageError(f"{shown}: the server does not speak HTTP ({printable(repr(error))})", _CHECK_ADDRESS)


def _timed_out(url: str, limits: ImageLimits) -> ImageError:
    return ImageError(f"{printable(url)}: not loaded within {limits.timeout_s:g} seconds", _TRY_LATER)


def _too_big(url: str, limits: ImageLimits) -> ImageError:
    return ImageError(
        f"{printable(url)}: more than {limits.max_download_bytes / 2**20:g} MiB",
        "Download the picture, make it smaller and give the file",
    )
