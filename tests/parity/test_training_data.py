"""What the trainer feeds the bundled model is what transformers' own processor would: ids, tiles and masks."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
import transformers

from training.batches import Batcher, cross_attention_mask, preprocess
from training.held_out import held_out
from training.model import make_image_processor
from cotcli.shapes.scenes import draw
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
        tiles = preprocess(images, [item.scene])
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
    encoder, images = PromptEncoder(tokenizer), make_image_processor()
    whole = Batcher(images, encoder, 0, 4, 1).stream(0)
    halves = [Batcher(images, encoder, 0, 4, 1, rank, 2).stream(0) for rank in (0, 1)]
    first, parts = next(whole), [next(half) for half in halves]
    for rank in (0, 1):
        assert torch.equal(first.patch_labels[rank::2], parts[rank].patch_labels)
        length = parts[rank].input_ids.shape[1]
        assert torch.equal(first.input_ids[rank::2, :length], parts[rank].input_ids)
    later = Batcher(images, encoder, 0, 4, 1).stream(1)
    assert torch.equal(next(whole).input_ids, next(later).input_ids)


def test_labels_are_the_answer_one_place_early(tokenizer: tokenizers.Tokenizer) -> None:
    batch = next(Batcher(make_image_processor(), PromptEncoder(tokenizer), 0, 4, 1).stream(0))
    for row in range(4):
        told = (batch.labels[row] >= 0).nonzero().flatten()
        assert torch.equal(batch.labels[row, told], batch.input_ids[row, told + 1])
        answer = tokenizer.decode(batch.labels[row, told].tolist())
        assert answer.startswith("<SUMMARY>") and answer.endswith("</CONCLUSION>")
        assert (batch.weights[row, told] >= 1).all() and (batch.weights[row].count_nonzero() == len(told)).all()
