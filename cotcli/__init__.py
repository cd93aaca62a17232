"""cotcli: runs LLaVA-CoT, a vision model that thinks out loud, on stock llama.cpp."""

from __future__ import annotations

__version__ = "0.1.0"
