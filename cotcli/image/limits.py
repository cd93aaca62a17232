"""How much a picture may cost. Knows nothing of formats, files or the network."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageLimits:
    """What `load_image` refuses to exceed. Each limit ends in an `ImageError`, never in a warning.

    The defaults let through every camera and scanner picture we know of, and keep a small hostile file from taking
    all memory: a decoded picture takes 4 bytes a pixel, and decoding it 8 to 13.
    """

    max_pixels: int = 180_000_000
    """Width times height, read from the header before any pixel is decoded (Pillow's own hard limit is 178,956,970)."""
    max_bytes: int = 512 * 2**20
    """Size of a file, of stdin or of a data: URL."""
    max_download_bytes: int = 64 * 2**20
    """Size of what an http(s) URL may send."""
    timeout_s: float = 30.0
    """Whole time for an http(s) URL, redirects and name look-up included."""
    max_redirects: int = 5
