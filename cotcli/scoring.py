"""Logits -> the natural log-probability of each token of a given answer.

Knows a sequence that has read its prompt. Knows nothing of pictures or of where the answer came from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cotcli.answer import TokenScore
from cotcli.engine import Engine, TokenSequence


def score_tokens(engine: Engine, sequence: TokenSequence, tokens: Sequence[int]) -> tuple[TokenScore, ...]:
    """How likely each token is after all that precedes it.

    Args:
        sequence: its newest logits are those after the prompt; it is lengthened by all tokens but the last.
        tokens: one at least.
    """
    logprobs = [log_softmax(engine.logits(sequence))[tokens[0]]]
    for row, token in zip(engine.each_logits(sequence, tokens[:-1]), tokens[1:], strict=True):
        logprobs.append(log_softmax(row)[token])
    texts = (engine.model.token_bytes(token, special=True).decode("utf-8", "replace") for token in tokens)
    return tuple(TokenScore(*scored) for scored in zip(texts, tokens, map(float, logprobs), strict=True))


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural log-probabilities of all tokens, shape (n_vocab,), in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result
