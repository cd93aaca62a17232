"""`cotcli schema`: the JSON Schema of everything that is printed as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer


def schema(
    kind: Annotated[
        Literal["record", "score", "event"] | None,
        typer.Argument(
            metavar="[record|score|event]", help="Of one kind of line.  [default: of all]", show_default=False
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of the JSON output."""
    from cotcli.render.schema import json_schema

    print(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))
