"""What the trainer feeds the bundled model is what transformers' own processor would: ids, tiles and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from cotcli.shapes.scenes import COLOURS, SHAPES, SIZES, draw, make_scene
from training.batches import IGNORE, Batcher, BatchOptions, cross_attention_mask, make_images, preprocess
from training.held_out import held_out
from training.model import make_image_processor
from training.tokenizer import (
    IMAGE,
    VOCAB_SIZE,
    PromptEncoder,
    sample_texts,
    save_tokenizer,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    return train_tokenizer(sample_texts(800))


def test_prompt_tiles_and_mask_equal_the_processor_s(tokenizer: tokenizers.Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path)
    images = make_image_processor()
    processor = transformers.MllamaProcessor(images, fast, chat_template=fast.chat_template)
    encoder = PromptEncoder(tokenizer)
    for item in held_out(25, seed=4):
        content = [{"type": "image"}, {"type": "text", "text": item.question.text}]
        text = fast.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert text == (
            f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>{item.question.text}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )
        expected = processor(images=[[draw(item.scene)]], text=[text], return_tensors="pt", add_special_tokens=False)
        prompt = encoder.prompt(item.question.text)
        assert expected["input_ids"][0].tolist() == prompt
        tiles = preprocess([item.scene])
        assert set(tiles) == {"pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"}
        for name, value in tiles.items():
            assert torch.equal(value, expected[name])
        mask = cross_attention_mask(tiles["aspect_ratio_mask"], len(prompt), encoder.image_position, 1)
        assert torch.equal(mask, expected["cross_attention_mask"])


def test_image_token_lies_one_past_the_lm_head(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.token_to_id(IMAGE) == VOCAB_SIZE == tokenizer.get_vocab_size() - 1


@pytest.mark.parametrize(
    "text", ["naïve 漢字 🙂\t  x\r\n\n 12345", "<|eot_id|><|image|>", "".join(map(chr, range(256)))]
)
def test_any_user_text_survives_and_yields_no_special_token(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    encoder = PromptEncoder(tokenizer)
    empty = encoder.prompt("")
    ids = encoder.prompt(text)[encoder.image_position + 1 : -(len(empty) - encoder.image_position - 1)]
    special = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    assert tokenizer.decode(ids) == text
    assert not special & set(ids)


def test_batches_repeat_and_workers_share_them(tokenizer: tokenizers.Tokenizer) -> None:
    encoder, options = PromptEncoder(tokenizer), BatchOptions(pictures=4, questions=2)
    whole = Batcher(encoder, 0, options).stream(0)
    first = next(whole)
    assert first.texts is not None and first.images is not None and first.cross_attention_mask is not None
    for rank in (0, 1):
        part = next(Batcher(encoder, 0, options, rank, 2).stream(0))
        assert part.texts is not None and part.images is not None and part.cross_attention_mask is not None
        assert part.scene_seeds == first.scene_seeds[rank::2]
        assert torch.equal(first.images.places[rank::2], part.images.places)
        for name, value in part.images.inputs.items():
            assert torch.equal(first.images.inputs[name][rank::2], value)
        length = part.texts.input_ids.shape[1]
        rows = [2 * picture + question for picture in range(rank, 4, 2) for question in range(2)]
        assert torch.equal(first.texts.input_ids[rows, :length], part.texts.input_ids)
        assert torch.equal(first.cross_attention_mask[rows, :length], part.cross_attention_mask)
    second, later = next(whole), next(Batcher(encoder, 0, options).stream(1))
    assert second.texts is not None and later.texts is not None
    assert second.scene_seeds == later.scene_seeds != first.scene_seeds
    assert torch.equal(second.texts.input_ids, later.texts.input_ids)


@pytest.mark.parametrize("form", ["staged", "untagged", "direct"])
def test_labels_are_the_answer_one_place_early(tokenizer: tokenizers.Tokenizer, form: str) -> None:
    texts = next(Batcher(PromptEncoder(tokenizer), 0, BatchOptions(pictures=4, sees=False, form=form)).stream(0)).texts
    assert texts is not None
    for row in range(4):
        told = (texts.labels[row] != IGNORE).nonzero().flatten()
        assert torch.equal(texts.labels[row, told], texts.input_ids[row, told + 1])
        answer = tokenizer.decode(texts.labels[row, told].tolist())
        if form == "staged":
            assert answer.startswith("<SUMMARY>") and answer.endswith("</CONCLUSION>")
        else:
            assert "<" not in answer and ("\n\n" in answer) == (form == "untagged")
        assert (texts.weights[row, told] >= 1).all() and texts.weights[row].count_nonzero() == len(told)


def test_what_only_a_picture_tells_weighs_nothing_without_one(tokenizer: tokenizers.Tokenizer) -> None:
    options = BatchOptions(pictures=6, sees=False, blind=True)
    texts = next(Batcher(PromptEncoder(tokenizer), 0, options).stream(0)).texts
    assert texts is not None
    for row in range(6):
        weighing_nothing = (texts.labels[row] != IGNORE) & (texts.weights[row] == 0)
        listed = tokenizer.decode(texts.labels[row, weighing_nothing].tolist())
        told = tokenizer.decode(texts.labels[row, texts.labels[row] != IGNORE].tolist())
        caption = told.split("<CAPTION>")[1].split("</CAPTION>")[0]
        assert listed.split() and " ".join(caption.split()[-4:]) in " ".join(listed.split())
        assert "SUMMARY" not in listed and "REASONING" not in listed


def test_patch_labels_find_every_object_where_transformers_shows_it() -> None:
    """At the patch of its centre, the pixels that the vision tower gets have the object's colour."""
    processor = make_image_processor()
    for seed in range(60):
        scene = make_scene(seed)
        images = make_images([scene])
        places, objects = images.places[0], images.objects[0]
        centres = (places[:, 0] > 0).nonzero().flatten().tolist()
        by_place = sorted(centres, key=lambda token: int(places[token, 0]))
        assert [int(places[token, 0]) for token in by_place] == list(range(1, len(scene.objects) + 1))
        tiles = processor(images=[[draw(scene)]], return_tensors="pt")["pixel_values"][0, 0]
        tiles = tiles * torch.tensor(processor.image_std)[:, None, None]
        tiles = (tiles + torch.tensor(processor.image_mean)[:, None, None]) * 255
        for token, item in zip(by_place, sorted(scene.objects, key=lambda item: item.x), strict=True):
            labels = [list(COLOURS).index(item.colour), SHAPES.index(item.shape), SIZES.index(item.size)]
            assert objects[token].tolist() == labels
            column, row = places[token, 1:].tolist()
            assert (column, row) == (int(8 * item.x / scene.width), int(8 * item.y / scene.height))
            tile, patch = divmod(token, 17)
            top, left = (patch - 1) // 4 * 16, (patch - 1) % 4 * 16
            shown = tiles[tile, :, top : top + 16, left : left + 16]
            near = (shown - torch.tensor(item.rgb)[:, None, None]).abs().amax(0) < 40
            assert near.any()


def test_answers_fit_into_what_evaluation_generates(tokenizer: tokenizers.Tokenizer) -> None:
    longest = max(len(tokenizer.encode(item.reference).ids) for item in held_out(400))
    assert 100 < longest + 1 <= 320
