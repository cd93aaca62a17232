"""Bytes or a Pillow image -> an upright RGB picture.

Knows Pillow, its modes and its failures; knows nothing of models, tiles or where the bytes came from. The only place
that decodes, so that every way in which a hostile file can break Pillow ends here in an `ImageError`.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cotcli.errors import ImageError
from cotcli.image.clipboard import CLIPBOARD, from_clipboard
from cotcli.image.formats import READABLE, format_of
from cotcli.image.jpeg_scans import with_more_data
from cotcli.image.limits import ImageLimits
from cotcli.image.png_rows import has_all_rows, has_damaged_data, is_interlaced
from cotcli.image.sources import STDIN, name_of, read_source
from cotcli.image.tiff_strips import has_all_strips
from cotcli.printable import printable
from cotcli.stderr import silenced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

_STRIP = 1 << 20  # pixels that are converted at a time where that takes several copies
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
    """As the user gave it: a path, a URL, ``-``; see `name_of`. ``<bytes>`` or ``<image>`` where there was no name."""
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
        source: path, http(s), data or file URL, ``-`` for stdin, ``clipboard:``, a file's bytes, or a Pillow image.
        name: what to call it in errors and in `LoadedImage.source`, in place of ``source``.

    Raises:
        ImageError: whatever keeps the picture from being read whole.
    """
    import hashlib

    if isinstance(source, str) and source.lower() == CLIPBOARD:
        name = name or source
        with _guarded(_shown(source), limits):
            taken = from_clipboard()
        source = Path(taken) if isinstance(taken, str) else taken
    if isinstance(source, (str, os.PathLike)):
        data = read_source(source, limits)
        label = name or (name_of(source, data) if isinstance(source, str) else str(source))
    elif isinstance(source, (bytes, bytearray, memoryview)):
        label, data = name or "<bytes>", bytes(source)
        if not data:
            raise ImageError(f"{printable(label)}: empty", f"Give one of {READABLE}")
    else:
        label = name or "<image>"
        with _guarded(_shown(label), limits):
            image = _upright_rgb(source, _shown(label), limits)
            digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
            digest.update(image.tobytes())
        return LoadedImage(image, label, digest.hexdigest(), image.width, image.height)
    image = _decode(data, _shown(label), limits)
    return LoadedImage(image, label, hashlib.sha256(data).hexdigest(), image.width, image.height)


def _shown(label: str) -> str:
    """A picture's name in errors."""
    return {STDIN: "stdin", CLIPBOARD: "clipboard"}.get(label.lower()) or printable(label)


def _decode(data: bytes, shown: str, limits: ImageLimits) -> Image:
    from PIL import Image

    format_name = format_of(data, shown)
    # libtiff writes to the process's stderr and Pillow leaves it so.
    quiet = silenced() if format_name == "TIFF" else nullcontext()
    with _guarded(shown, limits), quiet, Image.open(io.BytesIO(data), formats=[format_name]) as image:
        _check_size(image, shown, limits)
        if format_name == "TIFF" and _is_thumbnail(image):
            raise ImageError(f"{shown}: its first picture is a thumbnail only, as in camera raw files", _DEVELOP)
        if format_name == "TIFF" and not has_all_strips(getattr(image, "tag_v2", {}), data):
            raise ImageError(f"{shown}: truncated, it does not hold all of the picture's strips", _AGAIN)
        if format_name == "PNG":
            _rescale_transparent(image, depth=data[24])
            _require_whole_png(image, data, shown)
        if format_name == "JPEG":
            _require_whole_jpeg(image, data, shown)
        return _upright_rgb(image, shown, limits)


def _rescale_transparent(image: Image, depth: int) -> None:
    """A PNG's transparent grey or colour comes at the file's depth: brings it to that of the pixels, 8 bits a sample.

    Of 16-bit colours 8 bits are left, so that its nearest neighbours are transparent with it.
    """
    transparent = image.info.get("transparency")
    if image.mode == "L" and isinstance(transparent, int):
        top = (1 << depth) - 1
        image.info["transparency"] = (transparent & top) * 255 // top
    elif image.mode == "RGB" and depth == 16 and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in transparent)


