"""Path, URL, bytes or stdin -> `PreparedImage`: step 1 of the data path.

Knows nothing of models beyond the numbers in `ImagePreprocessing`. Importing it imports neither Pillow nor NumPy.

    sources   what the user names -> bytes        (download: http and https)
    formats   first bytes -> picture format
    clipboard what was copied -> picture
    png_rows, jpeg_scans   whether a PNG, a JPEG is whole
    decode    bytes -> upright RGB picture        load_image
    prepare   picture -> tiles, aspect ratio id   prepare_image
"""

from __future__ import annotations

from cotcli.image.decode import LoadedImage, load_image
from cotcli.image.limits import ImageLimits
from cotcli.image.prepare import ImagePreprocessing, PreparedImage, prepare_image
from cotcli.image.sources import expand_sources

__all__ = [
    "ImageLimits",
    "ImagePreprocessing",
    "LoadedImage",
    "PreparedImage",
    "expand_sources",
    "load_image",
    "prepare_image",
]
