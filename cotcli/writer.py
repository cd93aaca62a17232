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
from cotcli.sampling import Grammar, build_sampler, conclusion_grammar
from cotcli.stages import StageEvent, StageFormat, StageParser, StageStart

Progress = Callable[[str, int, int], None]
"""Called with a phase ("load", "image", "prompt" or "decode"), what is done, and all there is to do."""


class AnswerWriter:
    """Continues ``sequence`` until the answer ends.

    With choices or a JSON Schema the conclusion is bound by a grammar from its opening tag on; a model that would end
    its turn without one has the tag written for it. A stage that reaches its own limit has its closing tag written for
    it, and the model goes on with the next.

    Attributes:
        parser: what has been written.
        n_tokens: tokens written.
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
        self.parser = StageParser(form)
        self._grammar = _grammar(form, params)
        self._bound = self._grammar is not None and form.implicit is not None
        self._limits = dict(params.stage_max_tokens)
        self._stage_tokens = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._done = False
        self.n_tokens = 0
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
        while not self._ended():
            token = self._sampler.sample(self._engine.context, self._engine.output_of(self._sequence))
            if model.is_end_of_generation(token):
                if not self._waits_for_conclusion:
                    return
                yield from self._force("\n\n<CONCLUSION>")
                self._bind()
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

    def _enter_conclusion(self, token: int, tag: str, rest: str) -> Iterator[StageEvent | Decode]:
        """Binds what follows the opening tag, which ``token`` has just ended; ``rest`` is the token's text after it."""
        if rest.strip():
            # The token goes on with text that no grammar has seen: write the tag without it.
            self.n_tokens -= 1
            yield from self._force(tag, parsed=True)
        else:
            yield from self.parser.feed(rest)
            yield Decode(self._sequence, [token])
        self._stage_tokens = 0
        self._bind()

    def _keep_stage_limit(self) -> Iterator[StageEvent | Decode]:
        """Closes a stage that has used up its own limit; in the conclusion that ends the answer."""
        stage = self.parser.stage
        if stage is None or self._stage_tokens < self._limits.get(stage, self._params.max_tokens):
            return
        if stage == "conclusion":
            self._end("stage_length")
        else:
            self.finish_reason = "stage_length"
            yield from self._force(f"</{stage.upper()}>\n\n")

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
    return conclusion_grammar(params, "</CONCLUSION>" if form.implicit is None else "")
