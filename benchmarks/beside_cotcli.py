"""cotcli's part of `benchmarks.beside`: the phases of one greedy answer, in a process of its own.

Works on the engine, not on `cotcli ask`, so that an answer has as many tokens as asked for, whichever they are.
"""

from __future__ import annotations

import time
from importlib.metadata import version

from benchmarks.beside import note, parse_arguments
from cotcli.engine import Engine, EngineOptions, TokenSequence
from cotcli.image import load_image, prepare_image
from cotcli.prompt import build_prompt
from cotcli.registry import resolve

_CONTEXT = 1024


def write(engine: Engine, sequence: TokenSequence, count: int) -> tuple[list[int], float]:
    """Appends so many of the likeliest tokens; their ids, and the seconds of one in the mean."""
    ids = []
    begin = time.perf_counter()
    for _ in range(count):
        ids.append(int(engine.logits(sequence).argmax()))
        engine.prefill(sequence, ids[-1:])
    return ids, (time.perf_counter() - begin) / count


def main() -> None:
    """The command line."""
    given = parse_arguments(__doc__, "model")
    files = resolve(given.model)
    begin = time.perf_counter()
    with Engine(files.language, files.mmproj, EngineOptions(context_length=_CONTEXT)) as engine:
        note(given.record, version=version("cotcli"), load=time.perf_counter() - begin)

        text = engine.sequence()
        engine.prefill(text, build_prompt(engine.model, given.question, None))
        note(given.record, **{"a token, no picture": write(engine, text, given.tokens)[1]})
        engine.drop(text)

        begin = time.perf_counter()
        prepared = prepare_image(load_image(given.picture), engine.hparams.image)
        states = engine.encode(prepared)
        note(given.record, picture=time.perf_counter() - begin)

        begin = time.perf_counter()
        image = engine.load_image(states, prepared.num_tiles)
        sequence = engine.sequence(image)
        prompt = build_prompt(engine.model, given.question, engine.image_token)
        engine.prefill(sequence, prompt)
        note(given.record, prompt=time.perf_counter() - begin, prompt_tokens=len(prompt))

        ids, seconds = write(engine, sequence, given.tokens)
        note(given.record, **{"a token": seconds}, ids=[*prompt, *ids])


if __name__ == "__main__":
    main()
