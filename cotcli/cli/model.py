"""`cotcli model`: what is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cotcli.cli import completion

if TYPE_CHECKING:
    from cotcli.registry import ResolvedModel
    from cotcli.specs import ModelSpec

app = typer.Typer(help="What is installed.", no_args_is_help=True, rich_markup_mode=None)


@app.command("ls")
def list_models(json: Annotated[bool, typer.Option("--json", help="A JSON array.")] = False) -> None:
    """List the models that are known or installed."""
    from cotcli import registry
    from cotcli.specs import specs

    pairs = registry.installed()
    missing = [spec for spec in specs().values() if all(pair.spec.name != spec.name for pair in pairs)]
    if json:
        _write_json([*map(_pair, pairs), *map(_missing, missing)])
        return
    rows = [(pair.spec.name, pair.quant, _megabytes(pair.size), str(pair.language)) for pair in pairs]
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
    about = {
        "name": spec.name,
        "description": spec.description,
        "licence": spec.licence,
        "repo": spec.repo,
        "revision": spec.revision,
        "stage_format": spec.stage_format,
        "bos_count": spec.bos_count,
        "sampling": {"temperature": params.temperature, "top_p": params.top_p, "max_tokens": params.max_tokens},
    }
    if json:
        _write_json({**about, "pairs": [_pair(pair) for pair in pairs]})
        return
    rows = [(key, _text(value)) for key, value in about.items() if value not in (None, "")]
    for pair in pairs:
        rows += [(pair.quant, f"{_megabytes(pair.size)}, {pair.language}"), ("", f"with {pair.mmproj}")]
    if not pairs:
        rows.append(("installed", f"no: {registry.how_to_install(spec)}"))
    _print_table(rows)


def _pair(pair: ResolvedModel) -> dict[str, Any]:
    return {
        "name": pair.spec.name,
        "installed": True,
        "quant": pair.quant,
        "bytes": pair.size,
        "language": str(pair.language),
        "mmproj": str(pair.mmproj),
        "sha256": pair.sha256,
    }


def _missing(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "installed": False,
        "quant": None,
        "bytes": None,
        "language": None,
        "mmproj": None,
        "sha256": None,
    }


def _text(value: Any) -> str:
    return ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def _megabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


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
