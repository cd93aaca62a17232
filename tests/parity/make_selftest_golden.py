"""Writes cotcli/data/selftest.npz: what transformers computes with the bundled model's own weights.

usage: python -m tests.parity.make_selftest_golden

The weights are read back from the bundled GGUF pair and dequantized, so what `cotcli doctor` compares with this differs
by the arithmetic of a device alone. To be run again whenever the bundled model is replaced; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration

from benchmarks.small_checkpoints import _disk_name
from cotcli.image import prepare_image
from cotcli.image.prepare import best_arrangement
from cotcli.install import file_record
from cotcli.mllama.hparams import HParams
from cotcli.mllama.tensor_names import Role, TensorSpec, language_tensors, mmproj_tensors
from cotcli.native.llama import LlamaModel
from cotcli.prompt import build_prompt
from cotcli.registry import ResolvedModel, resolve
from cotcli.selftest import GOLDEN, KEPT_LOGITS, KEPT_STATES
from cotcli.shapes.questions import make_questions
from cotcli.shapes.scenes import draw, make_scene

Array = npt.NDArray[np.float32]

CANDIDATES = 24
"""Pictures to choose from: the one whose likeliest tokens stand out most, so that no rounding changes the answer."""
MAX_TOKENS = 120
MIN_TOKENS = 16
_LIST, _END = b"\n1.", b"</CAPTION>"
_FIRST_SEED = 2**51 + 2**40  # of no training, held-out or demo scene


@dataclass(frozen=True)
class Case:
    """One picture, its prompt and the answer; ``margin`` is the least lead of a likeliest token over the second.

    The prompt has the beginning of the answer too, up to the list in its caption: the model knows several wordings for
    that, each as likely as the next, but what it sees it says only in one way.
    """

    picture: npt.NDArray[np.uint8]
    prompt: list[int]
    answer: list[int]
    states: Array
    logits: Array
    margin: float


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Metadata and dequantized tensors of a GGUF file."""
    reader = gguf.GGUFReader(path)
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        tensors[tensor.name] = np.asarray(values, np.float32).reshape([int(n) for n in reversed(tensor.shape)])
    return {key: field.contents() for key, field in reader.fields.items()}, tensors


def load(model: ResolvedModel) -> tuple[MllamaForConditionalGeneration, HParams]:
    """The bundled pair as transformers' model."""
    language, language_values = read(model.language)
    mmproj, mmproj_values = read(model.mmproj)
    hparams = HParams.from_gguf(mmproj, str(model.mmproj))
    text, vision = hparams.text, hparams.vision
    if "rope_freqs.weight" in language_values or min(vision.intermediate_states) < 1:
        raise SystemExit("scaled rotary frequencies, or a first intermediate state, are not provided for here")
    config = MllamaConfig(
        vision_config={
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "attention_heads": vision.attention_heads,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_global_layers": vision.num_global_layers,
            # transformers 5 takes the outputs of these layers
            "intermediate_layers_indices": [state - 1 for state in vision.intermediate_states],
            "vision_output_dim": vision.vision_output_dim,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "norm_eps": vision.norm_eps,
            "supported_aspect_ratios": [list(ratio) for ratio in hparams.image.supported_aspect_ratios],
        },
        text_config={
            "vocab_size": text.vocab_size,
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "cross_attention_layers": list(text.cross_attention_layers),
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": float(language["llama.rope.freq_base"])},
            "max_position_embeddings": int(language["llama.context_length"]),
            "tie_word_embeddings": False,
            "bos_token_id": int(language["tokenizer.ggml.bos_token_id"]),
            "eos_token_id": int(language["tokenizer.ggml.eos_token_id"]),
            "pad_token_id": int(language["tokenizer.ggml.padding_token_id"]),
        },
        image_token_index=text.image_token_index,
    )
    tensors = {
        _disk_name(spec.hf_name, 2): torch.from_numpy(_as_in_checkpoint(spec, values[spec.gguf_name], hparams))
        for table, values in ((language_tensors(text), language_values), (mmproj_tensors(hparams), mmproj_values))
        for spec in table
        if spec.row is None
    }
    embedding = tensors["model.language_model.embed_tokens.weight"]
    embedding[text.image_token_index] = torch.tensor(mmproj_values["mm.image_token_embd.weight"])
    reference = MllamaForConditionalGeneration(config).eval().float()
    missing, unexpected = reference.load_state_dict(tensors, strict=False)
    if unexpected or any(not name.endswith("inv_freq") for name in missing):
        raise SystemExit(f"missing: {missing}; unexpected: {unexpected}")
    return reference, hparams


