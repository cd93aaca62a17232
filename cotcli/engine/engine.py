"""A loaded pair of files: its images, its sequences, and the passes that append tokens to them.

An image enters a sequence as one token, ``image_token``, whose place is marked in the prompt; what the image is to the
language model comes in through the cross-attention hook.

    states = engine.encode(prepared)            vision tower, projector
    image = engine.load_image(states)           keys and values of every cross-attention layer
    sequence = engine.sequence(image)
    engine.prefill(sequence, tokens)            logits of the last token
    twin = engine.fork(sequence)                a copy of it
    engine.advance(requests)                    one pass over the weights: as much of several requests as goes together
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cotcli.engine.options import EngineOptions
from cotcli.engine.passes import Decode, PassSizes, lay_out, share_out
from cotcli.engine.sequences import SequenceTable, TokenSequence
from cotcli.errors import ContextFullError, CotcliError, ModelError
from cotcli.image import PreparedImage
from cotcli.memory import read_pair
from cotcli.mllama import vision
from cotcli.mllama.cross_attention import ImageKV
from cotcli.mllama.hook import CrossAttentionHook
from cotcli.mllama.hparams import PAIR_ID_KEY, HParams
from cotcli.mllama.vision import VisionTower
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml_backend, interrupt
from cotcli.native.cpu import available_threads
from cotcli.native.llama import KV_TYPES, LlamaBatch, LlamaContext, LlamaModel
from cotcli.placement import TINY_MODEL, place

T = TypeVar("T")

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_engines() -> None:
    """libllama must be freed before the interpreter takes the callbacks apart that it holds."""
    for engine in list(_engines):
        engine.close()


def _default_threads(language: Path) -> int:
    """Threads meet at every node of a graph; with a tiny model's nodes they would do little else, and on a busy machine
    wait for each other for whole time slices."""
    try:
        size = language.stat().st_size
    except OSError:  # a missing file is reported by whoever opens it
        return 1
    return available_threads() if size >= TINY_MODEL else 1


class Engine:
    """A loaded pair of files.

    Args:
        language: the language GGUF.
        mmproj: its mmproj GGUF.
        on_load: called with the share of the language file that is loaded.
        on_note: called with what the user should know about ``placement``, before anything is loaded.

    Raises:
        ModelError: a file is broken, or the two are not of one checkpoint.
        ResourceError: no memory for it, or no device where one is required.
        UsageError: there is no device of the name that is given.

    Attributes:
        placement: what was decided about devices and memory.
    """

    def __init__(
        self,
        language: Path,
        mmproj: Path,
        options: EngineOptions | None = None,
        on_load: Callable[[float], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self.options = options or EngineOptions()
        self.context_length = self.options.context_length
        self._open: list[Callable[[], None]] = []  # closed in reverse order
        _engines.add(self)
        try:
            self._load(language, mmproj, on_load, on_note)
        except BaseException:
            self.close()
            raise

    def _load(
        self,
        language: Path,
        mmproj: Path,
        on_load: Callable[[float], None] | None,
        on_note: Callable[[str], None] | None,
    ) -> None:
        options = self.options
        self._file = WeightFile(mmproj)
        self.hparams: HParams = self._file.hparams
        text = self.hparams.text
        self.image_token = text.image_token_index
        self._threadpool = self._own(ggml_backend.Threadpool(options.threads or _default_threads(language)))
        pair = read_pair(language, self._file)
        self.placement = place(pair, options.demand, options.choice)
        if on_note is not None:
            for line in self.placement.notes:
                on_note(line)
        devices = [device.handle for device in self.placement.devices]
        self.model = self._own(LlamaModel(language, self.placement.gpu_layers, devices, on_load, options.repack))
        pair_id = self.model.metadata(PAIR_ID_KEY)
        if pair_id != self._file.pair_id or self.model.n_embd != text.hidden_size:
            raise ModelError(
                f"{language} and {mmproj} do not belong together", "Convert the checkpoint again: cotcli convert SRC"
            )
        self.kv_type, self.ubatch = self.placement.plan.kv_type, self.placement.plan.ubatch
        offload = self.placement.gpu_layers > 0
        cpu_k_quants = pair.has_k_quants and not offload
        self._sizes = PassSizes.of(self.ubatch, cpu_k_quants=cpu_k_quants, repacked=options.repack)
        self._backends: dict[ggml_backend.Device, ggml_backend.Backend] = {}
        self._open.append(self._close_backends)
        self._hook = CrossAttentionHook(self._file, self._backend_of, lambda: self.context.n_reused)
        self.context = self._own(
            LlamaContext(
                self.model,
                self._threadpool,
                self._hook.on_node,
                n_ctx=options.context_length,
                n_seq_max=options.max_sequences,
                n_ubatch=self.ubatch,
                kv_type=self.kv_type,
                # ggml's flash attention on a CPU sums F16 values in F16, and cuts the sum up otherwise when there is
                # more than one sequence: an answer would depend on what is written beside it.
                flash_attention="auto" if offload and self.kv_type != "f32" else "off",
                offload=offload,
            )
        )
        self._open.append(self._hook.close)
        self._token_batch = self._own(LlamaBatch(self.ubatch))
        self._embedding_batch = self._own(LlamaBatch(options.max_sequences, text.hidden_size))
        self._image_embedding = self._file.array("mm.image_token_embd.weight")
        self._sequences = SequenceTable(self.context, options.max_sequences)
        self._images: weakref.WeakSet[ImageKV] = weakref.WeakSet()
        self._open.append(self._close_images)
        self._tower: VisionTower | None = None
        self._locate_layers()

    def _own(self, handle: T) -> T:
        self._open.append(handle.close)  # type: ignore[attr-defined]
        return handle

    def _backend_of(self, device: ggml_backend.Device) -> ggml_backend.Backend:
        backend = self._backends.get(device)
        if backend is None:
            backend = self._backends[device] = ggml_backend.Backend(device, self._threadpool)
        return backend

    def _close_images(self) -> None:
        for image in list(self._images):
            image.close()

    def _close_backends(self) -> None:
        for backend in self._backends.values():
            backend.close()

    def _locate_layers(self) -> None:
        """One token through the model: tells where each layer's hidden state lives, and warms up."""
        sequence = self.sequence()
        self.prefill(sequence, [0])
        self.drop(sequence)

    @property
    def threads(self) -> int:
        """CPU threads that compute."""
        return self._threadpool.n_threads

    @property
    def vision_device(self) -> ggml_backend.Device:
        """The device of the last cross-attention layer."""
        return self._hook.layers[-1].backend.device

    @property
    def device_name(self) -> str:
        """Where the layers are: "CPU", "CUDA0", or both when they are spread."""
        names = dict.fromkeys(layer.backend.name for layer in self._hook.layers)
        return "+".join(names)

    @property
    def pair_id(self) -> str | None:
        """What both files say that they are of: a digest of the checkpoint."""
        return self._file.pair_id

    @property
    def mmproj_id(self) -> str:
        """Tells the types that the vision file's weights are stored in from others."""
        return self._file.types_id

    # -- images ---------------------------------------------------------------------------------------------------

    @cached_property
    def vision_identity(self) -> str:
        """What the states of a picture depend on but for the picture, see ``vision.identity``."""
        return vision.identity(self._file, self.vision_device)

    def encode(
        self, image: PreparedImage, on_progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """Projected vision states, see ``VisionTower.encode``."""
        if self._tower is None:
            self._tower = vision.vision_tower(self._file, self._backend_of(self.vision_device))
            self._open.append(self._tower.close)
        return self._tower.encode(image, on_progress)

    def load_image(self, states: npt.NDArray[np.float32], num_tiles: int) -> ImageKV:
        """An image's keys and values, to give to sequences; ``release_image`` when no more are to come."""
        n_real = num_tiles * self.hparams.vision.num_patches
        image = ImageKV(self._hook.layers, states, n_real, KV_TYPES[self.kv_type])
        self._images.add(image)
        return image

    def release_image(self, image: ImageKV) -> None:
        """Gives back one hold on an image; sequences have their own."""
        image.release()
        if not image.alive:
            self._hook.drop_image(image)

    # -- sequences ------------------------------------------------------------------------------------------------

    def sequence(self, image: ImageKV | None = None) -> TokenSequence:
        """A new, empty sequence.

        Raises:
            ResourceError: ``max_sequences`` are in use.
        """
        return self._sequences.new(image)

    def fork(self, sequence: TokenSequence) -> TokenSequence:
        """A sequence with the same tokens and image; it shares the image's memory, and copies that of the tokens.

        Raises:
            ResourceError: ``max_sequences`` are in use.
        """
        return self._sequences.copy(sequence)

    def drop(self, sequence: TokenSequence) -> None:
        """Ends a sequence and frees what only it held."""
        if sequence not in self._sequences:
            return
        with interrupt.deferred():
            image = self._sequences.remove(sequence)
            if image is not None:
                self.release_image(image)

    def truncate(self, sequence: TokenSequence, length: int) -> None:
        """Forgets the tokens from position ``length`` on, the image token too if it is among them."""
        self._sequences.truncate(sequence, length)

    # -- decoding -------------------------------------------------------------------------------------------------

    def prefill(self, sequence: TokenSequence, tokens: Sequence[int]) -> None:
        """Appends tokens to one sequence; the logits after the last of them are then ``logits(sequence)``."""
        self.extend([(sequence, tokens)])

    def extend(self, requests: Sequence[tuple[TokenSequence, Sequence[int]]]) -> None:
        """Appends tokens to several sequences, in as many passes as it takes; ``logits`` knows those of the last.

        Raises:
            As ``advance``.
        """
        ahead = [Decode(sequence, list(tokens)) for sequence, tokens in requests]
        while any(tokens for _, tokens in ahead):
            counts = self.advance(ahead)
            ahead = [Decode(sequence, tokens[n:]) for (sequence, tokens), n in zip(ahead, counts, strict=True)]

    def advance(self, requests: Sequence[Decode], *, every: bool = False) -> list[int]:
        """One pass: appends to the first sequence with tokens to come, and to its neighbours in the cache with as many,
        as far as there is room (``passes.share_out``).

        ``image_token`` stands for the sequence's image. After it, ``logits`` gives the newest logits of each sequence
        that took part.

        Args:
            every: keeps the logits after every token, in the order of the batch.

        Returns:
            How many tokens of each request have been appended: of one at least.

        Raises:
            ContextFullError: what a sequence may use of the cache is full.
            CotcliError: llama.cpp's graph was not the one expected, or a hook failed. In every case all sequences are
                as they were before the pass.
        """
        if len({id(sequence) for sequence, _ in requests}) != len(requests):
            raise CotcliError("a sequence stands twice in one request")
        self._sequences.bring_together(sequence for sequence, _ in requests)
        counts, embedding = share_out(requests, self._sizes, self.image_token)
        runs = [Decode(sequence, tokens[:n]) for (sequence, tokens), n in zip(requests, counts, strict=True) if n]
        for sequence, tokens in runs:
            if sequence.length + len(tokens) > self.context_length:
                raise ContextFullError("the context is full", "Try a larger one: --ctx N")
            if embedding and (sequence.image is None or sequence.sees_image):
                raise CotcliError("an image token needs an image, and only one")
        self._decode(runs, embedding, every)
        return counts

    def each_logits(self, sequence: TokenSequence, tokens: Sequence[int]) -> Iterator[npt.NDArray[np.float32]]:
        """Appends tokens and gives the logits after each, shape (n_vocab,), float32; views good until the next."""
        while tokens:
            (count,) = self.advance([Decode(sequence, tokens)], every=True)
            tokens = tokens[count:]
            for index in range(count):
                yield self.context.logits(index)

    def logits(self, sequence: TokenSequence) -> npt.NDArray[np.float32]:
        """The newest logits of a sequence, shape (n_vocab,), float32; a view that the next pass rewrites."""
        return self.context.logits(self.output_of(sequence))

    def output_of(self, sequence: TokenSequence) -> int:
        """Where the newest logits are in the last batch, for samplers."""
        if sequence.output is None:
            raise CotcliError("the sequence has no logits in the last pass")
        return sequence.output

    def _decode(self, runs: Sequence[Decode], embedding: bool, every: bool) -> None:
        """One pass of exactly these tokens."""
        if embedding:
            for sequence, _ in runs:
                sequence.image_at = sequence.length
        laid = lay_out(runs, every)
        if embedding:
            batch = self._embedding_batch
            inputs: Any = np.tile(self._image_embedding, (len(laid.tokens), 1))
        else:
            batch, inputs = self._token_batch, laid.tokens
        batch.fill(inputs, laid.positions, laid.ids, laid.wanted)
        self._hook.expect(laid.groups, len(laid.tokens), [i for i, flag in enumerate(laid.wanted) if flag])
        for sequence in self._sequences:
            sequence.output = None
        try:
            self.context.decode(batch)
            self._hook.check()
        except BaseException:
            for sequence, _ in runs:
                self.context.remove(sequence.id, sequence.length)
                if embedding:
                    sequence.image_at = None
            raise
        column = 0
        for sequence, tokens in laid.runs:
            column += len(tokens)
            sequence.length += len(tokens)
            sequence.output = column - 1

    # -- end ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Frees everything, in the reverse order of making."""
        for sequence in list(getattr(self, "_sequences", ())):
            self.drop(sequence)
        with interrupt.deferred():  # freeing writes to the log, which comes back into Python
            while getattr(self, "_open", None):
                self._open.pop()()

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
