"""The true Llama-3.2-Vision tokenizer as a HF folder has it, from the vocabulary that Meta publishes on PyPI.

Needs ``pip install --no-deps llama-models==0.3.0`` (it carries ``tokenizer.model``) and the ``parity`` extra with
tiktoken: transformers' own converter does the translation. Knows nothing of models.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

_FIRST_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
IMAGE_TOKEN = "<|image|>"  # 128256 in the HF release: one past the lm_head's vocabulary
CHAT_TEMPLATE = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}{%- else %}"
    "{%- for part in message['content'] %}{%- if part['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] }}{%- endif %}{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


def vocabulary_path() -> Path | None:
    """Meta's ``tokenizer.model`` (tiktoken format, 128000 ranks), or None where llama-models is not installed."""
    spec = importlib.util.find_spec("llama_models")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "llama3" / "tokenizer.model"
    return path if path.is_file() else None


def special_tokens() -> list[str]:
    """Ids 128000 to 128256: 256 inside the lm_head's vocabulary, then the image token."""
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(2, 2 + 256 - len(_FIRST_SPECIAL))]
    return [*_FIRST_SPECIAL, *reserved, IMAGE_TOKEN]


def write_tokenizer(folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Raises:
        FileNotFoundError: llama-models is not installed.
    """
    from tokenizers import processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    path = vocabulary_path()
    if path is None:
        raise FileNotFoundError("the Llama-3 vocabulary is missing: pip install --no-deps llama-models==0.3.0")
    tokenizer = TikTokenConverter(vocab_file=str(path), extra_special_tokens=special_tokens()).converted()
    bos = _FIRST_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tokenizer.token_to_id(bos))]
            ),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": bos,
        "eos_token": "<|eot_id|>",
        "pad_token": "<|finetune_right_pad_id|>",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
