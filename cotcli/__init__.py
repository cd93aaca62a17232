"""cotcli: runs LLaVA-CoT, a vision model that thinks out loud, on stock llama.cpp.

import cotcli

with cotcli.load("demo") as model:
    answer = model.ask("photo.jpg", "How many red circles are there?")
    print(answer.answer, answer.stages["reasoning"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotcli.answer import Answer as Answer
    from cotcli.errors import CotcliError as CotcliError
    from cotcli.generate import Request as Request
    from cotcli.generate import load as load

__version__ = "0.1.0"
__all__ = ["Answer", "CotcliError", "Request", "__version__", "load"]

_PLACES = {"Answer": "answer", "CotcliError": "errors", "Request": "generate", "load": "generate"}


def __getattr__(name: str) -> object:
    # Lazily, since ``cotcli --help`` must not wait for NumPy and llama.cpp.
    if name in _PLACES:
        from importlib import import_module

        return getattr(import_module(f"cotcli.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
