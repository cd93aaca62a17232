"""Writes ``tests/data/preprocessing_golden.npz`` from transformers' `MllamaImageProcessorPil`.

    python -m tests.parity.make_preprocessing_golden

The pictures are closed-form patterns (``tests/image_files.py``); of each result the file keeps the ids, the checksum
of all pixels and the values of some.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.image_files import pattern
from tests.parity.preprocessing_reference import options, reference_batch

TESTS = Path(__file__).parent.parent
SAMPLED = 48
SIZES_AT_560 = [
    (1, 1), (1, 4000), (4000, 1), (4000, 300), (300, 4000), (560, 560), (561, 560), (1120, 560), (560, 1120),
    (1120, 1120), (640, 480), (1600, 1200), (1080, 1920), (3000, 1000), (100, 40), (2240, 560),
]  # fmt: skip
SIZES_AT_64 = [
    (1, 1), (1, 700), (700, 1), (63, 64), (64, 64), (65, 64), (128, 64), (64, 192), (300, 40), (33, 250), (97, 96),
    (128, 128), (129, 128), (20, 30), (2, 3), (257, 63),
]  # fmt: skip


def cases() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for tile, sizes in ((560, SIZES_AT_560), (64, SIZES_AT_64)):
        made += [{"size": size, "channels": 3 + (i % 3 == 1), "tile": tile, "tiles": 4} for i, size in enumerate(sizes)]
    for size in SIZES_AT_64[2::3]:
        made.append({"size": size, "channels": 1, "tile": 56, "tiles": 6})
        made.append({"size": size, "channels": 3, "tile": 32, "tiles": 4, "ratios": [(2, 2), (1, 1), (4, 1), (1, 4)]})
    return made


def main() -> None:
    ids, masks, checksums, positions, values = [], [], [], [], []
    made = cases()
    rng = np.random.default_rng(0)
    for case in made:
        ratios = case.get("ratios")
        preprocessing = options(case["tile"], case["tiles"], tuple(ratios) if ratios else None)
        case["ratios"] = preprocessing.supported_aspect_ratios
        width, height = case["size"]
        expected = reference_batch(Image.fromarray(pattern(width, height, case["channels"])), preprocessing)
        pixels = expected["pixel_values"].ravel()
        # Half of the samples anywhere, half where the picture is: most of a thin picture's tiles is padding.
        inside = np.flatnonzero(pixels != pixels[-1])
        where = np.concatenate([rng.integers(0, pixels.size, SAMPLED // 2), rng.choice(inside, SAMPLED // 2)])
        ids.append(expected["aspect_ratio_id"])
        masks.append(int(expected["aspect_ratio_mask"].sum()))
        checksums.append(zlib.crc32(pixels.tobytes()))
        positions.append(where)
        values.append(pixels[where])
    np.savez_compressed(
        TESTS / "data" / "preprocessing_golden.npz",
        cases=np.array(json.dumps(made)),
        aspect_ratio_ids=np.array(ids, np.int32),
        num_tiles=np.array(masks, np.int32),
        checksums=np.array(checksums, np.uint32),
        positions=np.array(positions, np.int32),
        values=np.array(values, np.float32),
    )


if __name__ == "__main__":
    main()
