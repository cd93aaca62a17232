"""`cotcli schema`: the JSON Schema of everything that is printed as JSON."""

from __future__ import annotations

import json


def schema() -> None:
    """Print the JSON Schema of all JSON output."""
    from cotcli.render.schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
