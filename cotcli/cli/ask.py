"""`cotcli ask`: staged answers to one question about some pictures."""

from __future__ import annotations

import typer

from cotcli.cli import options
from cotcli.cli.answering import Job, answer_all, parse_loading
from cotcli.cli.output import OutputOptions


def ask(
    question: options.Question,
    images: options.Images,
    model: options.Model = None,
    stages: options.Stages = None,
    show: options.Show = None,
    json: options.Json = False,
    stream_json: options.StreamJson = False,
    choices: options.Choices = None,
    schema: options.Schema = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    min_p: options.MinP = None,
    repeat_penalty: options.RepeatPenalty = None,
    seed: options.Seed = None,
    max_tokens: options.MaxTokens = None,
    stage_max_tokens: options.StageMaxTokens = None,
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
    color: options.Color = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = 0,
) -> None:
    """Answer a question about pictures, in stages.

    The stages are summary, caption, reasoning and conclusion. A terminal shows them as they are written, a pipe gets
    the conclusion alone.
    """
    options.check_question(question)
    output = OutputOptions(json, stream_json, options.parse_show(show), color, verbose, quiet)
    params = options.parse_generation(
        temperature, top_p, top_k, min_p, repeat_penalty, seed, max_tokens, stage_max_tokens, choices, schema
    )
    load = parse_loading(
        model=model,
        stages=stages,
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
    raise typer.Exit(answer_all(Job(question, images, load, params, output)))
