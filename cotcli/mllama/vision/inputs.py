"""What goes into the vision tower: an image's patches, and the learned tables that are added to them."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cotcli.image import PreparedImage
from cotcli.mllama.weights import WeightFile


def gate(file: WeightFile, name: str) -> float:
    """What a learned gate lets through."""
    return math.tanh(file.array(name)[0])


def position_table(file: WeightFile, aspect_ratio_id: int) -> npt.NDArray[np.float32]:
    """What is added to the class token and the patches of each tile: tile and position embeddings, and in each tile's
    first row the class token itself; shape (max_num_tiles, num_patches, hidden_size)."""
    hp = file.hparams.vision
    table = np.empty((hp.max_num_tiles, hp.num_patches, hp.hidden_size), np.float32)
    tile = file.array("v.pre_tile_embd.weight")[aspect_ratio_id].reshape(hp.max_num_tiles, 1, hp.hidden_size)
    table[:, 1:] = tile * gate(file, "v.pre_tile_embd.gate")
    table[:, 0] = file.array("v.class_embd")
    position_gate = gate(file, "v.position_embd.gate")
    table += (1 - position_gate) * file.array("v.position_embd.weight")
    table += position_gate * file.array("v.tile_position_embd.weight")[aspect_ratio_id].reshape(table.shape)
    return table


def second_tile_embedding(file: WeightFile, aspect_ratio_id: int) -> npt.NDArray[np.float32]:
    """What each tile gets between the two encoders; shape (max_num_tiles, 1, hidden_size)."""
    hp = file.hparams.vision
    tile = file.array("v.post_tile_embd.weight")[aspect_ratio_id] * gate(file, "v.post_tile_embd.gate")
    return np.asarray(tile, np.float32).reshape(hp.max_num_tiles, 1, hp.hidden_size)


def patches(image: PreparedImage, patch_size: int) -> npt.NDArray[np.float32]:
    """Of the real tiles, shape (num_tiles, patches, 3 * patch_size²): row-major, values by channel, row, column."""
    tiles = image.pixel_values[: image.num_tiles]
    n, channels, height, width = tiles.shape
    rows, columns = height // patch_size, width // patch_size
    split = tiles.reshape(n, channels, rows, patch_size, columns, patch_size).transpose(0, 2, 4, 1, 3, 5)
    return np.ascontiguousarray(split.reshape(n, rows * columns, channels * patch_size**2))
