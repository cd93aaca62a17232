"""`cotcli.batch` is a library: what it says of its arguments, it says by their names, not by the command's options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import cotcli.batch


def test_no_option_is_named() -> None:
    texts = [
        (file.name, node.value)
        for file in Path(cotcli.batch.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
    ]
    assert len(texts) > 100
    assert [text for text in texts if re.search(r"(?<![\w`-])--[a-z]", text[1])] == []
