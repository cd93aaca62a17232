"""Where a model looks while it names an object: against transformers' own attention, and against chance."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, MllamaForConditionalGeneration, MllamaProcessor

from cotcli.shapes.answers import join_stages, make_stages
from cotcli.shapes.scenes import draw
from training.attention import WORDS, looks
from training.batches import object_patches
from training.held_out import held_out
from training.model import make_image_processor
from training.tokenizer import sample_texts, train_tokenizer
from training.train import Learner, Options


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(sample_texts(300)).to_str(pretty=True), encoding="utf-8")
    return Learner(tmp_path, Options())


def token_of(tokenizer: Tokenizer, ids: list[int], text: str, begin: int) -> int:
    """The token in which this character comes: the first with which the text up to there is whole."""
    whole = (len(tokenizer.decode(ids[: count + 1], skip_special_tokens=False)) for count in range(len(ids)))
    return next(index for index, length in enumerate(whole) if length > begin)


@torch.inference_mode()
def test_the_mass_is_that_of_transformers_attention(learner: Learner, tmp_path: Path) -> None:
    """Prompt, picture and mask come from transformers' processor here."""
    folder = tmp_path / "checkpoint"
    learner.save_checkpoint(folder)
    item = next(item for item in held_out(12) if len(item.scene.objects) == 4)
    text = join_stages(make_stages(item.scene.seen, item.question, random.Random(item.scene.seed)))
    fast = AutoTokenizer.from_pretrained(folder)
    processor = MllamaProcessor(make_image_processor(), fast)
    content = [{"type": "image"}, {"type": "text", "text": item.question.text}]
    prompt = fast.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(images=[[draw(item.scene)]], text=[prompt + text], add_special_tokens=False, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    first = len(fast(prompt, add_special_tokens=False)["input_ids"])
    model = MllamaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    told = model.model(**inputs, output_attentions=True, use_cache=False)
    layers = [told.attentions[layer][0] for layer in model.config.text_config.cross_attention_layers]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = defaultdict(list)
    lines = list(re.finditer(r"^\d+\. (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+)", text, re.MULTILINE))
    for line, (_, patches) in zip(lines, object_patches(item.scene), strict=True):
        for word in WORDS:
            at = first + token_of(tokenizer, ids[first:], text, line.start(word))
            for when, position in (("about to say", at - 1), ("saying", at)):
                masses = [float(head[position, patches].sum()) for layer in layers for head in layer]
                expected[when, word].append(sum(masses) / len(masses))
    found = looks(folder, [item])
    assert len({round(look.mass, 4) for look in found.values()}) > 1
    for key, masses in expected.items():
        assert found[key].mass == pytest.approx(sum(masses) / len(masses), rel=1e-4)
    assert set(found) == set(expected) and all(look.words == 4 for look in found.values())


def test_looking_everywhere_alike_is_chance(learner: Learner, tmp_path: Path) -> None:
    items = held_out(6)
    with torch.no_grad():
        for name, weight in learner.model.named_parameters():
            if "cross_attn.q_proj" in name:
                weight.zero_()
    learner.save_checkpoint(tmp_path / "uniform")
    found = looks(tmp_path / "uniform", items)
    assert len(found) == 2 * len(WORDS)
    assert all(look.ratio == pytest.approx(1, abs=1e-5) for look in found.values())
