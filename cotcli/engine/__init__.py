"""Tokens -> logits: sequences that share images and passes, and can be forked. Knows no text and no stages.

options     how a model is loaded
sequences   who has which part of the cache
passes      what of several requests goes into the next pass over the weights, in which columns
engine      a loaded pair of files, its images, and the passes
"""

from __future__ import annotations

from cotcli.engine.engine import Engine
from cotcli.engine.options import EngineOptions
from cotcli.engine.passes import Decode
from cotcli.engine.sequences import TokenSequence

__all__ = ["Decode", "Engine", "EngineOptions", "TokenSequence"]
