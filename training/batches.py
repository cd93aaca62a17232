"""Step 5: seeds -> tensors.

Knows how scenes become pixel tiles, token ids and per-patch labels. Knows nothing about optimisers.
Several questions share one picture, so that the vision tower runs once for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from transformers.models.mllama.image_processing_pil_mllama import (
    MllamaImageProcessorPil,
    get_image_size_fit_to_canvas,
    get_optimal_tiled_canvas,
)

from cotcli.shapes.answers import make_answer
from training.model import MAX_NUM_TILES, PATCH_SIZE, PATCHES_PER_SIDE, TILE_SIZE
from cotcli.shapes.questions import make_questions
from cotcli.shapes.scenes import COLOURS, MAX_OBJECTS, SHAPES, SIZES, TRAIN_SEED_BITS, Scene, draw, make_scene
from training.tokenizer import PromptEncoder

IGNORE = -100


@dataclass(frozen=True)
class Batch:
    """What one step needs; a row is one question, and a picture's questions are neighbours.

    `images`: keyword arguments of the vision tower, one row a picture.
    `patch_labels`: int64, shape = (pictures, tokens, 4): place from the left, colour, shape and size of the object
    whose centre lies in the patch; place 0 says that none does.
    `input_ids`, `labels`: int64, shape = (rows, length); a label stands at the position that predicts it.
    `weights`: float32, shape = (rows, length): how much each label counts.
    `cross_attention_mask`: int64, shape = (rows, length, 1, tiles).
    """

    images: dict[str, torch.Tensor]
    patch_labels: torch.Tensor
    input_ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    cross_attention_mask: torch.Tensor
    questions_per_image: int


class Batcher:
    """An endless, seeded stream of batches; worker `rank` of `workers` makes its share of each."""

    def __init__(
        self,
        processor: MllamaImageProcessorPil,
        encoder: PromptEncoder,
        seed: int,
        pictures: int,
        questions: int,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        self._processor, self._encoder = processor, encoder
        self._seed, self._pictures, self._questions = seed, pictures, questions
        self._rank, self._workers = rank, workers

    def stream(self, first: int, max_objects: int = MAX_OBJECTS, pool: int = 6) -> Iterator[Batch]:
        """Batches from number `first` on. `pool` batches are drawn at once and sorted by objects, to save padding."""
        block = first // pool
        skip = first % pool
        while True:
            rng = random.Random(f"batches {self._seed} {block}")
            scenes = [make_scene(rng.getrandbits(TRAIN_SEED_BITS), max_objects) for _ in range(pool * self._pictures)]
            scenes.sort(key=lambda scene: len(scene.objects))
            groups = [scenes[i : i + self._pictures] for i in range(0, len(scenes), self._pictures)]
            rng.shuffle(groups)
            seeds = [rng.getrandbits(40) for _ in groups]
            for group, seed in list(zip(groups, seeds, strict=True))[skip:]:
                yield self.make(group[self._rank :: self._workers], seed)
            block, skip = block + 1, 0

    def make(self, scenes: list[Scene], seed: int) -> Batch:
        """The batch of these scenes; `seed` chooses questions and wordings."""
        images = preprocess(self._processor, scenes)
        pairs: list[tuple[list[int], list[int]]] = []
        for scene in scenes:
            rng = random.Random(f"answers {seed} {scene.seed}")
            for question in make_questions(scene, self._questions, seed):
                answer = make_answer(scene, question, rng)
                pairs.append((self._encoder.prompt(question.text), self._encoder.answer(answer)))
        length = max(len(prompt) + len(answer) for prompt, answer in pairs)
        input_ids = np.full((len(pairs), length), self._encoder.pad_id, np.int64)
        labels = np.full((len(pairs), length), IGNORE, np.int64)
        weights = np.zeros(labels.shape, np.float32)
        for row, (prompt, told) in enumerate(pairs):
            end = len(prompt) + len(told)
            input_ids[row, :end] = prompt + told
            labels[row, len(prompt) - 1 : end - 1] = told  # shifted here: position t predicts t + 1
            weights[row, len(prompt) - 1 : end - 1] = self._encoder.weights(told)
        return Batch(
            images,
            torch.from_numpy(np.stack([patch_labels(scene) for scene in scenes])),
            torch.from_numpy(input_ids),
            torch.from_numpy(labels),
            torch.from_numpy(weights),
            cross_attention_mask(images["aspect_ratio_mask"], length, self._encoder.image_position, self._questions),
            self._questions,
        )


def preprocess(processor: MllamaImageProcessorPil, scenes: list[Scene]) -> dict[str, torch.Tensor]:
    """Keyword arguments of the vision tower for the scenes' pictures."""
    features = processor([[draw(scene)] for scene in scenes], return_tensors="pt")
    return {name: features[name] for name in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}


def cross_attention_mask(
    aspect_ratio_mask: torch.Tensor, length: int, image_position: int, repeats: int
) -> torch.Tensor:
    """Tokens from the image token on see the real tiles, those before it none; shape = (rows, length, 1, tiles)."""
    tiles = aspect_ratio_mask.reshape(-1, 1, 1, MAX_NUM_TILES).repeat_interleave(repeats, 0)
    seen = (torch.arange(length) >= image_position).to(tiles.dtype)
    return tiles * seen[None, :, None, None]


def patch_labels(scene: Scene) -> np.ndarray:
    """int64, shape = (tiles * (patches + 1), 4); see Batch. Class tokens and unused tiles are labelled as empty."""
    labels = np.zeros((MAX_NUM_TILES, PATCHES_PER_SIDE**2 + 1, 4), np.int64)
    canvas_height, canvas_width = get_optimal_tiled_canvas(scene.height, scene.width, MAX_NUM_TILES, TILE_SIZE)
    height, width = get_image_size_fit_to_canvas(scene.height, scene.width, canvas_height, canvas_width, TILE_SIZE)
    columns = canvas_width // TILE_SIZE
    for place, item in enumerate(scene.left_to_right, 1):
        column = int(item.x * width / scene.width / PATCH_SIZE)
        row = int(item.y * height / scene.height / PATCH_SIZE)
        tile = row // PATCHES_PER_SIDE * columns + column // PATCHES_PER_SIDE
        patch = row % PATCHES_PER_SIDE * PATCHES_PER_SIDE + column % PATCHES_PER_SIDE
        labels[tile, patch + 1] = (
            place,
            list(COLOURS).index(item.colour),
            SHAPES.index(item.shape),
            SIZES.index(item.size),
        )
    return labels.reshape(-1, 4)
