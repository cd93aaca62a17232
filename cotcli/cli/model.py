"""`cotcli model`: what is known, what is installed, and how it comes and goes."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotcli.cli import completion, options
from cotcli.cli.pull import pull
from cotcli.install import size_text

if TYPE_CHECKING:
    from cotcli.memory import Amounts
    from cotcli.registry import ResolvedModel, Traces
    from cotcli.specs import ModelSpec

app = typer.Typer(help="Models: install, look at, check, remove.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def list_models(json: Annotated[bool, typer.Option("--json", help="A JSON array.")] = False) -> None:
    """List the models that are known or installed."""
    from cotcli import registry
    from cotcli.specs import specs

    pairs = registry.installed()
    unfinished = registry.unfinished()
    here = {pair.spec.name for pair in pairs} | {trace.name for trace in unfinished}
    missing = [spec for spec in specs().values() if spec.name not in here]
    if json:
        _write_json([*map(_pair, pairs), *map(_unfinished, unfinished), *map(_missing, missing)])
        return
    rows = [(pair.spec.name, pair.quant, size_text(pair.size), str(pair.language)) for pair in pairs]
    rows += [
        (trace.name, trace.quant, size_text(trace.size), f"unfinished: {registry.how_to_go_on(trace)}")
        for trace in unfinished
    ]
    rows += [(spec.name, "-", "-", f"not installed: {registry.how_to_install(spec)}") for spec in missing]
    _print_table([("NAME", "QUANT", "SIZE", "LANGUAGE FILE"), *rows])


@app.command("show")
def show_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATH", help="As for --model.", show_default=False, autocompletion=completion.known_models
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="A JSON object.")] = False,
) -> None:
    """Show what is known about one model."""
    from cotcli import registry
    from cotcli.specs import specs

    spec = specs().get(name)
    pairs = [pair for pair in registry.installed() if pair.spec.name == name]
    if spec is None or pairs:
        pairs = pairs or [registry.resolve(name)]
        spec = pairs[0].spec
    params = spec.params
    about: dict[str, Any] = {
        "name": spec.name,
        "description": spec.description,
        "licence": spec.licence,
        "repo": spec.repo,
        "revision": spec.revision,
        "download_bytes": spec.download_bytes,
        "sizes": dict(spec.sizes),
        "memory_bytes": spec.memory_bytes,
        "stage_format": spec.stage_format,
        "bos_count": spec.bos_count,
        "sampling": {"temperature": params.temperature, "top_p": params.top_p, "max_tokens": params.max_tokens},
    }
    memory = [_memory(pair) for pair in pairs]
    if json:
        entries = zip(pairs, memory, strict=True)
        _write_json(
            {**about, "pairs": [{**_pair(pair), "memory_bytes": need and need.total} for pair, need in entries]}
        )
        return
    about["download_bytes"] = size_text(spec.download_bytes) if spec.download_bytes else None
    for key in ("sizes", "memory_bytes"):
        about[key] = {quant: size_text(size) for quant, size in about[key].items()}
    rows = [(key.removesuffix("_bytes"), _text(value)) for key, value in about.items() if value not in (None, "", {})]
    for pair, need in zip(pairs, memory, strict=True):
        rows += [(pair.quant, f"{size_text(pair.size)}, {pair.language}"), ("", f"with {pair.mmproj}")]
        if need is not None:
            rows.append(("", f"needs about {_needs(need)}"))
        if pair.record is not None and pair.record.repo is not None:
            rows.append(("", f"from {pair.record.repo} at {pair.record.revision}"))
    if not pairs:
        rows.append(("installed", f"no: {registry.how_to_install(spec)}"))
    _print_table(rows)


def _memory(pair: ResolvedModel) -> Amounts | None:
    """On the CPU, for one answer within the default context about a picture of all tiles; None if a file is broken."""
    from cotcli.engine import EngineOptions
    from cotcli.errors import ModelError
    from cotcli.memory import plan, read_pair
    from cotcli.mllama.weights import WeightFile

    try:
        return plan(read_pair(pair.language, WeightFile(pair.mmproj)), EngineOptions().demand, [], 0).host
    except ModelError:
        return None


def _needs(need: Amounts) -> str:
    parts = {
        "weights": need.language + need.cross_attention + need.vision,
        "the context": need.kv_cache,
        "a picture": need.images,
        "to compute with": need.compute + need.encoder + need.vocabulary,
    }
    return f"{size_text(need.total)} of memory: " + ", ".join(
        f"{what} {size_text(size)}" for what, size in parts.items()
    )


app.command("pull")(pull)


@app.command("rm")
def remove_model(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:QUANT]",
            help="One quantization, or all of a model.",
            show_default=False,
            autocompletion=completion.installed_models,
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove an installed model, and what unfinished downloads of it have left."""
    from cotcli.cli.remove import remove

    remove(name, yes=yes)


@app.command("verify")
def verify_models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME[:QUANT]|PATH]",
            help="One model.  [default: all]",
            show_default=False,
            autocompletion=completion.installed_models,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON array.")] = False,
    quiet: options.Quiet = False,
) -> int:
    """Check the files of installed models against their checksums."""
    from cotcli.cli.verify import verify

    return verify(name, json=json, quiet=quiet)


def _pair(pair: ResolvedModel) -> dict[str, Any]:
    return {
        **_missing(pair.spec),
        "installed": True,
        "quant": pair.quant,
        "bytes": pair.size,
        "language": str(pair.language),
        "mmproj": str(pair.mmproj),
        "sha256": pair.sha256,
        "mmproj_sha256": pair.mmproj_sha256,
        "repo": pair.record.repo if pair.record else None,
        "revision": pair.record.revision if pair.record else None,
    }


def _unfinished(trace: Traces) -> dict[str, Any]:
    from cotcli.specs import ModelSpec, specs

    spec = specs().get(trace.name) or ModelSpec(trace.name)
    return {**_missing(spec), "quant": trace.quant, "unfinished_bytes": trace.size}


def _missing(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "installed": False,
        "quant": None,
        "bytes": None,
        "unfinished_bytes": None,
        "language": None,
        "mmproj": None,
        "sha256": None,
        "mmproj_sha256": None,
        "repo": spec.repo,
        "revision": spec.revision,
    }


def _text(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be, the last ragged."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]))


def _write_json(value: Any) -> None:
    from cotcli.render.jsonl import write_json

    write_json(sys.stdout, value)
