"""Step 6: seeds -> tensors.

Knows how scenes become pixel tiles, token ids and per-patch labels. Knows nothing about optimisers.
Several questions share one picture, so that the vision tower runs once for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cotcli.image.decode import LoadedImage
from cotcli.image.prepare import best_arrangement, fitted_size, prepare_image
from cotcli.shapes.answers import make_stages
from cotcli.shapes.questions import Question, make_questions
from cotcli.shapes.scenes import COLOURS, SHAPES, SIZES, TRAIN_SEED_BITS, Scene, draw, make_scene
from training.model import ASPECT_RATIOS, MAX_NUM_TILES, PATCH_SIZE, PATCHES_PER_SIDE, PREPROCESSING, TILE_SIZE
from training.tell import tell
from training.tokenizer import PromptEncoder

IGNORE = -100
_COVERED = 0.25  # share of a patch that an object's box must cover for the patch to be labelled with it


@dataclass(frozen=True)
class Images:
    """Pictures and what is to be seen in them.

    `inputs`: keyword arguments of the vision tower, one row a picture.
    `places`: int64, shape = (pictures, tokens, 3): place from the left, column and row on the grid of the object
    whose centre lies in the patch; place 0 says that none does.
    `objects`: int64, shape = (pictures, tokens, 3): colour, shape and size of the object that covers the patch, IGNORE
    where none does.
    """

    inputs: dict[str, torch.Tensor]
    places: torch.Tensor
    objects: torch.Tensor


@dataclass(frozen=True)
class Texts:
    """Questions and answers; a row is one question, and a picture's questions are neighbours.

    `input_ids`, `labels`: int64, shape = (rows, length); a label stands at the position that predicts it.
    `weights`: float32, shape = (rows, length): how much each label counts.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class Batch:
    """What one step needs; the parts that it does not need are None.

    `cross_attention_mask`: int64, shape = (rows, length, 1, tiles).
    """

    images: Images | None
    texts: Texts | None
    cross_attention_mask: torch.Tensor | None
    questions_per_image: int
    scene_seeds: tuple[int, ...]

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        images, texts, mask = self.images, self.texts, self.cross_attention_mask
        if images is not None:
            inputs = {name: value.to(device) for name, value in images.inputs.items()}
            images = Images(inputs, images.places.to(device), images.objects.to(device))
        if texts is not None:
            texts = Texts(texts.input_ids.to(device), texts.labels.to(device), texts.weights.to(device))
        return replace(self, images=images, texts=texts, cross_attention_mask=None if mask is None else mask.to(device))


@dataclass(frozen=True)
class BatchOptions:
    """`pictures` a step over all workers, with `questions` each; `sees`: with pictures, `tells`: with texts.

    `form` is one of tell.FORMS; `blind` is tell's. `scenes`: how many different ones there are, None for no end.
    """

    pictures: int
    questions: int = 1
    sees: bool = True
    tells: bool = True
    form: str = "staged"
    blind: bool = False
    scenes: int | None = None


class Batcher:
    """An endless, seeded stream of batches; worker `rank` of `workers` makes its share of each."""

    def __init__(
        self, encoder: PromptEncoder, seed: int | str, options: BatchOptions, rank: int = 0, workers: int = 1
    ) -> None:
        self._encoder, self._seed, self._options = encoder, seed, options
        self._rank, self._workers = rank, workers

    def stream(self, first: int, pool: int = 6) -> Iterator[Batch]:
        """Batches from number `first` on. `pool` batches are drawn at once and sorted by objects, to save padding."""
        options = self._options
        block, skip = divmod(first, pool)
        while True:
            rng = random.Random(f"batches {self._seed} {block}")
            seeds = [rng.getrandbits(TRAIN_SEED_BITS) for _ in range(pool * options.pictures)]
            if options.scenes is not None:
                seeds = [seed % options.scenes for seed in seeds]
            scenes = [make_scene(seed) for seed in seeds]
            scenes.sort(key=lambda scene: len(scene.objects))
            groups = [scenes[i : i + options.pictures] for i in range(0, len(scenes), options.pictures)]
            rng.shuffle(groups)
            wordings = [rng.getrandbits(40) for _ in groups]
            for group, seed in list(zip(groups, wordings, strict=True))[skip:]:
                yield self.make(group[self._rank :: self._workers], seed)
            block, skip = block + 1, 0

    def make(self, scenes: Sequence[Scene], seed: int) -> Batch:
        """The batch of these scenes; `seed` chooses questions and wordings."""
        options = self._options
        images = make_images(scenes) if options.sees else None
        texts = self._texts(scenes, seed) if options.tells else None
        mask = None
        if images is not None and texts is not None:
            length = texts.input_ids.shape[1]
            tiles = images.inputs["aspect_ratio_mask"]
            mask = cross_attention_mask(tiles, length, self._encoder.image_position, options.questions)
        return Batch(images, texts, mask, options.questions, tuple(scene.seed for scene in scenes))

    def _texts(self, scenes: Sequence[Scene], seed: int) -> Texts:
        options = self._options
        rows = [
            self._row(scene, question, random.Random(f"answers {seed} {scene.seed} {question.text}"))
            for scene in scenes
            for question in make_questions(scene, options.questions, seed)
        ]
        length = max(len(prompt) + len(answer) for prompt, answer, _ in rows)
        input_ids = np.full((len(rows), length), self._encoder.pad_id, np.int64)
        labels = np.full((len(rows), length), IGNORE, np.int64)
        weights = np.zeros(labels.shape, np.float32)
        for row, (prompt, answer, counts) in enumerate(rows):
            end = len(prompt) + len(answer)
            input_ids[row, :end] = prompt + answer
            labels[row, len(prompt) - 1 : end - 1] = answer  # shifted here: position t predicts t + 1
            weights[row, len(prompt) - 1 : end - 1] = counts
        return Texts(torch.from_numpy(input_ids), torch.from_numpy(labels), torch.from_numpy(weights))

    def _row(self, scene: Scene, question: Question, rng: random.Random) -> tuple[list[int], list[int], list[float]]:
        told = tell(make_stages(scene.seen, question, rng), self._options.form, self._options.blind)
        return self._encoder.prompt(question.text), *self._encoder.answer(told)


