"""`cotcli batch`: a folder, a list or a file of questions to records, one a picture, resumable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cotcli.cli import options
from cotcli.cli.answering import parse_loading
from cotcli.cli.output import OutputOptions
from cotcli.errors import UsageError


def batch(
    question: Annotated[
        str | None,
        typer.Argument(metavar="QUESTION", help="What to ask; with --questions, nothing.", show_default=False),
    ] = None,
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Folders, at any depth, globs, files, URLs.", show_default=False),
    ] = None,
    files_from: Annotated[
        str | None, typer.Option("--files-from", metavar="FILE|-", help="A list of paths, one a line; - is stdin.")
    ] = None,
    null: Annotated[bool, typer.Option("--null", "-0", help="Its paths end in NUL bytes, not lines.")] = False,
    questions: Annotated[
        Path | None,
        typer.Option("--questions", metavar="FILE", help="JSONL, CSV, TSV: image, question; if wanted choices, id."),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="In folders, these only.  [default: names of pictures]"),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="In folders, not these files and folders.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help=".jsonl, .csv or .parquet.  [default: JSONL on stdout]"),
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Ask again what has failed before.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Drop the records that are there.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="Ask N at most, then end.")] = None,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    max_errors: Annotated[
        int | None, typer.Option("--max-errors", metavar="N", min=1, help="Stop after N failures.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be asked.")] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", metavar="N", min=1, max=options.MAX_PARALLEL, help="Write N answers at once.")
    ] = 1,
    repack: Annotated[
        bool,
        typer.Option("--repack", help="Copy K-quants for the CPU: faster from 4 at once on, texts may differ."),
    ] = False,
    model: options.Model = None,
    stages: options.Stages = None,
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
    """Answer a question about many pictures, or many questions, one JSON record each.

    With -o, a run that was stopped, even killed, goes on when the same command is given again, but without --overwrite,
    and redoes nothing that it has a record of.
    """
    options.check_question(question)
    params = options.parse_generation(
        temperature, top_p, top_k, min_p, repeat_penalty, seed, max_tokens, stage_max_tokens, choices, schema
    )
    if output is None and (overwrite or retry_errors):
        which = "--overwrite" if overwrite else "--retry-errors"
        raise UsageError(f"{which} is about a file of records", "Name it: -o FILE")
    if output is not None and seed == -1:
        raise UsageError(
            "--seed -1 draws another seed each time, so that no run could go on with the file of another",
            "Give a number: --seed N",
        )
    if fail_fast and max_errors is not None:
        raise UsageError("--fail-fast and --max-errors exclude each other")
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
        max_sequences=parallel,
        repack=repack,
    )
    from cotcli.batch import BatchOptions, NameFilter
    from cotcli.cli.batching import BatchJob, Sources, run_batch

    names = NameFilter(tuple(include or ()), tuple(exclude or ()))
    job = BatchJob(
        sources=Sources(question, tuple(paths or ()), files_from, null, questions, names),
        batch=BatchOptions(output, overwrite, retry_errors, limit, 1 if fail_fast else max_errors, parallel),
        load=load,
        params=params,
        output=OutputOptions(color=color, verbose=verbose, quiet=quiet),
        dry_run=dry_run,
    )
    raise typer.Exit(run_batch(job))
