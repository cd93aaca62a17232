"""A picture -> the tiles that the vision tower takes.

Reproduces transformers' ``MllamaImageProcessorPil`` bit for bit (``models/mllama/image_processing_pil_mllama.py``);
knows nothing of files. Tile size, ratios and statistics come from the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from cotcli.image.decode import LoadedImage


@dataclass(frozen=True)
class ImagePreprocessing:
    """How a checkpoint's pictures are prepared (``preprocessor_config.json``)."""

    tile_size: int
    """Side of a tile in pixels."""
    max_num_tiles: int
    image_mean: tuple[float, ...]
    """Of each channel, R, G, B, after rescaling."""
    image_std: tuple[float, ...]
    rescale_factor: float
    """What a pixel value 0…255 is multiplied by."""
    supported_aspect_ratios: tuple[tuple[int, int], ...]
    """(rows, columns) of tiles, in the checkpoint's order: ``aspect_ratio_id`` is the index plus 1."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """What the vision tower takes."""

    pixel_values: NDArray[np.float32]
    """shape = (max_num_tiles, 3, tile_size, tile_size); tiles row by row, unused ones 0.0."""
    aspect_ratio_id: int
    num_tiles: int
    """How many of the tiles are real, first ones first (``aspect_ratio_mask`` is 1 for these)."""
    source: str
    sha256: str
    width: int
    """Of the upright picture, in pixels, before resizing; so ``height``."""
    height: int


def prepare_image(image: LoadedImage | Image, preprocessing: ImagePreprocessing) -> PreparedImage:
    """Fits a picture onto the best arrangement of tiles, pads it, normalizes it and cuts it.

    Args:
        image: what `load_image` gave; a Pillow image goes through it first.

    Raises:
        ImageError: a Pillow image that `load_image` refuses.
    """
    import numpy as np
    from PIL.Image import Resampling

    from cotcli.image.decode import LoadedImage, load_image

    if not isinstance(image, LoadedImage):
        image = load_image(image)
    p = preprocessing
    tile = p.tile_size
    rows, columns = best_arrangement(image.height, image.width, tile, p.supported_aspect_ratios)
    height, width = fitted_size(image.height, image.width, rows * tile, columns * tile, tile)
    resized = np.asarray(image.image.resize((width, height), Resampling.BILINEAR))

    table = normalized_values(p)
    pixel_values = np.zeros((p.max_num_tiles, 3, tile, tile), np.float32)
    pixel_values[: rows * columns] = table[:, 0].reshape(3, 1, 1)  # padding is black *before* normalization
    for index in range(rows * columns):
        top, left = index // columns * tile, index % columns * tile
        region = resized[top : top + tile, left : left + tile]
        for channel in range(3):
            target = pixel_values[index, channel, : region.shape[0], : region.shape[1]]
            # "clip" spares the temporary copy of a bounds check that no byte can fail.
            np.take(table[channel], region[..., channel], out=target, mode="clip")
    return PreparedImage(
        pixel_values=pixel_values,
        aspect_ratio_id=p.supported_aspect_ratios.index((rows, columns)) + 1,
        num_tiles=rows * columns,
        source=image.source,
        sha256=image.sha256,
        width=image.width,
        height=image.height,
    )


def best_arrangement(height: int, width: int, tile: int, ratios: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The (rows, columns) of tiles for a picture: the least enlargement, else the least reduction, then fewest tiles.

    The scale of an arrangement is what makes the picture just fit, in float64 as transformers computes it; a scale of
    exactly 1 counts as enlargement.
    """
    scales = [min(rows * tile / height, columns * tile / width) for rows, columns in ratios]
    enlarging = [scale for scale in scales if scale >= 1]
    chosen = min(enlarging) if enlarging else max(scales)
    return min((ratio for ratio, scale in zip(ratios, scales, strict=True) if scale == chosen), key=math.prod)


def fitted_size(height: int, width: int, canvas_height: int, canvas_width: int, tile: int) -> tuple[int, int]:
    """(height, width) to resize to: proportions kept, inside the canvas, enlarged to a tile's side at least once."""
    target_height = min(max(height, tile), canvas_height)
    target_width = min(max(width, tile), canvas_width)
    scale_height, scale_width = target_height / height, target_width / width
    if scale_width < scale_height:
        return min(math.floor(height * scale_width) or 1, target_height), target_width
    return target_height, min(math.floor(width * scale_height) or 1, target_width)


def normalized_values(preprocessing: ImagePreprocessing) -> NDArray[np.float32]:
    """What each byte becomes in each channel: shape = (3, 256).

    A pixel is a byte until here, so 768 values computed as transformers does (product in float64, rounded to float32,
    the rest in float32) stand for every pixel's arithmetic.
    """
    import numpy as np

    factor = preprocessing.rescale_factor
    if np.float32(factor) == np.float32(1 / 255):  # GGUF metadata may keep the factor in float32 only
        factor = 1 / 255
    values = (np.arange(256, dtype=np.float64) * factor).astype(np.float32)
    mean = np.array(preprocessing.image_mean, np.float32).reshape(3, 1)
    std = np.array(preprocessing.image_std, np.float32).reshape(3, 1)
    table: NDArray[np.float32] = (values - mean) / std
    return table
