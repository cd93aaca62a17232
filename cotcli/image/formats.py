"""First bytes -> which picture format this is, and the Pillow plugin that reads it.

Knows nothing of sources or pixels. Only the formats listed here are opened: Pillow has forty more, among them EPS,
which runs Ghostscript, and JPEG 2000, whose decoder passes truncated files for whole ones.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from cotcli.errors import ImageError

if TYPE_CHECKING:
    from types import ModuleType

READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, PPM and, with an extra, HEIC"
_FRAME = "Take a frame first: ffmpeg -i FILE -frames:v 1 frame.png"
_CONVERT = "Convert it to PNG or JPEG first, for example: magick FILE picture.png"

_PLUGINS = {  # Pillow's name of the format -> the module that registers it
    "AVIF": "PIL.AvifImagePlugin",
    "BMP": "PIL.BmpImagePlugin",
    "GIF": "PIL.GifImagePlugin",
    "JPEG": "PIL.JpegImagePlugin",  # hands MPO, a phone's several pictures in one file, to its own plugin
    "PNG": "PIL.PngImagePlugin",
    "PPM": "PIL.PpmImagePlugin",
    "TIFF": "PIL.TiffImagePlugin",
    "WEBP": "PIL.WebPImagePlugin",
}
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    *((b"P" + digit, "PPM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6", b"f\n")),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
# What people do hand to an image program, with what to do about it.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the picture itself", "Fetch the picture: git lfs pull"),
    (b"%PDF", "a PDF", "Render a page first: pdftoppm -png -r 150 -singlefile FILE page"),
    (b"%!PS", "a PostScript file", _CONVERT),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file", _CONVERT),
    (b"<svg", "an SVG drawing", "Render it first: rsvg-convert FILE -o picture.png"),
    (b"<!doctype html", "a web page", "Download the picture itself"),
    (b"<html", "a web page", "Download the picture itself"),
    (b"8BPS", "a Photoshop file", _CONVERT),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 picture", _CONVERT),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture", _CONVERT),
    (b"\0\0\0\x0cJXL ", "a JPEG XL picture", _CONVERT),
    (b"\xff\x0a", "a JPEG XL picture", _CONVERT),
    (b"\0\0\1\0", "a Windows icon", _CONVERT),
    (b"\x1aE\xdf\xa3", "a video", _FRAME),
    (b"PK\3\4", "a ZIP archive", "Unpack it and give a picture in it"),
    (b"\x1f\x8b", "a gzip file", "Unpack it first: gunzip FILE"),
)


def format_of(data: bytes, shown: str) -> str:
    """Pillow's name of the format of ``data``; the plugin that reads it is loaded. ``shown`` names it in errors.

    Raises:
        ImageError: not an image, a format that is not read, HEIC without its extra.
    """
    name = _sniff(data)
    if name == "HEIF":
        _register_heif(shown)
        return name
    if name is None:
        raise _not_read(data, shown)
    plugin: ModuleType | None = None
    with suppress(ImportError):  # the oldest Pillow we allow has no AVIF
        plugin = import_module(_PLUGINS[name])
    if plugin is None or not getattr(plugin, "SUPPORTED", True):
        raise ImageError(f"{shown}: this Pillow cannot read {name}", "Get one that can: pip install --upgrade pillow")
    return name


def _sniff(data: bytes) -> str | None:
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        # ISO container: the major brand, then (after a version) the compatible ones up to the end of the box.
        brands = [data[8:12]] + [data[i : i + 4] for i in range(16, min(int.from_bytes(data[:4], "big"), 256), 4)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in _HEIC_BRANDS for brand in brands) or brands[0] in (b"mif1", b"msf1"):
            return "HEIF"
    return None


def _not_read(data: bytes, shown: str) -> ImageError:
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<?xml") and b"<svg" in start:
        start = b"<svg"
    for magic, what, hint in _OTHERS:
        if start.startswith(magic.lower()) or data.startswith(magic):
            return ImageError(f"{shown}: is {what}, which is not read", hint)
    if data[4:8] == b"ftyp" or (data[:4] == b"RIFF" and data[8:12] == b"AVI "):
        return ImageError(f"{shown}: is a video, which is not read", _FRAME)
    return ImageError(f"{shown}: not an image", f"Give one of {READABLE}")


def _register_heif(shown: str) -> None:
    try:
        import_module("pillow_heif").register_heif_opener(thumbnails=False)
    except ImportError:
        raise ImageError(f"{shown}: is an HEIC picture, which needs an extra", 'pip install "cotcli[heic]"') from None
