"""What loading a model will take, from its two files and the options, before anything is loaded.

Knows sizes and where libllama and the hook put things; allocates nothing and decides nothing: that is `placement`'s.

Weights that the CPU uses as the file has them stay in the file, which is mapped: the system reads them in, and drops
them when it needs the memory. They count as ``mapped``; all the rest must be there, ``resident``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np

from cotcli.mllama import cross_attention
from cotcli.mllama.hparams import HParams
from cotcli.mllama.tensor_names import cross_attention_tensors
from cotcli.mllama.vision import on_cpu, on_device
from cotcli.mllama.weights import WeightFile
from cotcli.native import devices as native
from cotcli.native.cpu import available_threads
from cotcli.native.devices import DeviceInfo
from cotcli.native.ggml import block_size
from cotcli.native.gguf_header import TensorHeader, read_tensors

KV_BYTES = {"f16": 2, "f32": 4}
CPU_UBATCH, GPU_UBATCH = 128, 512
_ALIGNMENT = 256  # the largest of any backend; tensors lie at multiples of it
_N_CTX_STEP = 256  # libllama rounds the context up to it
_TOKEN_BYTES = 400  # of host memory for an entry of the vocabulary, its merge included; seen: 330 to 390


@dataclass(frozen=True)
class Demand:
    """What is asked of a model.

    Attributes:
        context_length: tokens that one sequence can hold.
        sequences: at once, each perhaps with an image of its own.
        ubatch: most tokens in one pass; None takes 128 on a CPU, where more gains nothing and keeps Ctrl-C waiting,
            and 512 on devices.
        kv_type: "f16" or "f32"; None keeps f32 weights at f32 and takes f16 otherwise.
        repack: copy weights into the CPU's own layout where there is one.
        threads: of the CPU that compute; None counts all.
    """

    context_length: int
    sequences: int = 1
    ubatch: int | None = None
    kv_type: str | None = None
    repack: bool = False
    threads: int | None = None

    @property
    def cells(self) -> int:
        """Places in the key-value cache that each sequence has."""
        return -(-self.context_length // _N_CTX_STEP) * _N_CTX_STEP

    def columns(self, gpu_layers: int) -> int:
        """Most tokens in one pass; there is room for one of each sequence."""
        ubatch = self.ubatch or (GPU_UBATCH if gpu_layers else CPU_UBATCH)
        return max(min(ubatch, self.context_length), self.sequences)


@dataclass(frozen=True)
class Amounts:
    """Bytes in one place. ``mapped`` is the share of the weights that stays in the file."""

    language: int = 0
    cross_attention: int = 0
    vision: int = 0
    vocabulary: int = 0
    kv_cache: int = 0
    images: int = 0
    compute: int = 0
    encoder: int = 0
    mapped: int = 0

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "mapped")

    @property
    def resident(self) -> int:
        return self.total - self.mapped

    def __add__(self, other: Amounts) -> Amounts:
        return Amounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class MemoryPlan:
    """What goes where.

    Attributes:
        gpu_layers: of ``all_layers``, which are the self-attention layers and the output matrix.
        host: in the host's memory, what integrated devices hold included.
        devices: on each device, in libllama's order.
        ubatch, kv_type: as they will be.
    """

    gpu_layers: int
    all_layers: int
    host: Amounts
    devices: tuple[tuple[DeviceInfo, Amounts], ...]
    ubatch: int
    kv_type: str
    cross_attention: tuple[str, ...]
    """The names of the devices of the cross-attention layers, in order."""

    @property
    def vision_device(self) -> str:
        """The name of the device that vision tower and projector are on: that of the last cross-attention layer."""
        return self.cross_attention[-1]


class Pair:
    """What the headers of a model's two files say.

    Args:
        tensors: of the language file.
        file: the mmproj file.
    """

    def __init__(self, tensors: Sequence[TensorHeader], file: WeightFile) -> None:
        self.hparams: HParams = file.hparams
        self.is_float32 = file.is_float32
        self._file = file
        self.n_layers = len(self.hparams.text.self_attention_layers)
        self.layers: list[list[TensorHeader]] = [[] for _ in range(self.n_layers)]
        self.input: list[TensorHeader] = []
        self.output: list[TensorHeader] = []
        for tensor in tensors:
            start, _, rest = tensor.name.partition(".")
            number = rest.partition(".")[0]
            if start == "blk" and number.isdecimal() and int(number) < self.n_layers:
                self.layers[int(number)].append(tensor)
            elif start.startswith("output"):
                self.output.append(tensor)
            else:
                self.input.append(tensor)

    @cached_property
    def n_bytes(self) -> int:
        """Of the weights of both files."""
        parts = [self.input, self.output, self.vision, *self.layers, *self.cross_attention.values()]
        return sum(tensor.n_bytes for part in parts for tensor in part)

    @cached_property
    def has_k_quants(self) -> bool:
        """Whether a self-attention layer is stored in one of ggml's types of 256 values a block."""
        return any(block_size(tensor.type) == 256 for layer in self.layers for tensor in layer)

    @cached_property
    def vision(self) -> list[TensorHeader]:
        return self._file.headers(on_device.placed_tensors(self.hparams))

    @cached_property
    def cross_attention(self) -> dict[int, list[TensorHeader]]:
        """By the layer's index in the checkpoint."""
        text = self.hparams.text
        return {
            index: self._file.headers(spec.gguf_name for spec in cross_attention_tensors(text, index))
            for index in text.cross_attention_layers
        }


