"""The eval callback that puts the cross-attention layers into libllama's graph.

libllama evaluates the self-attention layers. When it has computed ``l_out-N``, N being the last self-attention layer
before a cross-attention layer, the hook runs that layer on the tensor and writes the result back in place; everything
after reads it from there. Knows graphs and columns, not tokens: the engine announces each decode with ``expect``.

``llama_decode`` cannot tell that a callback failed, so the hook keeps what went wrong and the engine asks for it with
``check`` after every decode.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cotcli.errors import CotcliError
from cotcli.mllama.cross_attention import QUERY_CHUNK, ColumnGroup, CrossAttentionLayer
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml, ggml_backend, interrupt
from cotcli.native.ggml_backend import Device

# A decode of this many tokens takes long enough that Ctrl-C should be looked for between its nodes.
_LONG_DECODE = 32
_MAX_CACHED_GRAPHS = 256


@dataclass(frozen=True)
class _CachedGraph:
    arena: ggml.Arena
    inputs: ggml.Arena
    staging: ggml_backend.Buffer | None
    alias: ggml.Tensor
    hidden: ggml.Tensor
    graph: int
    images: tuple[object, ...]

    def close(self) -> None:
        if self.staging is not None:
            self.staging.close()
        self.arena.close()
        self.inputs.close()


class CrossAttentionHook:
    """Holds the cross-attention layers and applies them during ``llama_decode``.

    Args:
        file: the mmproj file.
        backend_of: our backend on a device, made at the first call for it.
        n_reused: libllama's count of graphs taken over from the pass before.
    """

    def __init__(
        self,
        file: WeightFile,
        backend_of: Callable[[Device], ggml_backend.Backend],
        n_reused: Callable[[], int],
    ) -> None:
        self._file, self._backend_of, self._n_reused = file, backend_of, n_reused
        text = file.hparams.text
        self._layer_after: dict[bytes, list[int]] = {}  # neighbours share a node: one hook runs them in order
        for index in text.cross_attention_layers:
            self._layer_after.setdefault(f"l_out-{text.hooked_layer(index)}".encode(), []).append(index)
        self._layers: dict[int, CrossAttentionLayer] = {}
        self._graphs: dict[tuple[object, ...], _CachedGraph] = {}
        self._allocators: dict[Device, ggml_backend.GraphAllocator] = {}
        self._nodes: dict[int, bytes] = {}
        self._reused_before = -1
        self._fresh_pass = True
        self._known_nodes = False
        self._is_quick = False  # nothing to look for but the known nodes
        self._columns: Sequence[ColumnGroup] = ()
        self._output_columns: Sequence[int] = ()
        self._n_columns = 0
        self._runs: dict[bytes, int] = {}
        self._failure: BaseException | None = None

    @property
    def layers(self) -> list[CrossAttentionLayer]:
        """The layers, in order; their devices are known once a first decode has passed."""
        return [self._layers[index] for index in self._file.hparams.text.cross_attention_layers]

    def expect(self, columns: Sequence[ColumnGroup], n_columns: int, output_columns: Sequence[int]) -> None:
        """Says what the next decode is.

        Args:
            columns: its groups, in order. Columns between and after them belong to sequences without an image and are
                left as they are.
            n_columns: tokens in the batch.
            output_columns: tokens whose logits are wanted; the last layer's output has these columns alone.
        """
        self._columns, self._n_columns, self._output_columns = columns, n_columns, output_columns
        self._runs = dict.fromkeys(self._layer_after, 0)
        self._failure = None
        self._fresh_pass = True
        self._is_quick = False

    def check(self) -> None:
        """Raises what went wrong in the decode just done, be it an exception in the hook or a hook that did not run."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        missed = [name.decode() for name, runs in self._runs.items() if runs != 1]
        if missed:
            self._nodes.clear()
            raise CotcliError(f"llama.cpp did not evaluate {', '.join(missed)} once: its graph is not the expected one")

    def on_node(self, node: int, ask: bool, _: object = None) -> bool:
        """``ggml_backend_sched_eval_callback``; never raises. Called for each of a thousand nodes and more."""
        if self._is_quick and node not in self._nodes:
            return False
        try:
            if self._failure is not None:
                return ask  # want every node and refuse the next: ends the evaluation at once
            if interrupt.requested():
                raise KeyboardInterrupt
            if self._fresh_pass:
                self._begin_pass()
            name = self._nodes.get(node) if self._known_nodes else self._look_up(node)
            if name is None:
                return self._n_columns >= _LONG_DECODE
            if not ask:
                self._apply(name, node)
            return True
        except BaseException as error:
            self._failure = error
            self._known_nodes = self._is_quick = False
            self._nodes.clear()
            return ask

    def drop_image(self, image: object) -> None:
        """Forgets the graphs that read the keys and values of an image that is freed."""
        for key in [key for key, cached in self._graphs.items() if any(i is image for i in cached.images)]:
            self._graphs.pop(key).close()

    def close(self) -> None:
        self._forget_graphs()
        for allocator in self._allocators.values():
            allocator.close()
        self._allocators.clear()
        for layer in self._layers.values():
            layer.close()
        self._layers.clear()

    # -- which node is it -----------------------------------------------------------------------------------------

    def _begin_pass(self) -> None:
        """Addresses of nodes hold as long as libllama goes on with the same graph, which ``n_reused`` tells."""
        self._fresh_pass = False
        reused = self._n_reused()
        self._known_nodes = len(self._nodes) == len(self._layer_after) and reused == self._reused_before + 1
        self._reused_before = reused
        if not self._known_nodes:
            self._nodes.clear()
        self._is_quick = self._known_nodes and self._n_columns < _LONG_DECODE

    def _look_up(self, node: int) -> bytes | None:
        name: bytes = ggml.get_name(node)
        if name in self._layer_after:
            self._nodes[node] = name
            return name
        return None

    # -- what is done there ---------------------------------------------------------------------------------------

    def _apply(self, name: bytes, node: int) -> None:
        self._runs[name] += 1
        groups = self._columns
        t = ggml.fields(node)
        n_columns = int(t.ne[1])
        if n_columns != self._n_columns:
            if n_columns != len(self._output_columns):
                raise CotcliError(f"{name.decode()} has {n_columns} columns, expected {self._n_columns}")
            groups = _select(groups, self._output_columns)
        device = ggml_backend.device_of(node)
        for index in self._layer_after[name]:
            layer = self._layers.get(index)
            if layer is None:
                # The first decode is a single token: where its hidden state lives is where the layer belongs.
                layer = self._layers[index] = CrossAttentionLayer(self._file, index, self._backend_of(device))
            if groups:
                cached = self._graph(layer, node, device, groups)
                if cached.hidden != cached.alias:
                    ggml_backend.tensor_copy(cached.alias, cached.hidden)
                layer.backend.compute(cached.graph)
                if cached.hidden != cached.alias:
                    ggml_backend.tensor_copy(cached.hidden, cached.alias)

    def _graph(
        self, layer: CrossAttentionLayer, node: int, device: Device, groups: Sequence[ColumnGroup]
    ) -> _CachedGraph:
        t = ggml.fields(node)
        buffer = ggml.fields(t.view_src).buffer if t.view_src else t.buffer
        shape = tuple((g.start, g.count, id(g.image), g.sees_image) for g in groups)
        key = (layer.index, buffer, t.data, shape)
        cached = self._graphs.get(key)
        if cached is None:
            if len(self._graphs) >= _MAX_CACHED_GRAPHS:
                self._forget_graphs()
            cached = self._build(layer, buffer, t.data, device, groups)
            self._graphs[key] = cached
        return cached

    def _build(
        self, layer: CrossAttentionLayer, buffer: int, address: int, device: Device, groups: Sequence[ColumnGroup]
    ) -> _CachedGraph:
        columns, spans = groups[-1].end, _spans(groups)
        n_nodes = 33 * len(spans) + 20 * sum(-(-group.count // QUERY_CHUNK) for group in groups)
        inputs, arena = ggml.Arena(2), ggml.Arena(n_nodes, n_nodes)
        staging = None
        allocator = self._allocators.get(layer.backend.device)
        if allocator is None:
            allocator = self._allocators[layer.backend.device] = ggml_backend.GraphAllocator(layer.backend)
        size = allocator.size
        try:
            alias = hidden = inputs.tensor(ggml.F32, layer.hparams.hidden_size, columns)
            ggml_backend.place(buffer, alias, address)
            if device != layer.backend.device:
                hidden = inputs.tensor(ggml.F32, layer.hparams.hidden_size, columns)
                staging = layer.backend.allocate(inputs)
            graph = arena.graph(*(_update(arena, layer, hidden, span) for span in spans))
            allocator.allocate(graph)
        except BaseException:
            if staging is not None:
                staging.close()
            arena.close()
            inputs.close()
            raise
        finally:
            if allocator.size != size:
                self._forget_graphs()  # the scratch memory has moved or is gone, and they point into the old one
        return _CachedGraph(arena, inputs, staging, alias, hidden, graph, tuple(group.image for group in groups))

    def _forget_graphs(self) -> None:
        for cached in self._graphs.values():
            cached.close()
        self._graphs.clear()


def _update(
    arena: ggml.Arena, layer: CrossAttentionLayer, hidden: ggml.Tensor, span: Sequence[ColumnGroup]
) -> ggml.Tensor:
    """The node that updates the columns of a span in ``hidden`` (hidden_size, columns)."""
    start, width = span[0].start, layer.hparams.hidden_size
    columns = arena.view(hidden, (width, span[-1].end - start), offset=start * width * 4)
    return layer.update(arena, columns, [replace(group, start=group.start - start) for group in span])


def _select(groups: Sequence[ColumnGroup], columns: Sequence[int]) -> list[ColumnGroup]:
    """The groups as they are when only ``columns``, ascending, are left."""

    def place(group: ColumnGroup) -> ColumnGroup:
        start, end = bisect_left(columns, group.start), bisect_left(columns, group.end)
        return replace(group, start=start, count=end - start)

    return [group for group in map(place, groups) if group.count]


def _spans(groups: Sequence[ColumnGroup]) -> list[list[ColumnGroup]]:
    """Neighbours without a gap that all see their image, or that all do not."""
    spans: list[list[ColumnGroup]] = []
    for group in groups:
        if spans and spans[-1][-1].end == group.start and spans[-1][-1].sees_image == group.sees_image:
            spans[-1].append(group)
        else:
            spans.append([group])
    return spans
