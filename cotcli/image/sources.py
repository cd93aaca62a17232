"""What the user names -> bytes: paths, globs, URLs, stdin.

Knows nothing of picture formats; http and https are left to ``download``.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Sequence
from typing import IO

from cotcli.errors import ImageError
from cotcli.image.limits import ImageLimits
from cotcli.printable import printable

STDIN = "-"
_URL = re.compile(r"(https?|data|file):|clipboard:$", re.IGNORECASE)
# Two letters at least before "://", so that C:\picture.png stays a path.
_OTHER_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)
_GLOB = re.compile(r"[*?\[]")


def expand_sources(args: Sequence[str]) -> list[str]:
    """The sources that command line arguments name, in their order.

    A path that exists, a URL, ``clipboard:`` and ``-`` (stdin, once at most) stand for themselves. A glob (``*``,
    ``?``, ``[…]``, and ``**`` for folders at any depth) gives its files sorted by path; shells that do not expand them,
    such as Windows', pass them through. Nothing is opened.

    Raises:
        ImageError: no such file, a folder, a glob without a match, an unsupported scheme, stdin named twice.
    """
    import glob

    if list(args).count(STDIN) > 1:
        raise ImageError("stdin (-) can be read only once", "Give - once, or save the picture and give its path")
    sources: list[str] = []
    for arg in args:
        if arg == STDIN or _URL.match(arg):
            sources.append(arg)
            continue
        _refuse_scheme(arg)
        if _exists(arg):
            if os.path.isdir(arg):
                raise _is_folder(arg)
            sources.append(arg)
            continue
        if not _GLOB.search(arg):
            raise _missing(arg)
        try:
            matches = sorted(path for path in glob.glob(arg, recursive=True) if os.path.isfile(path))
        except (ValueError, re.error) as error:
            detail = printable(str(error))
            raise ImageError(f"{printable(arg)}: not a valid pattern ({detail})", "Give a path") from None
        if not matches:
            raise ImageError(f"{printable(arg)}: no file matches", f"To list what is there: ls {_folder_of(arg)}")
        sources.extend(matches)
    return sources


def name_of(source: str, data: bytes | None = None) -> str:
    """What records call a source: itself, but for a data: URL, which may be megabytes long.

    That is `data:image/png;sha256=…`, by its bytes; as long as these are not known, its beginning and end.
    """
    if source[:5].lower() != "data:":
        return source
    if data is None:
        return printable(source)
    import hashlib

    kind = source[5:].partition(",")[0].split(";")[0].strip().lower()
    return f"data:{printable(kind)};sha256={hashlib.sha256(data).hexdigest()}"


def is_url(source: str) -> bool:
    """Whether a text names what is to be fetched, and no file of this name."""
    return _URL.match(source) is not None


def read_source(source: str | os.PathLike[str], limits: ImageLimits) -> bytes:
    """The bytes of one source; a string may be a URL or ``-``.

    A path object is always a file, as what a file: URL names: pipes and devices are refused, which may be waited for
    without end. As a string, one is read, as shells write it for ``<(…)``.

    Raises:
        ImageError: anything that keeps the bytes from being read, and a source without any.
    """
    if not isinstance(source, str):
        data = _read_file(os.fspath(source), str(source), limits, regular=True)
    elif source == STDIN:
        data = _read_stdin(limits)
    elif match := _URL.match(source):
        scheme = match[1].lower()
        if scheme == "data":
            data = _read_data_url(source, limits)
        elif scheme == "file":
            data = _read_file(_path_of_file_url(source), source, limits, regular=True)
        else:
            from cotcli.image.download import download

            data = download(source, limits)
    else:
        _refuse_scheme(source)
        data = _read_file(source, source, limits)
    if not data:
        name = "stdin" if source == STDIN else printable(str(source))
        hint = "Pipe a picture in: cotcli ask QUESTION - < picture.jpg" if source == STDIN else "Copy the picture again"
        raise ImageError(f"{name}: empty", hint)
    return data


def _read_file(path: str, source: str, limits: ImageLimits, *, regular: bool = False) -> bytes:
    shown = printable(source)
    try:
        if os.path.isdir(path):  # Windows answers "permission denied" to an open()
            raise _is_folder(source)
        if regular and not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError(f"{shown}: is a pipe or a device", "Save the picture and give its path")
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limits.max_bytes:
                raise _too_big(shown, limits)
            return _read_all(file, shown, limits)  # not by st_size: a pipe or /proc file has none
    except FileNotFoundError:
        raise _missing(source) from None
    except PermissionError:
        raise ImageError(f"{shown}: permission denied", f"Check its owner and mode: ls -l {shown}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ImageError(f"{shown}: cannot be read ({printable(reason)})", "Check the path") from error


def _read_stdin(limits: ImageLimits) -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageError("stdin: no picture is piped in", "Pipe one in: cotcli ask QUESTION - < picture.jpg")
    try:
        return _read_all(sys.stdin.buffer, "stdin", limits)
    except OSError as error:
        raise ImageError(f"stdin: cannot be read ({error.strerror})", "Save the picture and give its path") from error


def _read_all(file: IO[bytes], shown: str, limits: ImageLimits) -> bytes:
    chunks, size = [], 0
    while chunk := file.read(1 << 20):
        size += len(chunk)
        if size > limits.max_bytes:
            raise _too_big(shown, limits)
        chunks.append(chunk)
    return b"".join(chunks)


def _read_data_url(url: str, limits: ImageLimits) -> bytes:
    import base64
    from urllib.parse import unquote_to_bytes

    head, comma, payload = url[len("data:") :].partition(",")
    kind = head.split(";")[0].strip().lower()
    shown = printable(url)
    form = "The form is data:image/png;base64,…"
    if not comma:
        raise ImageError(f"{shown}: not a valid data: URL", form)
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise ImageError(f"{shown}: this is {printable(kind)}, not an image", form)
    if len(payload) > 3 * limits.max_bytes:  # the longest spelling, %XX; spares a copy of what is refused anyway
        raise _too_big(shown, limits)
    data = unquote_to_bytes(payload)
    if head.lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(b"".join(data.split()), validate=True)
        except ValueError:
            raise ImageError(f"{shown}: not valid base64", form) from None
    if len(data) > limits.max_bytes:
        raise _too_big(shown, limits)
    return data


def _path_of_file_url(url: str) -> str:
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") and os.name != "nt":
            raise ImageError(f"{printable(url)}: names another machine", "Give a local path: file:///path/picture.png")
        host = "" if parts.netloc == "localhost" else parts.netloc
        # urlsplit takes "?" and "#" for a query and a fragment, as browsers do: in a path they are escaped.
        return url2pathname(f"//{host}{parts.path}" if host else parts.path)
    except (ValueError, OSError) as error:
        raise ImageError(f"{printable(url)}: not a valid file: URL ({printable(str(error))})", "Give a path") from None


def _exists(path: str) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a NUL in the name
        return False


def _refuse_scheme(source: str) -> None:
    if match := _OTHER_SCHEME.match(source):
        raise ImageError(
            f"{printable(source)}: {match[1].lower()}: URLs are not supported",
            "Give a path, or an http, https, data or file URL",
        )


def _folder_of(path: str) -> str:
    """The longest leading folder without a glob character."""
    while _GLOB.search(path) or not path:
        parent = os.path.dirname(path)
        if parent in (path, ""):
            return "."
        path = parent
    return printable(path)


def _missing(source: str) -> ImageError:
    folder = printable(os.path.dirname(source) or ".")
    return ImageError(f"{printable(source)}: no such file", f"Check the spelling; to list what is there: ls {folder}")


def _is_folder(source: str) -> ImageError:
    shown = printable(source)
    return ImageError(f"{shown}: is a folder", f"For all its pictures: {shown.rstrip('/')}/*")


def _too_big(shown: str, limits: ImageLimits) -> ImageError:
    return ImageError(f"{shown}: more than {limits.max_bytes / 2**20:g} MiB", "Save the picture smaller, or as JPEG")
