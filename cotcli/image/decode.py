"""Bytes or a Pillow image -> an upright RGB picture.

Knows Pillow, its modes and its failures; knows nothing of models, tiles or where the bytes came from. The only place
that decodes, so that every way in which a hostile file can break Pillow ends here in an `ImageError`.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cotcli.errors import ImageError
from cotcli.image.formats import READABLE, format_of
from cotcli.image.limits import ImageLimits, printable
from cotcli.image.png_rows import has_all_rows, is_interlaced
from cotcli.image.sources import read_source

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

_ORIENTATION_TAG = 0x0112
_NEW_SUBFILE_TYPE = 254
_AGAIN = "Copy or download the picture again"
_SHRINK = "Make it smaller first, for example: magick FILE -resize 4096x4096 picture.png"
_DEVELOP = "Develop it to JPEG first, for example: darktable-cli FILE picture.jpg"
# EXIF orientation -> the transposition that undoes it (EXIF 2.32, 4.6.4; 1 is upright).
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
# Pillow's limits and Python's warning filters belong to the process, so one thread at a time sets them.
_PILLOW = threading.Lock()


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """A decoded picture, upright, without transparency."""

    image: Image
    """Pillow image in mode RGB."""
    source: str
    """As the user gave it: a path, a URL, ``-``; ``<bytes>`` or ``<image>`` where there was no name."""
    sha256: str
    """Hex digest of the file's bytes; of a Pillow image, of its size and RGB pixels."""
    width: int
    height: int


def load_image(
    source: str | Path | bytes | Image, *, name: str | None = None, limits: ImageLimits = ImageLimits()
) -> LoadedImage:
    """Reads and decodes one picture.

    Of several frames the first is taken, EXIF orientation is applied, transparency is composited onto white. 16-bit
    grey is scaled to 8 bits (65535 becomes 255), not clipped; 32-bit and float grey as `_scaled_grey` says.

    Args:
        source: path, http(s), data or file URL, ``-`` for stdin, a file's bytes, or a Pillow image.
        name: what to call it in errors and in `LoadedImage.source`, in place of ``source``.

    Raises:
        ImageError: whatever keeps the picture from being read whole.
    """
    import hashlib

    if isinstance(source, (str, os.PathLike)):
        label = name or str(source)
        data = read_source(source, limits)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        label, data = name or "<bytes>", bytes(source)
        if not data:
            raise ImageError(f"{printable(label)}: empty", f"Give one of {READABLE}")
    else:
        label = name or "<image>"
        with _guarded(printable(label), limits):
            image = _upright_rgb(source, printable(label), limits)
            digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
            digest.update(image.tobytes())
        return LoadedImage(image, label, digest.hexdigest(), image.width, image.height)
    image = _decode(data, "stdin" if label == "-" else printable(label), limits)
    return LoadedImage(image, label, hashlib.sha256(data).hexdigest(), image.width, image.height)


def _decode(data: bytes, shown: str, limits: ImageLimits) -> Image:
    from PIL import Image

    format_name = format_of(data, shown)
    # libtiff writes to the process's stderr and Pillow leaves it so.
    quiet = _quiet_stderr() if format_name == "TIFF" else nullcontext()
    with _guarded(shown, limits), quiet, Image.open(io.BytesIO(data), formats=[format_name]) as image:
        _check_size(image, shown, limits)
        if format_name == "TIFF" and _is_thumbnail(image):
            raise ImageError(f"{shown}: its first picture is a thumbnail only, as in camera raw files", _DEVELOP)
        if format_name == "PNG":
            _require_all_rows(image, data, shown)
        return _upright_rgb(image, shown, limits)


def _require_all_rows(image: Image, data: bytes, shown: str) -> None:
    """Counts the rows of a PNG, which costs as much as decoding it, only where some may be missing."""
    image.load()
    last_row = image.crop((0, image.height - 1, image.width, image.height)).tobytes()
    if (is_interlaced(data) or not any(last_row)) and not has_all_rows(data):
        raise ImageError(f"{shown}: truncated, the picture ends before its last row", _AGAIN)


