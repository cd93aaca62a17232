"""mistral.rs's part of `benchmarks.beside`: run by path, in an environment that has `mistralrs` and nothing of ours.

What it can do with a picture, seen with the wheels of 0.9.0, 0.9.1 and 0.9.5 and read in the source of 0.8.4 to 0.9.2:

- From 0.9.1 on, prompts only: the first token after a prompt ends in a panic, "`max_image_tiles` must be set!". The
  number is kept in the inputs processor, where preprocessing a picture puts it; but each step of the engine asks for a
  new processor, and from its second step on a sequence has its picture already preprocessed, so nothing sets it. No
  option of `Runner` or of the request changes that; answers of one token, and texts without a picture, are spared.
- Up to 0.9.0, whole answers, but only the prompt sees the picture: a step without pixel values, hence each after the
  prompt, leaves the cross-attention layers out. "A token" costs what it does without a picture.

A picture's time is that of the first question about it, answered with one token, less that of the same question asked
again: states of pictures are kept, and prefixes of prompts, with the option given here, are not.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mistralrs


def note(record: Path, **facts: Any) -> None:
    """As in `benchmarks.beside`, which cannot be imported here."""
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def ask(runner: Any, content: Any, tokens: int) -> tuple[float, Any]:
    """Seconds of the whole answer, and mistral.rs's account of it."""
    messages = [{"role": "user", "content": content}]
    request = mistralrs.ChatCompletionRequest(model="default", messages=messages, max_tokens=tokens, temperature=0.0)
    begin = time.perf_counter()
    usage = runner.send_chat_completion_request(request).usage
    return time.perf_counter() - begin, usage


def a_token(usage: Any) -> float | None:
    """Seconds of each token after the first, which is the prompt's; None if there is none."""
    if usage.completion_tokens < 2:
        return None
    return float(usage.total_completion_time_sec) / (int(usage.completion_tokens) - 1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("question")
    parser.add_argument("tokens", type=int)
    parser.add_argument("record", type=Path)
    given = parser.parse_args()
    model = mistralrs.Which.MultimodalPlain(
        model_id=str(given.checkpoint), arch=mistralrs.MultimodalArchitecture.VLlama
    )
    begin = time.perf_counter()
    runner = mistralrs.Runner(which=model, in_situ_quant="Q4K", token_source="none", prefix_cache_n=0)
    note(given.record, version=version("mistralrs"), load=time.perf_counter() - begin)

    _, usage = ask(runner, given.question, given.tokens + 1)
    if (seconds := a_token(usage)) is not None:
        note(given.record, **{"a token, no picture": seconds})

    content = [
        {"type": "image_url", "image_url": {"url": str(given.picture)}},
        {"type": "text", "text": f"<|image|>{given.question}"},
    ]
    first, usage = ask(runner, content, 1)
    again, _ = ask(runner, content, 1)
    note(given.record, picture=first - again, prompt=again, prompt_tokens=usage.prompt_tokens)

    _, usage = ask(runner, content, given.tokens + 1)
    if (seconds := a_token(usage)) is not None:
        note(given.record, **{"a token": seconds})


if __name__ == "__main__":
    main()
