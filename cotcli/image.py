from __future__ import annotations
from dataclasses import dataclass


@dataclass(frozen=True)
class ImagePreprocessing:
    tile_size: int
    max_num_tiles: int
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]
    rescale_factor: float
    supported_aspect_ratios: tuple[tuple[int, int], ...]