def _is_thumbnail(image: Image) -> bool:
    """Whether a TIFF's first picture is marked as a reduced version of another (TIFF 6.0, NewSubfileType bit 0)."""
    kind = getattr(image, "tag_v2", {}).get(_NEW_SUBFILE_TYPE, 0)
    return isinstance(kind, int) and bool(kind & 1)


def _upright_rgb(image: Image, shown: str, limits: ImageLimits) -> Image:
    from PIL import Image as pil

    _check_size(image, shown, limits)
    image.load()
    _check_size(image, shown, limits)
    rgb = to_rgb(image)
    orientation = None
    with suppress(Exception):  # a picture with broken EXIF data is still a picture
        orientation = image.getexif().get(_ORIENTATION_TAG)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return rgb.transpose(pil.Transpose[turn]) if turn else rgb


def to_rgb(image: Image) -> Image:
    """A picture of any Pillow mode as RGB, transparency composited onto white.

    As transformers' ``convert_to_rgb``, but for the modes that Pillow's own conversion clips or refuses: grey of more
    than 8 bits, and LAB.
    """
    from PIL import Image as pil

    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled_grey(image).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms

        srgb = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert srgb is not None  # None only with inPlace
        return srgb
    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow would drop the alpha of these
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        background = pil.new("RGBA", image.size, (255, 255, 255, 255))
        return pil.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB")


def _scaled_grey(image: Image) -> Image:
    """Grey of more than 8 bits as mode L.

    16-bit: 0…65535 onto 0…255, rounded. 32-bit integers: values up to 255 as they are, up to 65535 as 16-bit, others
    stretched from the least to the greatest. Floats: 0…1 onto 0…255, up to 255 as they are, others stretched; what is
    not finite is black.
    """
    import numpy as np
    from PIL import Image as pil

    values = np.asarray(image)
    if image.mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    sixteen_bit = image.mode not in ("I", "F") or image.format == "PPM"  # Pillow scales any deep PGM to 16 bits
    if image.mode != "F" and low >= 0 and (sixteen_bit or 255 < high <= 65535):
        grey = np.round(np.arange(65536) / 257).astype(np.uint8)[values]
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):
            grey[values == transparent] = 255
    elif low >= 0 and high <= 255:
        factor = 255.0 if image.mode == "F" and high <= 1 else 1.0
        grey = np.round(values * np.float32(factor)).astype(np.uint8)
    else:
        span = float(high) - float(low)
        stretched = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / span if span else 0)
        grey = np.clip(np.round(stretched), 0, 255).astype(np.uint8)
    return pil.fromarray(grey)


def _check_size(image: Image, shown: str, limits: ImageLimits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{shown}: has no pixels ({width}x{height})", "Give a picture of at least one pixel")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"{shown}: {width}x{height} pixels, more than the limit of {limits.max_pixels:,}",
            _SHRINK,
        )


@contextmanager
def _guarded(shown: str, limits: ImageLimits) -> Iterator[None]:
    """Pillow under our limits, without warnings, its exceptions mapped to `ImageError`."""
    from PIL import Image, ImageFile, UnidentifiedImageError

    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
        # Pillow's own check runs in places that ours cannot reach (tiles, frames); it raises at twice this number.
        Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits.max_pixels, False
        try:
            yield
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(f"{shown}: more pixels than the limit of {limits.max_pixels:,}", _SHRINK) from error
        except MemoryError as error:
            raise ImageError(f"{shown}: decoding takes more memory than there is", _SHRINK) from error
        except Exception as error:  # Pillow's plugins raise whatever a lying header makes them trip over
            if "truncated" in str(error).lower():
                raise ImageError(f"{shown}: truncated, the file ends before the picture does", _AGAIN) from error
            detail = "" if isinstance(error, UnidentifiedImageError) else f" ({printable(str(error))})"
            raise ImageError(f"{shown}: damaged, or not an image{detail}", _AGAIN) from error
        finally:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = saved


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """File descriptor 2 to nowhere; held only while a TIFF is decoded."""
    try:
        saved = os.dup(2)
    except OSError:  # stderr is closed: nothing to keep quiet
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
