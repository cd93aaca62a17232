"""`cotcli cache`: the pictures that are kept encoded on disk."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

app = typer.Typer(help="Encoded pictures on disk.", no_args_is_help=True, rich_markup_mode=None)


@app.command("show")
def show_cache(json: Annotated[bool, typer.Option("--json", help="A JSON object.")] = False) -> None:
    """Show where encoded pictures are kept, and what they take."""
    from cotcli.image_cache import ImageCache

    cache = ImageCache()
    usage = cache.usage()
    if json:
        from cotcli.render.jsonl import write_json

        write_json(sys.stdout, {"folder": str(cache.folder), "entries": usage.entries, "bytes": usage.bytes})
        return
    print(f"{cache.folder}: {_pictures(usage.entries)}, {usage.bytes / 1e6:.1f} MB")


@app.command("clear")
def clear_cache() -> None:
    """Remove the encoded pictures; the next question about each encodes it again."""
    from cotcli.cli.run import note
    from cotcli.image_cache import ImageCache

    removed = ImageCache().clear()
    note(f"removed {_pictures(removed.entries)}, {removed.bytes / 1e6:.1f} MB")


def _pictures(count: int) -> str:
    return f"{count} picture{'' if count == 1 else 's'}"
