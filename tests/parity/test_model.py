"""The whole model against transformers at F32: vision states, logits, greedy text, several sequences in one batch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer

import cotcli
from benchmarks import tower
from convert import convert
from cotcli.engine import Engine, EngineOptions
from tests.parity import reference_models as reference
from tests.parity.conftest import largest_errors

TOLERANCE = 1e-5
UBATCH = 64  # prompts of up to 600 tokens are split ten times


@dataclasses.dataclass
class Pair:
    model: Any
    processor: Any
    folder: Path
    engine: Engine


@pytest.fixture(scope="module", params=reference.SHAPES, ids=lambda shape: shape.name)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp(request.param.name)
    model = reference.make_model(request.param)
    processor = reference.save(model, folder / "checkpoint")
    converted = convert(folder / "checkpoint", folder, "f32", name="reference")
    options = EngineOptions(threads=1, ubatch=UBATCH, context_length=2048, max_sequences=4)
    with Engine(converted.language, converted.mmproj, options) as engine:
        yield Pair(model, processor, folder, engine)


def check(what: str, ours: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> None:
    error = reference.relative_error(ours, expected)
    largest_errors[what] = max(error, largest_errors.get(what, 0.0))
    assert error <= TOLERANCE


def our_logits(engine: Engine, tokens: list[int], picture: reference.Picture | None) -> np.ndarray[Any, Any]:
    image = engine.load_image(engine.encode(picture), picture.num_tiles) if picture else None  # type: ignore[arg-type]
    sequence = engine.sequence(image)
    rows = [row.copy() for row in engine.each_logits(sequence, tokens)]
    engine.drop(sequence)
    if image is not None:
        engine.release_image(image)
    return np.stack(rows)


@pytest.mark.parametrize("aspect_ratio_id", range(1, 9))
def test_states_and_logits_of_every_aspect_ratio(pair: Pair, aspect_ratio_id: int) -> None:
    picture = reference.random_picture(pair.model, aspect_ratio_id, seed=aspect_ratio_id)
    states = pair.engine.encode(picture)  # type: ignore[arg-type]
    check("vision states", states, reference.reference_states(pair.model, picture))
    tokens = reference.random_tokens(90, image_at=5, seed=aspect_ratio_id)
    expected = reference.reference_logits(pair.model, tokens, picture)
    check("logits", our_logits(pair.engine, tokens, picture), expected)


def test_work_of_the_tower_as_torch_counts_it(pair: Pair) -> None:
    """Its counter does not know the fused attention of a CPU, hence the plain one."""
    picture = reference.random_picture(pair.model, 6, seed=0)
    vision = pair.model.model.vision_model
    fused = vision.config._attn_implementation
    vision.set_attn_implementation("eager")
    try:
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            vision(**picture.inputs())
    finally:
        vision.set_attn_implementation(fused)
    hparams = pair.engine.hparams.vision
    mask = 2 * (hparams.max_num_tiles * hparams.num_padded_patches) ** 2  # itself made as a product
    assert tower.flops(pair.engine.hparams) == counter.get_total_flops() - mask


@pytest.mark.parametrize(("length", "image_at"), [(2, 0), (2, 1), (63, 1), (64, 0), (65, 64), (130, 70), (600, 3)])
def test_prompts_of_every_length(pair: Pair, length: int, image_at: int) -> None:
    picture = reference.random_picture(pair.model, 1 + length % 8, seed=length)
    tokens = reference.random_tokens(length, image_at, seed=length)
    expected = reference.reference_logits(pair.model, tokens, picture)
    check("logits", our_logits(pair.engine, tokens, picture), expected)


@pytest.mark.parametrize("length", [1, 64, 600])
def test_text_only(pair: Pair, length: int) -> None:
    tokens = reference.random_tokens(length, None, seed=length)
    expected = reference.reference_logits(pair.model, tokens, None)
    check("logits, text only", our_logits(pair.engine, tokens, None), expected)


def test_two_images_and_a_text_in_one_batch(pair: Pair) -> None:
    """Each sequence gets what it gets alone, through prompts, single steps and a fork."""
    engine = pair.engine
    pictures = [reference.random_picture(pair.model, ratio, seed=ratio) for ratio in (3, 6)]
    prompts = [
        reference.random_tokens(25, image_at=4, seed=1),
        reference.random_tokens(40, image_at=0, seed=2),
        reference.random_tokens(30, None, seed=3),
    ]
    steps = [reference.random_tokens(6, None, seed=10 + i) for i in range(4)]
    images = [engine.load_image(engine.encode(p), p.num_tiles) for p in pictures]  # type: ignore[arg-type]
    sequences = [engine.sequence(image) for image in (*images, None)]
    for image in images:
        engine.release_image(image)
    engine.extend(list(zip(sequences, prompts, strict=True)))
    sequences.append(engine.fork(sequences[0]))
    prompts.append(prompts[0])
    ours: list[list[np.ndarray[Any, Any]]] = [[], [], [], []]
    for column in zip(*steps, strict=True):
        engine.extend([(sequence, [token]) for sequence, token in zip(sequences, column, strict=True)])
        for rows, sequence in zip(ours, sequences, strict=True):
            rows.append(engine.logits(sequence).copy())
    for sequence in sequences:
        engine.drop(sequence)
    for i, picture in enumerate((*pictures, None, pictures[0])):
        expected = reference.reference_logits(pair.model, prompts[i] + steps[i], picture)[-6:]
        check("logits, four sequences in a batch", np.stack(ours[i]), expected)


@pytest.mark.parametrize("size", [(20, 20), (300, 70), (90, 400)])
def test_greedy_text_over_64_tokens(pair: Pair, size: tuple[int, int]) -> None:
    """From picture and question to text, through both preprocessors and both tokenizers."""
    picture = Image.fromarray(np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), np.uint8))
    question = "How many red circles are there? <|eot_id|> 1+1"
    with cotcli.load(str(pair.folder / "reference-F32.gguf"), threads=1) as model:
        answer = model.ask(picture, question, temperature=0.0, max_tokens=64)

    tokenizer = AutoTokenizer.from_pretrained(pair.folder / "checkpoint")
    head = tokenizer.encode(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>", add_special_tokens=False
    )
    body = tokenizer.encode(question, add_special_tokens=False, split_special_tokens=True)
    tail = tokenizer.encode("<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", add_special_tokens=False)
    tokens = head + body + tail
    features = pair.processor([[picture]], return_tensors="pt")
    mask = torch.zeros(1, len(tokens), 1, 4, dtype=torch.long)
    mask[:, tokens.index(reference.IMAGE_TOKEN) :, :, : int(features["num_tiles"][0][0])] = 1
    with torch.no_grad():
        generated = pair.model.generate(
            input_ids=torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
            pixel_values=features["pixel_values"],
            aspect_ratio_ids=features["aspect_ratio_ids"],
            aspect_ratio_mask=features["aspect_ratio_mask"],
            cross_attention_mask=mask,
            max_new_tokens=64,
            do_sample=False,
        )
    new = generated[0, len(tokens) :].tolist()
    assert len(new) == answer.usage.completion_tokens == 64
    assert answer.usage.prompt_tokens == len(tokens)
    assert answer.raw == tokenizer.decode(new, clean_up_tokenization_spaces=False)


def test_intermediate_states_as_the_public_checkpoints_were_trained(tmp_path: Path) -> None:
    """Meta's code and transformers before 4.55 stack the inputs of the listed layers, transformers now their outputs.

    The input of layer i is the output of layer i - 1, so today's transformers computes the old meaning of (1, 2, 4)
    when told (0, 1, 3).
    """
    shape = reference.SHAPES[1]
    model = reference.make_model(dataclasses.replace(shape, intermediate=(0, 1, 3)))
    reference.save(model, tmp_path / "checkpoint")
    config_file = tmp_path / "checkpoint" / "config.json"
    config = json.loads(config_file.read_text())
    config["vision_config"]["intermediate_layers_indices"] = [1, 2, 4]
    config["transformers_version"] = "4.45.0"
    config_file.write_text(json.dumps(config))
    converted = convert(tmp_path / "checkpoint", tmp_path, "f32", name="old")
    picture = reference.random_picture(model, 2, seed=0)
    with Engine(converted.language, converted.mmproj, EngineOptions(threads=1)) as engine:
        states = engine.encode(picture)  # type: ignore[arg-type]
    check("vision states", states, reference.reference_states(model, picture))