def read_pair(language: Path, file: WeightFile) -> Pair:
    """The sizes of a pair of files.

    Raises:
        ModelError: the language file cannot be read.
    """
    return Pair(read_tensors(language), file)


def plan(pair: Pair, demand: Demand, devices: Sequence[DeviceInfo], gpu_layers: int) -> MemoryPlan:
    """What so many layers on devices will take.

    Args:
        devices: those that layers may go to, in libllama's order; without any, all stays on the CPU.
        gpu_layers: the output matrix and the self-attention layers, from the last on; -1 is all.
    """
    all_layers = pair.n_layers + 1
    if gpu_layers < 0 or gpu_layers > all_layers:
        gpu_layers = all_layers
    used = list(devices) if gpu_layers else []
    return _Planner(pair, demand, used, gpu_layers if used else 0).plan()


def split(devices: Sequence[DeviceInfo], gpu_layers: int, all_layers: int) -> list[DeviceInfo | None]:
    """The device of each layer, None for the CPU; by free memory, as llama.cpp's ``load_tensors`` splits them.

    In its single precision, too, which decides about layers at the border.
    """
    if not devices:
        return [None] * all_layers
    free = [device.free if device.known_memory else native.cpu().free for device in devices]
    sums = np.array(list(accumulate(np.array(free, np.float32))), np.float32)
    ends = sums / sums[-1]
    first = max(all_layers - gpu_layers, 0)
    shares = [np.float32(i) / np.float32(gpu_layers) for i in range(all_layers - first)]
    return [None] * first + [devices[int(np.searchsorted(ends, share, side="right"))] for share in shares]