def _as_in_checkpoint(spec: TensorSpec, values: Array, hparams: HParams) -> Array:
    if spec.role in (Role.ROPE_Q, Role.ROPE_K):  # back from interleaved rotary pairs
        half = hparams.text.head_dim // 2
        values = values.reshape(-1, half, 2, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    if spec.role is Role.EMBEDDING:
        rows = np.zeros(spec.hf_shape, np.float32)
        rows[: len(values)] = values
        values = rows
    return np.array(values.reshape(spec.hf_shape), order="C")  # a copy: torch wants to be able to write


def cases(reference: MllamaForConditionalGeneration, hparams: HParams, tokenizer: LlamaModel) -> Iterator[Case]:
    """Pictures of several tiles and fewer than there could be, so that some are padding; none needs resizing."""
    tile = hparams.image.tile_size
    seed = _FIRST_SEED
    for _ in range(CANDIDATES):
        while True:
            seed += 1
            scene = make_scene(seed)
            layout = best_arrangement(scene.height, scene.width, tile, hparams.image.supported_aspect_ratios)
            if 1 < layout[0] * layout[1] < hparams.image.max_num_tiles:
                break
        image = draw(scene).resize((layout[1] * tile, layout[0] * tile))
        question = make_questions(scene, 1, seed)[0]
        prompt = build_prompt(tokenizer, question.text, hparams.text.image_token_index)
        case = answer(reference, hparams, tokenizer, np.asarray(image), prompt)
        print(f"seed {seed}: {layout[0]}x{layout[1]} tiles, {len(case.answer)} tokens, least lead {case.margin:.2f}")
        yield case


def answer(
    reference: MllamaForConditionalGeneration,
    hparams: HParams,
    tokenizer: LlamaModel,
    picture: npt.NDArray[np.uint8],
    prompt: list[int],
) -> Case:
    """Greedy decoding to the end of the caption."""
    from PIL import Image

    prepared = prepare_image(Image.fromarray(picture), hparams.image)
    count = prepared.num_tiles
    tiles = torch.zeros(1, 1, 4, dtype=torch.long)
    tiles[..., :count] = 1
    pixels = {
        "pixel_values": torch.from_numpy(prepared.pixel_values)[None, None],
        "aspect_ratio_ids": torch.tensor([[prepared.aspect_ratio_id]]),
        "aspect_ratio_mask": tiles,
    }
    with torch.no_grad():
        vision = reference.model.vision_model(**pixels).last_hidden_state
        states = reference.model.multi_modal_projector(vision).reshape(-1, hparams.text.hidden_size)
        tokens, text, given = list(prompt), b"", len(prompt)
        logits, cache = _logits(reference, tokens, 0, states, count, None)
        while len(tokens) < len(prompt) + MAX_TOKENS and _END not in text:
            tokens.append(int(logits[-1].argmax()))
            text += tokenizer.token_bytes(tokens[-1], special=True)
            if given == len(prompt) and _LIST in text:
                given = len(tokens)
            logits, cache = _logits(reference, tokens, len(tokens) - 1, states, count, cache)
        # All at once and without a cache: what is stored.
        logits, _ = _logits(reference, tokens, 0, states, count, None)
    rows, answered = logits[given - 1 : -1], tokens[given:]
    top = np.sort(rows, axis=-1)[:, -2:]
    # Rounding between the two ways must not matter either.
    is_list = given > len(prompt) and _END in text and rows.argmax(-1).tolist() == answered
    margin = float((top[:, 1] - top[:, 0]).min()) if is_list else 0.0
    return Case(picture, tokens[:given], answered, states.numpy(), rows, margin)


def _logits(
    reference: MllamaForConditionalGeneration,
    tokens: list[int],
    start: int,
    states: torch.Tensor,
    num_tiles: int,
    cache: Any,
) -> tuple[Array, Any]:
    """After each token from ``start`` on, the ones before being in the cache; and the cache with these."""
    mask = torch.zeros(1, len(tokens), 1, 4, dtype=torch.long)
    mask[:, tokens.index(reference.config.image_token_index) :, :, :num_tiles] = 1
    output = reference(
        input_ids=torch.tensor([tokens[start:]]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
        cross_attention_states=states[None] if cache is None else None,  # else in the cache
        cross_attention_mask=mask[:, start:],
        past_key_values=cache,
        use_cache=True,
    )
    return output.logits[0].numpy(), output.past_key_values


def main() -> None:
    torch.set_num_threads(1)  # so small a model has no work for more
    model = resolve("demo")
    reference, hparams = load(model)
    with LlamaModel(model.language) as tokenizer:
        best = max(cases(reference, hparams, tokenizer), key=lambda case: (len(case.answer) >= MIN_TOKENS, case.margin))
        text = b"".join(tokenizer.token_bytes(token, special=True) for token in best.prompt[-12:] + best.answer)
    np.savez_compressed(
        GOLDEN,
        sha256=np.array([file_record(path).sha256 for path in (model.language, model.mmproj)]),
        picture=best.picture,
        prompt=np.array(best.prompt, np.int32),
        answer=np.array(best.answer, np.int32),
        states=best.states[KEPT_STATES],
        logits=best.logits[KEPT_LOGITS],
    )
    print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes, {len(best.answer)} tokens, least lead {best.margin:.3f}")
    print(f"…{text.decode(errors='replace')}")


if __name__ == "__main__":
    main()