def preprocess(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the vision tower for the scenes' pictures: pixel_values, float32, shape = (pictures, 1,
    tiles, 3, side, side); aspect_ratio_ids, int64, (pictures, 1); aspect_ratio_mask, int64, (pictures, 1, tiles).

    By cotcli's own preprocessing, which equals transformers' bit for bit and is faster.
    """
    prepared = [
        prepare_image(LoadedImage(draw(scene), "", "", scene.width, scene.height), PREPROCESSING) for scene in scenes
    ]
    mask = [[[int(tile < image.num_tiles) for tile in range(MAX_NUM_TILES)]] for image in prepared]
    return {
        "pixel_values": torch.from_numpy(np.stack([image.pixel_values for image in prepared])[:, None]),
        "aspect_ratio_ids": torch.tensor([[image.aspect_ratio_id] for image in prepared]),
        "aspect_ratio_mask": torch.tensor(mask),
    }


def make_images(scenes: Sequence[Scene]) -> Images:
    """The scenes' pictures with their labels."""
    labels = [patch_labels(scene) for scene in scenes]
    places, objects = (torch.from_numpy(np.stack(part)) for part in zip(*labels, strict=True))
    return Images(preprocess(scenes), places, objects)


def cross_attention_mask(
    aspect_ratio_mask: torch.Tensor, length: int, image_position: int, repeats: int
) -> torch.Tensor:
    """Tokens from the image token on see the real tiles, those before it none; shape = (rows, length, 1, tiles)."""
    tiles = aspect_ratio_mask.reshape(-1, 1, 1, MAX_NUM_TILES).repeat_interleave(repeats, 0)
    seen = (torch.arange(length) >= image_position).to(tiles.dtype)
    return tiles * seen[None, :, None, None]


def object_patches(scene: Scene) -> list[tuple[int, list[int]]]:
    """For each object from left to right: the token of the patch with its centre, and of all it covers.

    Tokens count through the tiles, each with its class token first.
    """
    rows, columns = best_arrangement(scene.height, scene.width, TILE_SIZE, ASPECT_RATIOS)
    height, width = fitted_size(scene.height, scene.width, rows * TILE_SIZE, columns * TILE_SIZE, TILE_SIZE)
    across, down = width / scene.width / PATCH_SIZE, height / scene.height / PATCH_SIZE

    def token(row: int, column: int) -> int:
        tile = row // PATCHES_PER_SIDE * columns + column // PATCHES_PER_SIDE
        patch = row % PATCHES_PER_SIDE * PATCHES_PER_SIDE + column % PATCHES_PER_SIDE
        return tile * (PATCHES_PER_SIDE**2 + 1) + patch + 1

    found: list[tuple[int, list[int]]] = []
    for item in scene.left_to_right:
        centre = token(int(item.y * down), int(item.x * across))
        covered = {centre: 1.0}
        spans = [
            _overlaps((at - item.radius) * scale, (at + item.radius) * scale, side * PATCHES_PER_SIDE)
            for at, scale, side in ((item.y, down, rows), (item.x, across, columns))
        ]
        for row, tall in spans[0]:
            for column, wide in spans[1]:
                if tall * wide >= _COVERED:
                    covered[token(row, column)] = tall * wide
        found.append((centre, list(covered)))
    return found


def _overlaps(start: float, end: float, number: int) -> list[tuple[int, float]]:
    """(patch, covered share) along one axis, all in patches."""
    first, last = max(0, int(start)), min(number - 1, int(end))
    return [(patch, min(end, patch + 1) - max(start, patch)) for patch in range(first, last + 1)]


def patch_labels(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """int64, two of shape = (tiles * (patches + 1), 3); see Images. Class tokens and unused tiles count as empty."""
    tokens = MAX_NUM_TILES * (PATCHES_PER_SIDE**2 + 1)
    places, objects = np.zeros((tokens, 3), np.int64), np.full((tokens, 3), IGNORE, np.int64)
    centres: list[tuple[int, list[int]]] = []
    for place, (item, (centre, covered)) in enumerate(zip(scene.left_to_right, object_patches(scene), strict=True), 1):
        labels = [list(COLOURS).index(item.colour), SHAPES.index(item.shape), SIZES.index(item.size)]
        objects[covered] = labels
        centres.append((centre, labels))
        places[centre] = (place, *scene.cell(item))
    for centre, labels in centres:  # last, lest a neighbour's edge has overwritten it
        objects[centre] = labels
    return places, objects
