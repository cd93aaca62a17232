"""`load_image` and `prepare_image` from end to end; pixels against golden values made by transformers."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from cotcli.errors import ImageError
from cotcli.image import ImageLimits, ImagePreprocessing, load_image, prepare_image
from cotcli.image.prepare import best_arrangement, fitted_size, normalized_values
from tests.image_files import pattern, written

GOLDEN = Path(__file__).parent / "data" / "preprocessing_golden.npz"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))


def options(tile_size: int = 32, max_num_tiles: int = 4, ratios: Any = RATIOS) -> ImagePreprocessing:
    return ImagePreprocessing(tile_size, max_num_tiles, MEAN, STD, 1 / 255, tuple((r, c) for r, c in ratios))


def test_pixels_and_ids_are_transformers() -> None:
    golden = np.load(GOLDEN)
    cases = json.loads(str(golden["cases"]))
    assert len(cases) >= 40
    for i, case in enumerate(cases):
        width, height = case["size"]
        picture = Image.fromarray(pattern(width, height, case["channels"]))
        prepared = prepare_image(picture, options(case["tile"], case["tiles"], case["ratios"]))
        assert prepared.aspect_ratio_id == golden["aspect_ratio_ids"][i], case
        assert prepared.num_tiles == golden["num_tiles"][i], case
        assert prepared.pixel_values.shape == (case["tiles"], 3, case["tile"], case["tile"])
        assert prepared.pixel_values.dtype == np.float32
        sampled = prepared.pixel_values.ravel()[golden["positions"][i]]
        if int(PIL.__version__.split(".")[0]) < 13 and height > 4 * case["tile"]:
            # Pillow 13 resizes tall pictures vertically first: a value may round to its neighbour, in transformers too.
            np.testing.assert_allclose(sampled, golden["values"][i], rtol=0, atol=1.01 / 255 / min(STD))
            continue
        np.testing.assert_allclose(sampled, golden["values"][i], rtol=0, atol=1e-6, err_msg=str(case))
        assert zlib.crc32(prepared.pixel_values.tobytes()) == golden["checksums"][i], case


def test_tiles_by_hand() -> None:
    """A picture of 2 x 3 whole tiles: no resizing, so that each tile is a slice, by NumPy alone."""
    tile = 8
    rgb = pattern(3 * tile, 2 * tile, 3)
    prepared = prepare_image(Image.fromarray(rgb), options(tile, 7, [(1, 1), (2, 3)]))
    assert (prepared.aspect_ratio_id, prepared.num_tiles) == (2, 6)
    normalized = (rgb / 255 - MEAN) / STD
    for index in range(6):
        row, column = divmod(index, 3)
        expected = normalized[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile].transpose(2, 0, 1)
        np.testing.assert_allclose(prepared.pixel_values[index], expected, rtol=0, atol=1e-6)
    assert not prepared.pixel_values[6].any()


def test_rescale_factor_that_was_kept_in_float32() -> None:
    """GGUF metadata may hold 1/255 as float32, which is another double; the values are those of 1/255 itself."""
    kept = float(np.float32(1 / 255))
    assert kept != 1 / 255
    table = normalized_values(ImagePreprocessing(32, 4, MEAN, STD, kept, RATIOS))
    rescaled = (np.arange(256) * (1 / 255)).astype(np.float32)[:, None]
    np.testing.assert_array_equal(table.T, (rescaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32))
    assert (rescaled[:, 0] != (np.arange(256) * kept).astype(np.float32)).any()


def test_padding_is_black_before_normalization() -> None:
    prepared = prepare_image(Image.new("RGB", (16, 8), "white"), options(16, 4))
    assert prepared.num_tiles == 1
    black = -np.array(MEAN) / np.array(STD)
    np.testing.assert_allclose(prepared.pixel_values[0, :, 15, 15], black, atol=1e-6)
    assert (prepared.pixel_values[1:] == 0.0).all()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (560, 560, (1, 1)),  # scale 1 is enough: not four tiles
        (560, 561, (1, 2)),
        (561, 560, (2, 1)),
        (561, 561, (2, 2)),
        (560, 1120, (1, 2)),
        (1, 4000, (1, 4)),
        (4000, 1, (4, 1)),
        (1, 1, (1, 1)),
        (3000, 3000, (2, 2)),
        (1120, 1680, (2, 2)),  # both reduce: 2x2 by 2/3, 1x3 by 1/2
    ],
)
def test_arrangement_of_tiles(height: int, width: int, expected: tuple[int, int]) -> None:
    assert best_arrangement(height, width, 560, RATIOS) == expected


@pytest.mark.parametrize(
    ("size", "canvas", "expected"),
    [
        ((1, 4000), (560, 2240), (1, 2240)),  # floor(0.56) is 0: at least one pixel
        ((100, 100), (560, 560), (560, 560)),
        ((300, 400), (560, 560), (420, 560)),
        ((1000, 500), (1120, 560), (1000, 500)),  # fits as it is: not resized
        ((600, 700), (1120, 1120), (600, 700)),
    ],
)
def test_fitted_size(size: tuple[int, int], canvas: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_size(*size, *canvas, 560) == expected


def test_loaded_image_names_its_file(tmp_path: Path) -> None:
    data = written(Image.fromarray(pattern(20, 10, 3)), "PNG")
    path = tmp_path / "a b ü.png"
    path.write_bytes(data)
    for source in (str(path), path):
        loaded = load_image(source)
        assert (loaded.source, loaded.width, loaded.height) == (str(path), 20, 10)
        assert loaded.sha256 == hashlib.sha256(data).hexdigest()
        assert loaded.image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(loaded.image), pattern(20, 10, 3))
    assert load_image(data).source == "<bytes>"
    assert load_image(data, name="frame 7").source == "frame 7"
    prepared = prepare_image(loaded, options())
    assert (prepared.source, prepared.sha256) == (loaded.source, loaded.sha256)
    assert (prepared.width, prepared.height) == (20, 10)


def test_pillow_image_is_hashed_by_its_pixels() -> None:
    first = load_image(Image.fromarray(pattern(20, 10, 3)))
    assert first.source == "<image>"
    assert load_image(Image.fromarray(pattern(20, 10, 3))).sha256 == first.sha256
    assert load_image(Image.fromarray(pattern(20, 10, 3).reshape(20, 10, 3))).sha256 != first.sha256
    assert load_image(Image.fromarray(pattern(20, 10, 3)[::-1].copy())).sha256 != first.sha256


def test_pixel_limit_is_exact_and_restored() -> None:
    data = written(Image.new("L", (100, 50)), "PNG")
    limits_before = Image.MAX_IMAGE_PIXELS
    assert load_image(data, limits=ImageLimits(max_pixels=5000)).width == 100
    for source in (data, Image.new("RGB", (100, 50))):
        with pytest.raises(ImageError, match="100x50 pixels, more than the limit of 4,999"):
            load_image(source, limits=ImageLimits(max_pixels=4999))
    assert limits_before == Image.MAX_IMAGE_PIXELS


def test_threads_load_at_once() -> None:
    data = [written(Image.fromarray(pattern(200 + i, 100, 3)), "PNG") for i in range(8)]
    seen: dict[int, bool] = {}

    def load(i: int) -> None:
        seen[i] = bool((np.asarray(load_image(data[i]).image) == pattern(200 + i, 100, 3)).all())

    threads = [threading.Thread(target=load, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == dict.fromkeys(range(8), True)


def test_import_is_light() -> None:
    code = "import sys, cotcli.image; print([m for m in ('PIL', 'numpy', 'urllib.request', 'ssl') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
