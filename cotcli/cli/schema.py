"""`cotcli schema`: the JSON Schema of the records that commands print."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer


def schema(
    kind: Annotated[
        Literal["record", "score", "event", "doctor"] | None,
        typer.Argument(
            metavar="[record|score|event|doctor]", help="Of one kind of line.  [default: of all]", show_default=False
        ),
    ] = None,
) -> None:
    """Print the JSON Schema of records, scores and events."""
    from cotcli.render.schema import json_schema

    print(json.dumps(json_schema(kind), indent=2, ensure_ascii=False))
