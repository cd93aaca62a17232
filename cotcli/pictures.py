"""What the user gives as a picture -> keys and values that sequences attend to, once for all who ask about it.

Knows when two sources are the same picture, and who still needs it. Knows nothing of questions or answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from cotcli.answer import ImageInfo
from cotcli.engine import Engine
from cotcli.image import LoadedImage, PreparedImage, load_image, prepare_image
from cotcli.image_cache import ImageCache
from cotcli.image_cache import encode as encode_cached
from cotcli.mllama.cross_attention import ImageKV

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource: TypeAlias = str | Path | bytes | Image | LoadedImage


# At 4 bytes in memory less than four tiles of 560x560 as float32, which are 15 MB.
_FEW_PIXELS = 3_500_000


@dataclass(frozen=True)
class Picture:
    """A picture that has been read. `pixels` are cut into tiles, unless it was known then and is no larger than these.

    `read_ms` is the time that took.
    """

    info: ImageInfo
    pixels: LoadedImage | PreparedImage
    read_ms: float


@dataclass(frozen=True)
class EncodedImage:
    """A picture as the language model takes it."""

    info: ImageInfo
    num_tiles: int
    kv: ImageKV


class Pictures:
    """The pictures of one engine.

    Args:
        cache: where they are kept encoded on disk, None for nowhere.

    The last one encoded is kept, since questions about one picture come in rows, and each for as long as a sequence
    attends to it; so a picture is not encoded again while either holds.
    """

    def __init__(self, engine: Engine, cache: ImageCache | None, on_progress: Callable[[int, int], None]) -> None:
        self._engine, self._cache, self._progress = engine, cache, on_progress
        self._known: dict[str, EncodedImage] = {}  # by the SHA-256 of the picture
        self._last: ImageKV | None = None

    def read(self, image: ImageSource) -> Picture:
        """Reads, decodes and cuts a picture; safe in any thread.

        Raises:
            ImageError: the picture cannot be read.
        """
        begin = time.perf_counter()
        loaded = image if isinstance(image, LoadedImage) else load_image(image)
        info = ImageInfo(loaded.source, loaded.sha256, loaded.width, loaded.height)
        # A picture that is known may never need its tiles; but one that waits for its turn must not be 324 MB.
        spared = self._encoded(loaded.sha256) is not None and loaded.width * loaded.height <= _FEW_PIXELS
        pixels = loaded if spared else prepare_image(loaded, self._engine.hparams.image)
        return Picture(info, pixels, (time.perf_counter() - begin) * 1000.0)

    def encode(self, picture: Picture) -> EncodedImage:
        """A picture's keys and values, good until the next one is encoded; a sequence made with them keeps them."""
        encoded = self._encoded(picture.info.sha256)
        if encoded is not None:
            kv = encoded.kv.retain()
            self.forget_last()
            self._last = kv
            return replace(encoded, info=picture.info)
        pixels = picture.pixels
        prepared = pixels if isinstance(pixels, PreparedImage) else prepare_image(pixels, self._engine.hparams.image)
        states = encode_cached(self._engine, prepared, self._cache, self._progress)
        self.forget_last()
        self._last = self._engine.load_image(states, prepared.num_tiles)
        self._known = {sha: known for sha, known in self._known.items() if known.kv.alive}
        encoded = EncodedImage(picture.info, prepared.num_tiles, self._last)
        self._known[picture.info.sha256] = encoded
        return encoded

    def forget_last(self) -> None:
        """Frees the last picture unless a sequence attends to it."""
        last, self._last = self._last, None
        if last is not None:
            self._engine.release_image(last)

    def _encoded(self, sha256: str) -> EncodedImage | None:
        encoded = self._known.get(sha256)
        return encoded if encoded is not None and encoded.kv.alive else None
