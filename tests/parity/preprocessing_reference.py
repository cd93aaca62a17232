"""transformers' `MllamaImageProcessorPil`, as the preprocessing tests and the golden values use it.

Knows how to drive the reference; holds none of our own preprocessing but the options that it is given.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from transformers.models.mllama import image_processing_pil_mllama as reference

from cotcli.image import ImagePreprocessing

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MODES = ("RGB", "RGBA", "L", "LA", "P", "P+transparency", "1", "CMYK", "YCbCr", "HSV", "RGBX", "RGB+transparency")


def standard_ratios(max_num_tiles: int) -> tuple[tuple[int, int], ...]:
    """The (rows, columns) that transformers computes for a number of tiles, in its order."""
    return tuple(reference.get_all_supported_aspect_ratios(max_num_tiles))


def options(
    tile_size: int, max_num_tiles: int, ratios: tuple[tuple[int, int], ...] | None = None
) -> ImagePreprocessing:
    return ImagePreprocessing(
        tile_size=tile_size,
        max_num_tiles=max_num_tiles,
        image_mean=MEAN,
        image_std=STD,
        rescale_factor=1 / 255,
        supported_aspect_ratios=ratios or standard_ratios(max_num_tiles),
    )


def picture(width: int, height: int, mode: str, seed: int) -> Image.Image:
    """A random picture with large and small structure."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 4), np.uint8), "RGBA").resize((width, height), 3)
    noise = rng.integers(-40, 41, (height, width, 4))
    rgba = Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8), "RGBA")
    if mode in ("RGBA", "LA"):
        return rgba.convert(mode)
    rgb = rgba.convert("RGB")
    if mode == "P+transparency":
        palette = rgb.quantize(17)
        palette.info["transparency"] = bytes(rng.integers(0, 256, 17, np.uint8)) if seed % 2 else 3
        return palette
    if mode == "RGB+transparency":
        rgb.info["transparency"] = rgb.getpixel((0, 0))
        return rgb
    return rgb.quantize(17) if mode == "P" else rgb.convert(mode)


def reference_batch(image: Image.Image, preprocessing: ImagePreprocessing) -> dict[str, Any]:
    """pixel_values (tiles, 3, tile, tile) float32, aspect_ratio_id, aspect_ratio_mask (tiles,), num_tiles."""
    p = preprocessing
    processor = reference.MllamaImageProcessorPil(
        size={"height": p.tile_size, "width": p.tile_size},
        max_image_tiles=p.max_num_tiles,
        image_mean=list(p.image_mean),
        image_std=list(p.image_std),
        rescale_factor=p.rescale_factor,
    )
    # The class derives its ratios from the number of tiles; a checkpoint may list others.
    with mock.patch.object(reference, "get_all_supported_aspect_ratios", lambda _: list(p.supported_aspect_ratios)):
        reference.get_optimal_tiled_canvas.cache_clear()
        batch = processor(image, return_tensors="np")
        reference.get_optimal_tiled_canvas.cache_clear()
    return {
        "pixel_values": batch["pixel_values"][0, 0],
        "aspect_ratio_id": int(batch["aspect_ratio_ids"][0, 0]),
        "aspect_ratio_mask": batch["aspect_ratio_mask"][0, 0],
        "num_tiles": int(batch["num_tiles"][0][0]),
    }
