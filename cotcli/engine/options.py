"""How a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

from cotcli.errors import UsageError
from cotcli.memory import Demand
from cotcli.native.llama import KV_TYPES, MAX_SEQUENCES
from cotcli.placement import Choice, GpuLayers


@dataclass(frozen=True)
class EngineOptions:
    """How a model is loaded.

    Attributes:
        gpu_layers: how many layers go on devices: the output matrix and the self-attention layers, from the last on.
            -1 or "all" is all; "auto" is as many as fit into the devices' free memory. The vision tower and the
            cross-attention layers go with them.
        device: names of the devices to use, separated by commas, or "cpu"; None leaves it to libllama.
        require_gpu: refuse to load without any layer on a device.
        check_memory: refuse to load what does not fit into free memory.
        threads: CPU threads; None takes the processors this process may use, or one for a tiny model.
        context_length: tokens that one sequence can hold.
        max_sequences: sequences at once, 256 at most; the key-value cache has room for all from the beginning (at 11B
            shapes 128 KiB a token with f16).
        ubatch: most tokens in one pass; None takes 128 on a CPU, where more gains nothing and keeps Ctrl-C waiting,
            and 512 on devices.
        repack: copy K-quants and others into the CPU's own layout, which takes their size in memory. On AVX-512, passes
            of four columns, and of sixteen and more, gain by it, and round sums differently: what is written
            beside an answer may then change its text.
        kv_type: "f16" or "f32" for both key-value caches; None keeps f32 weights at f32 and takes f16 otherwise.

    Raises:
        UsageError: a value is out of range.
    """

    gpu_layers: GpuLayers = 0
    threads: int | None = None
    context_length: int = 4096
    max_sequences: int = 1
    ubatch: int | None = None
    kv_type: str | None = None
    repack: bool = False
    device: str | None = None
    require_gpu: bool = False
    check_memory: bool = True

    def __post_init__(self) -> None:
        if self.kv_type is not None and self.kv_type not in KV_TYPES:
            raise UsageError(f"unknown key-value type {self.kv_type}; known: {', '.join(KV_TYPES)}")
        for name in ("context_length", "max_sequences", "ubatch", "threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < 2**31:
                raise UsageError(f"{name} must be at least 1 and below 2**31, not {value}")
        if self.max_sequences > MAX_SEQUENCES:
            raise UsageError(f"max_sequences must be at most {MAX_SEQUENCES}, not {self.max_sequences}")
        if not self.context_length * self.max_sequences < 2**31:
            raise UsageError(
                "context_length times max_sequences must be below 2**31, not "
                f"{self.context_length} times {self.max_sequences}"
            )
        self.choice  # noqa: B018  # the class checks the values

    @property
    def choice(self) -> Choice:
        """What of this is about devices."""
        return Choice(self.gpu_layers, self.device, self.require_gpu, self.check_memory)

    @property
    def demand(self) -> Demand:
        """What of this takes memory."""
        return Demand(self.context_length, self.max_sequences, self.ubatch, self.kv_type, self.repack, self.threads)