def _require_whole_png(image: Image, data: bytes, shown: str) -> None:
    """Compares a PNG's checksums, and counts its rows where some may be missing, which costs as much as decoding it."""
    image.load()
    if has_damaged_data(data):
        raise ImageError(f"{shown}: damaged, its data differs from its checksums", _AGAIN)
    last_row = image.crop((0, image.height - 1, image.width, image.height)).tobytes()
    if (is_interlaced(data) or not any(last_row)) and not has_all_rows(data):
        raise ImageError(f"{shown}: truncated, the picture ends before its last row", _AGAIN)


def _require_whole_jpeg(image: Image, data: bytes, shown: str) -> None:
    """Decodes a JPEG a second time, only where data may be missing: where its last pixel is as grey as if it were.

    And where it is progressive, because then data may be missing of which the last pixel has a first version.
    """
    from PIL import Image as pil
    from PIL import ImageChops

    image.load()
    last_pixel = image.crop((image.width - 1, image.height - 1, image.width, image.height)).tobytes()
    if not image.info.get("progressive") and not set(last_pixel) <= {127, 128}:  # CMYK comes inverted
        return
    more = with_more_data(data)
    if more is None:
        return
    with pil.open(io.BytesIO(more), formats=["JPEG"]) as again:
        again.load()
        if ImageChops.difference(image, again).getbbox() is not None:
            raise ImageError(f"{shown}: truncated, its data ends before the picture does", _AGAIN)


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
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _by_strips(image, _grey_scale(image))
    if image.mode == "LAB":
        from PIL import ImageCms

        srgb = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
        assert srgb is not None  # None only with inPlace
        return srgb
    if "A" in image.getbands() or image.mode in ("La", "RGBa") or image.info.get("transparency") is not None:
        return _by_strips(image, _on_white)
    return image.convert("RGB")


def _by_strips(image: Image, convert: Callable[[Image], Image]) -> Image:
    """Converts a picture so that its copies on the way take little memory."""
    from PIL import Image as pil

    rgb = pil.new("RGB", image.size)
    for strip, top in _strips(image):
        rgb.paste(convert(strip).convert("RGB"), (0, top))
    return rgb


def _strips(image: Image) -> Iterator[tuple[Image, int]]:
    """Parts of a picture over its whole width, each with its first row."""
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        yield image.crop((0, top, image.width, min(top + step, image.height))), top


def _on_white(image: Image) -> Image:
    from PIL import Image as pil

    if image.mode in ("La", "RGBa"):  # premultiplied: Pillow would drop the alpha of these
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    image = image.convert("RGBA")
    return pil.alpha_composite(pil.new("RGBA", image.size, (255, 255, 255, 255)), image)


def _grey_scale(image: Image) -> Callable[[Image], Image]:
    """How grey of more than 8 bits becomes mode L.

    16-bit: 0…65535 onto 0…255, rounded. 32-bit integers: values up to 255 as they are, up to 65535 as 16-bit, others
    stretched from the least to the greatest. Floats: 0…1 onto 0…255, up to 255 as they are, others stretched; what is
    not finite is black.
    """
    import numpy as np
    from PIL import Image as pil

    ranges = [(values.min(), values.max()) for values in (_values(strip) for strip, _ in _strips(image))]
    low, high = min(least for least, _ in ranges), max(greatest for _, greatest in ranges)
    sixteen_bit = image.mode not in ("I", "F") or image.format == "PPM"  # Pillow scales any deep PGM to 16 bits
    if image.mode != "F" and low >= 0 and (sixteen_bit or 255 < high <= 65535):
        table = np.round(np.arange(65536) / 257).astype(np.uint8)
        transparent = image.info.get("transparency")
        if isinstance(transparent, int) and 0 <= transparent < 65536:
            table[transparent] = 255
        return lambda strip: pil.fromarray(table[_values(strip)])
    if low >= 0 and high <= 255:
        factor = np.float32(255.0 if image.mode == "F" and high <= 1 else 1.0)
        return lambda strip: pil.fromarray(np.round(_values(strip) * factor).astype(np.uint8))
    span = float(high) - float(low)
    factor = np.float32(255 / span if span else 0)

    def stretch(strip: Image) -> Image:
        stretched = (_values(strip).astype(np.float32) - np.float32(low)) * factor
        return pil.fromarray(np.clip(np.round(stretched), 0, 255).astype(np.uint8))

    return stretch


def _values(image: Image) -> NDArray[np.generic]:
    """shape = (height, width)."""
    import numpy as np

    values: NDArray[np.generic] = np.asarray(image)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) if image.mode == "F" else values


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
