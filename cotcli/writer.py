"""Writes one answer: draws tokens, asks for them to be decoded, turns their text into stage events, keeps the limits.

Knows a sequence that has read its prompt. Knows nothing of pictures, of how the answer is shown, or of other answers
whose tokens go into the same passes.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Generator, Iterator

from cotcli.answer import GenerationParams
from cotcli.engine import Decode, Engine, TokenSequence
from cotcli.errors import ContextFullError
from cotcli.prompt import build_next_turn
from cotcli.sampling import Grammar, build_sampler, conclusion_grammar
from cotcli.stages import StageEvent, StageFormat, StageStart, Turn, parser_of

Progress = Callable[[str, int, int], None]
"""Called with a phase ("load", "image", "prompt" or "decode"), what is done, and all there is to do."""


class AnswerWriter:
    """Continues ``sequence`` until the answer ends.

    With choices or a JSON Schema the conclusion is bound by a grammar from its opening tag or heading on; a model that
    would end its turn without one has that written for it. A stage that reaches its own limit has its closing tag, or
    the next heading, written for it, and the model goes on with the next. Where each stage is a turn of its own, the
    sequence goes on with the next question at the end of each, or at its limit.

    Attributes:
        parser: what has been written.
        n_tokens: tokens written.
        n_read: tokens of questions after the first.
        finish_reason, cut_in: as in ``Answer``; final once ``write`` is exhausted.
    """

    def __init__(
        self,
        engine: Engine,
        sequence: TokenSequence,
        form: StageFormat,
        params: GenerationParams,
        on_progress: Progress,
    ) -> None:
        self._engine, self._sequence, self._params, self._progress = engine, sequence, params, on_progress
        self._form = form
        self.parser = parser_of(form)
        self._turns = list(form.turns) if form.name == "turns" else []
        self._grammar = _grammar(form, params)
        self._bound = self._grammar is not None and form.name == "none"
        self._limits = dict(params.stage_max_tokens)
        self._stage_tokens = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._done = False
        self.n_tokens = self.n_read = 0
        self.finish_reason = "stop"
        self.cut_in: str | None = None

    @staticmethod
    def check(engine: Engine, form: StageFormat, params: GenerationParams) -> None:
        """Raises UsageError for choices or a schema that no grammar can be made of, before a picture is encoded."""
        build_sampler(engine.model, params, _grammar(form, params)).close()

    def write(self) -> Generator[StageEvent | Decode, None, None]:
        """Events until the answer ends, whatever ends it, and the tokens to decode in between.

        After a ``Decode`` it must be gone on with as soon as the pass with the last of its tokens is over: the logits
        are drawn from then, and the next pass rewrites them. What went wrong instead is thrown in: KeyboardInterrupt
        ends the answer with what there is, as a full context does; other errors come out again.
        """
        self._start_sampler()
        try:
            yield from self._write()
        except KeyboardInterrupt:
            self._end("interrupted")
        except ContextFullError:
            self._end("context")
        finally:
            self._sampler.close()
        yield from self._flush()
        yield from self.parser.close()

    def _write(self) -> Iterator[StageEvent | Decode]:
        model = self._engine.model
        if self._turns:
            yield from self._begin_turn(self._turns.pop(0))
        while not self._ended():
            token = self._sampler.sample(self._engine.context, self._engine.output_of(self._sequence))
            if model.is_end_of_generation(token):
                if self._turns:
                    yield from self._next_turn()
                elif self._waits_for_conclusion:
                    yield from self._force(self._form.opening_of_conclusion)
                    self._bind()
                else:
                    return
                continue
            self.n_tokens += 1
            self._progress("decode", self.n_tokens, self._params.max_tokens)
            yield from self._take(token, self._decoder.decode(model.token_bytes(token, special=True)))
            yield from self._keep_stage_limit()

    def _ended(self) -> bool:
        if not self._done:
            if self.n_tokens >= self._params.max_tokens:
                self._end("length")
            elif self._sequence.length >= self._engine.context_length:
                self._end("context")
        return self._done

    def _take(self, token: int, piece: str) -> Iterator[StageEvent | Decode]:
        """Parses a token's text and decodes the token."""
        stage_before = self.parser.stage
        if self._waits_for_conclusion:
            for position, character in enumerate(piece, 1):
                events = self.parser.feed(character)
                yield from events
                if any(isinstance(event, StageStart) and event.stage == "conclusion" for event in events):
                    yield from self._enter_conclusion(token, piece[:position], piece[position:])
                    return
        else:
            yield from self.parser.feed(piece)
        yield Decode(self._sequence, [token])
        self._stage_tokens = self._stage_tokens + 1 if self.parser.stage == stage_before else 0

    def _enter_conclusion(self, token: int, mark: str, rest: str) -> Iterator[StageEvent | Decode]:
        """Binds what follows the opening mark, which ``token`` has just ended; ``rest`` is its text after that."""
        if rest.strip():
            # The token goes on with text that no grammar has seen: write the mark without it.
            self.n_tokens -= 1
            yield from self._force(mark, parsed=True)
        else:
            yield from self.parser.feed(rest)
            yield Decode(self._sequence, [token])
        self._stage_tokens = 0
        self._bind()

    def _keep_stage_limit(self) -> Iterator[StageEvent | Decode]:
        """Ends a stage that has used up its own limit; the conclusion's end is that of the answer."""
        stage = self.parser.stage
        if stage is None or self._stage_tokens < self._limits.get(stage, self._params.max_tokens):
            return
        if stage == "conclusion":
            self._end("stage_length")
            return
        self.finish_reason = "stage_length"
        if self._turns:
            yield from self._next_turn()
            return
        yield from self._force(self._form.end_of(stage))
        if self._waits_for_conclusion and self.parser.stage == "conclusion":
            self._bind()

    def _next_turn(self) -> Iterator[StageEvent | Decode]:
        """Asks for the next stage; ends the answer where the context has no room for that."""
        yield from self._flush()
        yield from self.parser.end()
        turn = self._turns.pop(0)
        tokens = build_next_turn(self._engine.model, turn.prompt)
        if self._sequence.length + len(tokens) > self._engine.context_length:
            self._end("context")
            return
        yield Decode(self._sequence, tokens)
        self.n_read += len(tokens)
        yield from self._begin_turn(turn)

    def _begin_turn(self, turn: Turn) -> Iterator[StageEvent]:
        yield from self.parser.begin(turn.stage)
        self._stage_tokens = 0
        if turn.stage == "conclusion" and self._grammar is not None:
            self._bind()

    def _force(self, text: str, *, parsed: bool = False) -> Iterator[StageEvent | Decode]:
        """Writes text of ours into the answer; ends the answer where the context has no room for it."""
        yield from self._flush()
        tokens = self._engine.model.tokenize(text)
        if self._sequence.length + len(tokens) > self._engine.context_length:
            self._end("context")
            return
        yield Decode(self._sequence, tokens)
        self.n_tokens += len(tokens)
        self._stage_tokens = 0
        if not parsed:
            yield from self.parser.feed(text)

    def _flush(self) -> Iterator[StageEvent]:
        """Gives out the bytes of a character that was not finished."""
        yield from self.parser.feed(self._decoder.decode(b"", final=True))

    @property
    def _waits_for_conclusion(self) -> bool:
        return self._grammar is not None and not self._bound

    def _bind(self) -> None:
        self._bound = True
        self._sampler.close()
        self._start_sampler()

    def _start_sampler(self) -> None:
        self._sampler = build_sampler(self._engine.model, self._params, self._grammar if self._bound else None)

    def _end(self, reason: str) -> None:
        self._done = True
        self.finish_reason = reason
        self.cut_in = self.parser.stage


def _grammar(form: StageFormat, params: GenerationParams) -> Grammar | None:
    after_mark = form.name in ("tags", "sections")
    return conclusion_grammar(params, after_mark=after_mark, closing_tag=form.end_of_conclusion)
