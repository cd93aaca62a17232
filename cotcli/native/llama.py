"""libllama from Python: one owner for each of model, context, batch and sampler.

Knows tokens and positions, nothing of images, prompts or stages. Source: ``llama.h`` of the bundled release.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cotcli.errors import CotcliError, ModelError, ResourceError
from cotcli.native import ggml, ggml_backend, interrupt, log
from cotcli.native.devices import start
from cotcli.native.library import bind, llama_cpp

# void llama_attach_threadpool(struct llama_context *, ggml_threadpool_t pool, ggml_threadpool_t pool_batch);
_attach_threadpool = bind("llama_attach_threadpool", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)

MAX_SEQUENCES = int(llama_cpp.llama_max_parallel_sequences())
"""Most that a context can hold (LLAMA_MAX_SEQ)."""
KV_TYPES = {"f32": ggml.F32, "f16": ggml.F16}
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}
NodeCallback = Callable[[int, bool, Any], bool]


class LlamaModel(ggml.Handle):
    """Owns a ``llama_model`` and gives its vocabulary.

    Args:
        path: a GGUF of the ``llama`` architecture.
        gpu_layers: layers to put on devices, from the last one on, the output matrix being one.
        devices: those to use, in the order of the layers.
        on_progress: called with the share loaded, 0.0 to 1.0.
        repack: copy weights into the CPU's own layout where there is one (``ggml-cpu/repack.cpp``).

    Raises:
        ModelError: not a GGUF, or not one that llama.cpp can load; says what llama.cpp said.
    """

    def __init__(
        self,
        path: Path,
        gpu_layers: int = 0,
        devices: Sequence[ggml_backend.Device] = (),
        on_progress: Callable[[float], None] | None = None,
        repack: bool = False,
    ) -> None:
        start()
        failure: list[BaseException] = []

        def progress(share: float, _: Any) -> bool:
            try:
                if on_progress is not None:
                    on_progress(share)
            except BaseException as error:  # must not cross C
                failure.append(error)
            return not failure and not interrupt.requested()

        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        # Always a list: without one libllama takes every device it knows, and asks each for its memory.
        device_list = (ctypes.c_void_p * (len(devices) + 1))(*devices, None)
        params.devices = ctypes.cast(device_list, ctypes.c_void_p)
        params.split_mode = llama_cpp.LLAMA_SPLIT_MODE_LAYER
        params.use_extra_bufts = repack
        params.progress_callback = llama_cpp.llama_progress_callback(progress)
        log.clear_errors()
        try:
            with interrupt.deferred():
                self._handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
        except KeyboardInterrupt:
            self.close()
            raise
        if failure:
            self.close()
            raise failure[0]
        if self._handle is None:
            raise ModelError(
                f"{path} cannot be loaded: {log.last_error() or 'llama.cpp gave no reason'}",
                "See llama.cpp's log with -vv, or convert the checkpoint again: cotcli convert SRC",
            )

    def _release(self, handle: int) -> None:
        llama_cpp.llama_model_free(handle)

    @property
    def vocab(self) -> Any:
        """The ``llama_vocab`` pointer; raises once the model is closed, where the pointer would dangle."""
        return llama_cpp.llama_model_get_vocab(self.handle)

    @property
    def n_vocab(self) -> int:
        return int(llama_cpp.llama_vocab_n_tokens(self.vocab))

    @property
    def n_embd(self) -> int:
        return int(llama_cpp.llama_model_n_embd(self.handle))

    def metadata(self, key: str) -> str | None:
        """A metadata value as text, None when the file has no such key."""
        buffer = ctypes.create_string_buffer(65536)
        length = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def tokenize(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Token ids of ``text``, nothing added. With ``parse_special`` off, ``<|eot_id|>`` in it is plain text."""
        data = text.encode("utf-8", "replace")  # an argument may hold bytes that are no text
        capacity = len(data) + 8
        tokens = (llama_cpp.llama_token * capacity)()
        count = llama_cpp.llama_tokenize(self.vocab, data, len(data), tokens, capacity, False, parse_special)
        if count < 0:
            raise CotcliError(f"llama.cpp could not tokenize a text of {len(data)} bytes")
        return list(tokens[:count])

    def token_bytes(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for, perhaps part of a character; control tokens give none unless ``special``."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def special_token(self, text: str) -> int:
        """The id of one special token, named as in the vocabulary.

        Raises:
            ModelError: the vocabulary has no such token.
        """
        tokens = self.tokenize(text, parse_special=True)
        if len(tokens) != 1 or not llama_cpp.llama_vocab_is_control(self.vocab, tokens[0]):
            raise ModelError(
                f"the model's vocabulary has no special token {text}", "Convert it again: cotcli convert SRC"
            )
        return tokens[0]

    def is_end_of_generation(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocab, token))

    @property
    def quantization(self) -> str:
        """The file's type under llama.cpp's name, such as Q4_K_M or F16."""
        import gguf

        try:
            name = gguf.LlamaFileType(llama_cpp.llama_model_ftype(self.handle)).name
        except ValueError:
            return "unknown"
        return str(name).removeprefix("MOSTLY_").removeprefix("ALL_")


