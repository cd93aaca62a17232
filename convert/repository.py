"""A checkpoint on the hub as a source: small files at once, the headers of shards, and each shard in its turn."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from convert.sources import Origin, Source
from cotcli.errors import CheckpointError, HubError
from cotcli.hub import HubRepo, OnBytes
from cotcli.hub_errors import page

# All that convert.config, convert.tokenizer and gguf's SpecialVocab look for.
_SMALL = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)
_TEMPLATES = "additional_chat_templates/"


@dataclass(frozen=True)
class Repository:
    """A repository to convert from.

    Attributes:
        id: `OWNER/NAME`.
        revision: a commit, branch or tag; None is the main branch, or what an unfinished conversion began with.
        offline: ask nobody: take it from the Hugging Face cache, where all of it must be.
        on_bytes: called, perhaps from another thread, while files come in.
    """

    id: str
    revision: str | None = None
    offline: bool = False
    on_bytes: OnBytes | None = None

    def open(self, folder: Path) -> Source:
        """Its commit and its small files, which go into ``folder``.

        Raises:
            HubError: the hub does not give it; or ``offline``, and the cache does not have it or has other bytes.
        """
        cached_with = "config.json" if self.offline else None
        return RepositorySource(HubRepo(self.id, self.revision, self.on_bytes, cached_with), folder)


class RepositorySource:
    """The ``Source`` of a repository at one commit."""

    def __init__(self, repo: HubRepo, folder: Path) -> None:
        self.repo = repo
        self.name = repo.id
        self.origin = Origin(repo.id, repo.commit)
        self.folder = folder
        self._heads: dict[str, set[tuple[int, str]]] = {}
        small = [name for name in repo.files if name in _SMALL or name.startswith(_TEMPLATES)]
        for name in small:
            path = repo.fetch(name, folder)
            if path != folder / name:  # it is in the cache
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, folder / name)

    def size(self, shard: str) -> int:
        if shard not in self.repo.files:
            if self.repo.offline:
                raise CheckpointError(
                    f"{shard} of {self.name} is not in the Hugging Face cache", "Start it without --offline"
                )
            raise CheckpointError(f"{self.name} lacks {shard}", f"See {page(self.name)}")
        return self.repo.files[shard].size

    def head(self, shard: str, count: int) -> bytes:
        head = self.repo.head(shard, count)
        self._heads.setdefault(shard, set()).add((len(head), hashlib.sha256(head).hexdigest()))
        return head

    def missing(self, shard: str, into: Path) -> int:
        return self.repo.missing(shard, into)

    def takes(self, shard: str, into: Path) -> int:
        return 0 if self.repo.cached(shard) is not None else self.size(shard)

    def fetch(self, shard: str, into: Path) -> Path:
        """As the ``Source``'s; a shard that does not begin as ``head`` said would be read in the wrong places."""
        path = self.repo.fetch(shard, into)
        with path.open("rb") as file:
            for count, digest in sorted(self._heads.get(shard, ())):
                file.seek(0)
                if hashlib.sha256(file.read(count)).hexdigest() != digest:
                    raise self._other_header(shard)
        return path

    def _other_header(self, shard: str) -> HubError:
        message = f"the header of {shard} of {self.name} came otherwise than it stands in the file"
        cached = self.repo.cached(shard)
        if cached is None:
            return HubError(
                message, "Start it again; if that does not help, something between here and the hub changes it"
            )
        return HubError(message, f"It came from the Hugging Face cache: delete {cached.resolve()} and start it again")

    def release(self, shard: str, into: Path) -> None:
        (into / shard).unlink(missing_ok=True)

    def cancel(self) -> None:
        self.repo.cancel()
