"""A hub on loopback: what huggingface_hub's client asks the real one, and the ways in which networks fail.

Serves folders as repositories of one commit each: their files' sizes, SHA-256 and git object ids, whole files and
ranges of them. Large files (``.safetensors``, ``.gguf``) are LFS files; the hub redirects for those, and so does this.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_STORE = re.compile(r"/store/(?P<repo>[^/]+/[^/]+)/(?P<file>.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PIECE = 1 << 16


@dataclass(frozen=True)
class Request:
    """What came in, without its query."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def first(self) -> int:
        """The first byte it asks for."""
        match = _RANGE.fullmatch(self.headers.get("range", ""))
        return int(match[1]) if match else 0


@dataclass(frozen=True)
class Trouble:
    """What the server does to a request instead of answering it in full.

    Attributes:
        status: refuses with it; ``code`` is the hub's X-Error-Code.
        cut: ends the connection after that many bytes of the body.
        flip: changes the byte at that offset of the file.
        ignore_range: sends the whole file whatever was asked for.
        body: answers with it, as a network's login page does.
        begin: sends these bytes in place of as many at the beginning of the file.
    """

    status: int = 200
    code: str = ""
    cut: int | None = None
    flip: int | None = None
    ignore_range: bool = False
    begin: bytes = b""
    body: bytes = b""


@dataclass
class Hub:
    """One server. ``trouble`` is asked about each request; ``delay`` is seconds after each 64 KB."""

    folders: dict[str, Path] = field(default_factory=dict)
    trouble: Callable[[Request], Trouble | None] = lambda request: None
    delay: float = 0.0
    requests: list[Request] = field(default_factory=list)
    bytes_sent: int = 0
    main: dict[str, str] = field(default_factory=dict)
    """What a repository's main branch has moved on to; its folder stays what the commit before was."""

    def __post_init__(self) -> None:
        self._hashes: dict[Path, dict[str, Any]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        """No repositories, no trouble, nothing seen."""
        self.folders.clear()
        self.main.clear()
        self.requests.clear()
        self.trouble, self.delay, self.bytes_sent = lambda request: None, 0.0, 0

    @property
    def fetched(self) -> list[str]:
        """The large files of which more than the beginning was asked for, by each request, in its order."""
        whole = (request for request in self.requests if request.path.startswith("/store/"))
        return [request.file for request in whole if not request.headers.get("range", "").startswith("bytes=0-")]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repo: str) -> str:
        """Of a repository as its folder is now."""
        names = sorted(str(self.describe(path)) for path in self._files(repo))
        return hashlib.sha1("\n".join([repo, *names]).encode()).hexdigest()

    def describe(self, path: Path) -> dict[str, Any]:
        """One entry of ``siblings`` with ``blobs=True``."""
        if path not in self._hashes:
            data = path.read_bytes()
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            entry: dict[str, Any] = {
                "size": len(data),
                "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
            }
            self._hashes[path] = entry | ({"lfs": lfs} if is_large(path.name) else {})
        return self._hashes[path]

    def info(self, repo: str) -> dict[str, Any]:
        root = self.folders[repo]
        siblings = [
            {"rfilename": path.relative_to(root).as_posix(), **self.describe(path)} for path in self._files(repo)
        ]
        return {"_id": "0", "id": repo, "modelId": repo, "siblings": siblings, "tags": []}

    def _files(self, repo: str) -> list[Path]:
        return sorted(path for path in self.folders[repo].rglob("*") if path.is_file())


def is_large(name: str) -> bool:
    """Whether the hub keeps such a file as an LFS file."""
    return name.endswith((".safetensors", ".gguf"))


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, path, headers)
            hub.requests.append(request)
            trouble = hub.trouble(request) or Trouble()
            if trouble.status != 200:
                self._refuse(trouble.status, trouble.code)
            elif trouble.body:
                self._head(200, {"Content-Type": "text/html", "Content-Length": str(len(trouble.body))})
                self.wfile.write(trouble.body)
            elif match := _API.fullmatch(path):
                self._info(match["repo"], match["revision"])
            elif match := _STORE.fullmatch(path):
                self._send(match["repo"], match["file"], request, trouble)
            elif match := _RESOLVE.fullmatch(path):
                self._resolve(match["repo"], match["revision"], match["file"], request, trouble)
            else:
                self._refuse(404, "")

        def _info(self, repo: str, revision: str | None) -> None:
            if not self._known(repo, revision or "main"):
                return
            sha = hub.main.get(repo, hub.commit(repo)) if revision in (None, "main") else revision
            body = json.dumps({**hub.info(repo), "sha": sha}).encode()
            self._head(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
            self.wfile.write(body)

        def _resolve(self, repo: str, revision: str, file: str, request: Request, trouble: Trouble) -> None:
            if not self._known(repo, revision):
                return
            if not (hub.folders[repo] / file).is_file():
                return self._refuse(404, "EntryNotFound")
            if not is_large(file):
                return self._send(repo, file, request, trouble)
            entry = hub.describe(hub.folders[repo] / file)
            about = {
                "Location": f"/store/{repo}/{file}",
                "X-Repo-Commit": hub.commit(repo),
                "X-Linked-Etag": f'"{entry["lfs"]["sha256"]}"',
                "X-Linked-Size": str(entry["size"]),
                "Content-Length": "0",
            }
            self._head(302, about)

        def _send(self, repo: str, file: str, request: Request, trouble: Trouble) -> None:
            path = hub.folders[repo] / file
            size = path.stat().st_size
            match = None if trouble.ignore_range else _RANGE.fullmatch(request.headers.get("range", ""))
            first = int(match[1]) if match else 0
            last = min(int(match[2]), size - 1) if match and match[2] else size - 1
            if first > last and size:
                return self._refuse(416, "")
            about = {
                "X-Repo-Commit": hub.commit(repo),
                "ETag": f'"{hub.describe(path)["blobId"]}"',
                "Accept-Ranges": "bytes",
            }
            if match:
                about["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._head(206 if match else 200, {**about, "Content-Length": str(last - first + 1)})
            if request.method != "HEAD":
                self._body(path, first, last + 1, trouble)

        def _body(self, path: Path, first: int, end: int, trouble: Trouble) -> None:
            stop = end if trouble.cut is None else min(end, first + trouble.cut)
            with path.open("rb") as source:
                source.seek(first)
                while first < stop:
                    piece = bytearray(source.read(min(_PIECE, stop - first)))
                    if trouble.flip is not None and first <= trouble.flip < first + len(piece):
                        piece[trouble.flip - first] ^= 0xFF
                    if first < len(trouble.begin):
                        other = trouble.begin[first : first + len(piece)]
                        piece[: len(other)] = other
                    try:
                        self.wfile.write(piece)
                    except OSError:  # the client was killed
                        self.close_connection = True
                        return
                    first += len(piece)
                    hub.bytes_sent += len(piece)
                    if hub.delay:
                        time.sleep(hub.delay)
            if stop < end:
                self.close_connection = True

        def _known(self, repo: str, revision: str) -> bool:
            if repo not in hub.folders:
                self._refuse(401, "RepoNotFound")
            elif revision not in ("main", hub.commit(repo), hub.main.get(repo)):
                self._refuse(404, "RevisionNotFound")
            else:
                return True
            return False

        def _refuse(self, status: int, code: str) -> None:
            self._head(status, {"Content-Length": "0", **({"X-Error-Code": code} if code else {})})

        def _head(self, status: int, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

    return Handler