class _Planner:
    def __init__(self, pair: Pair, demand: Demand, devices: list[DeviceInfo], gpu_layers: int) -> None:
        self.pair, self.demand, self.devices, self.gpu_layers = pair, demand, devices, gpu_layers
        self.all_layers = pair.n_layers + 1
        self.kv_type = demand.kv_type or ("f32" if pair.is_float32 else "f16")
        self.columns = demand.columns(gpu_layers)
        self.places = split(devices, gpu_layers, self.all_layers)
        text = pair.hparams.text
        self.cross_places = {i: self._output_place(text.hooked_layer(i)) for i in text.cross_attention_layers}
        self.is_mapped = all(device.loads_mapped for device in devices)
        # In front of the CPU's own layouts libllama prefers memory that the device can read.
        self.repacks = demand.repack and not any(device.host_buffers for device in devices)

    def _output_place(self, layer: int) -> DeviceInfo | None:
        """Where a layer's output lives. It has no weights of its own, so ggml's scheduler draws that of the last layer
        on the CPU to the device that takes it up."""
        return self.places[layer] or self.places[layer + 1]

    def plan(self) -> MemoryPlan:
        vision_place = list(self.cross_places.values())[-1]
        host = self._place(None, vision_place)
        placed = tuple((device, self._place(device, vision_place)) for device in self.devices)
        for device, amounts in placed:
            if device.host_memory:
                host += amounts
        cpu = native.cpu().name
        names = tuple(place.name if place else cpu for place in self.cross_places.values())
        return MemoryPlan(self.gpu_layers, self.all_layers, host, placed, self.columns, self.kv_type, names)

    def _place(self, place: DeviceInfo | None, vision_place: DeviceInfo | None) -> Amounts:
        hparams, pair = self.pair.hparams, self.pair
        layers = [i for i in range(pair.n_layers) if self.places[i] is place]
        has_output = self.places[-1] is place
        cross = [index for index, where in self.cross_places.items() if where is place]
        has_vision = vision_place is place
        tensors = [tensor for i in layers for tensor in pair.layers[i]] + (pair.output if has_output else [])
        inputs = [] if place else pair.input
        size, copied = self._sizes(place)
        language = sum(map(size, tensors)) + sum(map(size, inputs))
        language_copies = sum(map(copied, tensors)) + (0 if self.is_mapped else sum(map(size, inputs)))
        cross_weights = sum(size(tensor) for index in cross for tensor in pair.cross_attention[index])
        vision_weights = sum(map(size, pair.vision)) if has_vision else 0
        mapped = language - language_copies
        if place is None:
            mapped += cross_weights + vision_weights  # the mmproj file is always mapped
        encoder = 0
        if has_vision:
            threads = self.demand.threads or available_threads()
            encoder += on_device.working_memory(hparams) if place else on_cpu.working_memory(hparams, threads)
        elif place is None:  # the states, on their way from the tower to the layers
            encoder += 4 * hparams.text.hidden_size * hparams.vision.max_num_tiles * hparams.vision.num_patches
        kv_bytes = KV_BYTES[self.kv_type]
        cache_row = 2 * kv_bytes * hparams.text.num_key_value_heads * hparams.text.head_dim
        return Amounts(
            language=language,
            cross_attention=cross_weights,
            vision=vision_weights,
            vocabulary=0 if place else _TOKEN_BYTES * hparams.text.vocab_size,
            kv_cache=len(layers) * cache_row * self.demand.cells * self.demand.sequences,
            images=len(cross) * self.demand.sequences * cross_attention.image_memory(hparams, kv_bytes),
            compute=self._compute(place, bool(layers), has_output)
            + (cross_attention.working_memory(hparams, self.columns) if cross else 0),
            encoder=encoder,
            mapped=mapped,
        )

    def _sizes(self, place: DeviceInfo | None) -> tuple[Callable[[TensorHeader], int], Callable[[TensorHeader], int]]:
        """For one place, the bytes of a tensor, and those of them that are not in the mapped file."""
        known: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}

        def both(tensor: TensorHeader) -> tuple[int, int]:
            key = (tensor.type, tensor.ne)
            if key not in known:
                size = (
                    -(-(native.allocation(place.handle, *_flat(key)) if place else tensor.n_bytes) // _ALIGNMENT)
                    * _ALIGNMENT
                )
                if not self.is_mapped:
                    copied = True
                elif place:
                    copied = not place.from_file
                else:
                    copied = self.repacks and len(tensor.ne) == 2 and native.repacks(*_flat(key))
                known[key] = (size, size if copied else 0)
            return known[key]

        return lambda tensor: both(tensor)[0], lambda tensor: both(tensor)[1]

    def _compute(self, place: DeviceInfo | None, has_layers: bool, has_output: bool) -> int:
        """libllama's buffers for a graph: its largest moment is in attention, in an MLP, or at the logits."""
        if place and not (has_layers or has_output):
            return 0
        text = self.pair.hparams.text
        # Without flash attention, see Engine, all scores of a layer are held at once.
        hidden, with_scores = text.hidden_size, self.kv_type == "f32" or self.gpu_layers == 0
        cells = self.demand.cells
        mask = cells if with_scores else cells / 2
        inputs = mask + 2 * hidden + 16  # and positions, sequence ids
        values = inputs
        if has_layers:
            scores = text.num_attention_heads * cells if with_scores else 0
            keys_values = 2 * text.num_key_value_heads * text.head_dim
            values = max(inputs + scores + 3 * hidden + keys_values, inputs + 2 * hidden + 3 * text.intermediate_size)
        if has_output:
            values = max(values, text.vocab_size + 2 * hidden)
        # Logits come back to the host, a row for each sequence.
        outputs = 0 if place else self.demand.sequences * text.vocab_size
        sequences = self.demand.sequences
        columns = -(-self.columns // sequences) * sequences  # libllama takes equally many of each
        return int(4 * (columns * values + outputs))


def _flat(key: tuple[int, tuple[int, ...]]) -> tuple[int, ...]:
    return (key[0], *key[1])