class LlamaContext(ggml.Handle):
    """Owns a ``llama_context`` whose graph evaluation calls back into Python, node by node.

    Args:
        model: must outlive the context.
        on_node: ``ggml_backend_sched_eval_callback``: called with a node's address and whether this only asks if its
            value is wanted. Must not raise.
        n_ctx: tokens of the key-value cache that each sequence has to itself.
        n_seq_max: sequences at once.
        n_ubatch: most tokens one decode takes.
        kv_type: "f16" or "f32".
        flash_attention: "auto", "on" or "off".

    Raises:
        ResourceError: no memory for it.
    """

    def __init__(
        self,
        model: LlamaModel,
        threadpool: ggml_backend.Threadpool,
        on_node: NodeCallback,
        *,
        n_ctx: int,
        n_seq_max: int,
        n_ubatch: int,
        kv_type: str,
        flash_attention: str,
        offload: bool,
    ) -> None:
        self._callback = llama_cpp.ggml_backend_sched_eval_callback(on_node)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = n_ctx * n_seq_max, n_seq_max
        params.n_batch = params.n_ubatch = n_ubatch
        params.n_threads = params.n_threads_batch = threadpool.n_threads
        params.type_k = params.type_v = KV_TYPES[kv_type]
        params.flash_attn_type = FLASH_ATTENTION[flash_attention]
        # Cells of its own for each sequence: what is summed over them does not depend on the others'.
        params.kv_unified = False
        params.offload_kqv = params.op_offload = offload
        params.no_perf = False  # n_reused, by which the hook knows whether node addresses are still good
        params.cb_eval = self._callback
        log.clear_errors()
        try:
            with interrupt.deferred():  # its log lines come back into Python too
                self._handle = llama_cpp.llama_init_from_model(model.handle, params)
        except KeyboardInterrupt:
            self.close()
            raise
        if self._handle is None:
            raise ResourceError(
                f"no memory for {n_seq_max} x {n_ctx} tokens: {log.last_error() or 'llama.cpp gave no reason'}",
                "Try a smaller one: --ctx N",
            )
        _attach_threadpool(self._handle, threadpool.handle, threadpool.handle)
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._n_vocab = model.n_vocab

    def _release(self, handle: int) -> None:
        llama_cpp.llama_free(handle)

    @property
    def n_reused(self) -> int:
        """Graphs taken over from the pass before, since the context was made."""
        return int(llama_cpp.llama_perf_context(self.handle).n_reused)

    def decode(self, batch: LlamaBatch) -> None:
        """``llama_decode`` of one batch of at most n_ubatch tokens, as ``passes.lay_out`` makes them.

        Raises:
            ResourceError: the computation failed.
            KeyboardInterrupt: Ctrl-C came meanwhile; the cache is in an undefined state past the batch's first token.
        """
        log.clear_errors()
        with interrupt.deferred():
            status = llama_cpp.llama_decode(self.handle, batch.struct)
        if status != 0:
            raise ResourceError(f"llama_decode failed ({status}): {log.last_error() or 'llama.cpp gave no reason'}")

    def logits(self, index: int) -> npt.NDArray[np.float32]:
        """Logits after the batch's token ``index``, shape (n_vocab,), float32; a view that the next decode rewrites."""
        pointer = llama_cpp.llama_get_logits_ith(self.handle, index)
        return np.ctypeslib.as_array(pointer, (self._n_vocab,))

    def remove(self, seq: int, start: int = -1, end: int = -1) -> None:
        """Forgets positions [start, end) of a sequence (llama_memory_seq_rm; -1 is open)."""
        llama_cpp.llama_memory_seq_rm(self._memory, seq, start, end)

    def copy(self, source: int, target: int) -> None:
        """Makes ``target`` what ``source`` is (llama_memory_seq_cp); the next decode copies the data first."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, -1, -1)


class LlamaBatch(ggml.Handle):
    """Owns a ``llama_batch`` of tokens, or of embeddings when ``n_embd`` is given."""

    def __init__(self, capacity: int, n_embd: int = 0) -> None:
        self.struct = llama_cpp.llama_batch_init(capacity, n_embd, 1)
        self._handle = 1  # the struct is passed by value; this only marks it as open
        self._n_embd = n_embd

    def _release(self, handle: int) -> None:
        llama_cpp.llama_batch_free(self.struct)

    def fill(
        self,
        inputs: Sequence[int] | npt.NDArray[np.float32],
        positions: Sequence[int],
        sequences: Sequence[int],
        wants_logits: Sequence[bool],
    ) -> None:
        """Sets the batch: token ids, or float32 embeddings of shape (n, n_embd), with their places."""
        _ = self.handle  # raises once it is closed
        struct = self.struct
        struct.n_tokens = len(positions)
        if self._n_embd:
            rows = np.ascontiguousarray(inputs, np.float32)
            ctypes.memmove(struct.embd, rows.ctypes.data, rows.nbytes)
        else:
            for i, token in enumerate(inputs):
                struct.token[i] = int(token)
        for i, (position, sequence, wanted) in enumerate(zip(positions, sequences, wants_logits, strict=True)):
            struct.pos[i] = position
            struct.n_seq_id[i] = 1
            struct.seq_id[i][0] = sequence
            struct.logits[i] = wanted


class SamplerChain(ggml.Handle):
    """Owns a ``llama_sampler`` chain; samplers added to it are freed with it."""

    def __init__(self) -> None:
        self._handle = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())

    def _release(self, handle: int) -> None:
        llama_cpp.llama_sampler_free(handle)

    def add(self, name: str, *args: Any) -> SamplerChain:
        """Adds ``llama_sampler_init_{name}(*args)`` at the end of the chain."""
        sampler = getattr(llama_cpp, f"llama_sampler_init_{name}")(*args)
        if not sampler:
            raise CotcliError(f"llama.cpp could not make the sampler {name}: {log.last_error() or 'no reason given'}")
        llama_cpp.llama_sampler_chain_add(self.handle, sampler)
        return self

    def add_grammar(self, model: LlamaModel, grammar: str, root: str) -> SamplerChain:
        """Adds a GBNF grammar over the model's vocabulary, from rule ``root`` on."""
        return self.add("grammar", model.vocab, grammar.encode("utf-8", "replace"), root.encode())

    def sample(self, context: LlamaContext, index: int) -> int:
        """Draws the token after the batch's token ``index`` and accepts it (llama_sampler_sample)."""
        return int(llama_cpp.llama_sampler_sample(self.handle, context.handle, index))


def json_schema_to_grammar(schema: str) -> str:
    """GBNF with the rule ``root`` for a JSON Schema, by llama-cpp-python's converter."""
    from llama_cpp.llama_grammar import json_schema_to_gbnf

    return str(json_schema_to_gbnf(schema))
