"""transformers' part of `benchmarks.beside`: the phases of one greedy answer, in a process of its own.

What `generate` does with a picture and a prompt, taken apart: the vision model and the projector, a pass over the
prompt with their states, and passes of one token each with the cache. Attention and threads are as they come.
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, MllamaForConditionalGeneration
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from benchmarks.beside import note, parse_arguments

_HEAD = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
_TAIL = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"


def write(model: Any, logits: Any, cache: Any, count: int, **constant: Any) -> tuple[list[int], float]:
    """Appends so many of the likeliest tokens; their ids, and the seconds of one in the mean."""
    ids = []
    begin = time.perf_counter()
    for _ in range(count):
        ids.append(int(logits[0, -1].argmax()))
        out = model(input_ids=torch.tensor([ids[-1:]]), past_key_values=cache, use_cache=True, **constant)
        logits, cache = out.logits, out.past_key_values
    return ids, (time.perf_counter() - begin) / count


def main() -> None:
    """The command line."""
    given = parse_arguments(__doc__, "checkpoint", "dtype")
    dtype = getattr(torch, given.dtype)
    with torch.inference_mode():
        begin = time.perf_counter()
        model = MllamaForConditionalGeneration.from_pretrained(given.checkpoint, dtype=dtype).eval()
        tokenizer = AutoTokenizer.from_pretrained(given.checkpoint)
        processor = MllamaImageProcessorPil.from_pretrained(given.checkpoint)
        about = f"{transformers.__version__}, torch {torch.__version__}"
        note(given.record, version=about, load=time.perf_counter() - begin)

        question = tokenizer(_HEAD + given.question + _TAIL, add_special_tokens=False).input_ids
        out = model(input_ids=torch.tensor([question]), use_cache=True, logits_to_keep=1)
        seconds = write(model, out.logits, out.past_key_values, given.tokens)[1]
        note(given.record, **{"a token, no picture": seconds})

        begin = time.perf_counter()
        features = processor([[Image.open(given.picture).convert("RGB")]], return_tensors="pt")
        seen = model.model.vision_model(
            pixel_values=features["pixel_values"].to(dtype),
            aspect_ratio_ids=features["aspect_ratio_ids"],
            aspect_ratio_mask=features["aspect_ratio_mask"],
        ).last_hidden_state
        states = model.model.multi_modal_projector(seen)
        states = states.reshape(-1, states.shape[-2], states.shape[-1])
        note(given.record, picture=time.perf_counter() - begin)

        begin = time.perf_counter()
        prompt = tokenizer(_HEAD + "<|image|>" + given.question + _TAIL, add_special_tokens=False).input_ids
        mask = torch.zeros(1, len(prompt), 1, model.config.vision_config.max_num_tiles, dtype=torch.long)
        mask[:, prompt.index(model.config.image_token_index) :, :, : int(features["num_tiles"][0][0])] = 1
        out = model(
            input_ids=torch.tensor([prompt]),
            cross_attention_states=states,
            cross_attention_mask=mask,
            use_cache=True,
            logits_to_keep=1,
        )
        note(given.record, prompt=time.perf_counter() - begin, prompt_tokens=len(prompt))

        ids, seconds = write(model, out.logits, out.past_key_values, given.tokens, cross_attention_mask=mask[:, -1:])
        note(given.record, **{"a token": seconds}, ids=[*prompt, *ids])


if __name__ == "__main__":
    main()
