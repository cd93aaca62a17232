"""`cotcli score`: how likely the model is to give a certain answer, token by token."""

from __future__ import annotations

import sys

from cotcli.answer import AnswerScore
from cotcli.cli import options
from cotcli.cli.answering import loaded, parse_loading
from cotcli.cli.output import OutputOptions, make_progress
from cotcli.cli.run import about
from cotcli.errors import UsageError


def score(
    question: options.Question,
    image: options.Image,
    answer: options.ScoredAnswer,
    model: options.Model = None,
    json: options.Json = False,
    gpu_layers: options.GpuLayers = "auto",
    device: options.Device = None,
    require_gpu: options.RequireGpu = False,
    rpc: options.Rpc = None,
    threads: options.Threads = None,
    ctx: options.Context = None,
    kv_type: options.KvType = None,
    memory_check: options.MemoryCheck = True,
    image_cache: options.ImageCache = True,
    image_cache_size: options.ImageCacheSize = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Print how likely a given answer is.

    Each line is a token and its natural log-probability. The answer is scored exactly as it is given: write the tags
    too, such as <CONCLUSION>, where the model would.
    """
    from cotcli.image import expand_sources, load_image
    from cotcli.image.sources import name_of
    from cotcli.render.jsonl import write_json
    from cotcli.render.record import score_record

    options.check_question(question)
    output_options = OutputOptions(json=json, verbose=verbose, quiet=quiet)
    load = parse_loading(
        model=model,
        stages=None,
        gpu_layers=gpu_layers,
        device=device,
        require_gpu=require_gpu,
        rpc=rpc,
        threads=threads,
        ctx=ctx,
        kv_type=kv_type,
        memory_check=memory_check,
        image_cache=image_cache,
        image_cache_size=image_cache_size,
    )
    progress = make_progress(output_options)
    with about(question, name_of(image)):
        sources = expand_sources([image])
        if len(sources) > 1:
            raise UsageError(f"{image} is {len(sources)} pictures", f"Score one at a time, such as {sources[0]}")
        picture = load_image(sources[0])
        with loaded(load, output_options, progress, lambda: False) as reasoner:
            result = reasoner.score(picture, question, answer)
    if json:
        write_json(sys.stdout, score_record(result, picture.source))
    else:
        sys.stdout.write(score_text(result))


def score_text(score: AnswerScore) -> str:
    """A line a token, log-probability first, the token as a JSON string; the sum last."""
    import json

    lines = [f"{token.logprob:10.5f}  {json.dumps(token.token, ensure_ascii=False)}\n" for token in score.tokens]
    count = len(score.tokens)
    return "".join(lines) + f"{score.logprob:10.5f}  sum of {count} tokens, perplexity {score.perplexity:.5g}\n"
