"""Align a flatbuffer with the taps: which tensor of which subgraph is `block.3.attn.q`.

In: a subgraph and the model's dimensions. Out: a `TapSource` per tap, and why the others are missing.

Nothing is typed per model. A fully connected operator is known by the name of its weight, which is
the module path of the re-authored model; everything else follows from how it is wired to those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.align.layout import HeadLayout, split_heads
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature, Subgraph
from harness.taps import EMBED, FINAL_NORM, LOGITS, block_tap, tap_order

_BLOCK = "TransformerBlock_"
SDPA = "odml.scaled_dot_product_attention"
FUSED = f"inside the composite {SDPA}, which the delegate runs as one kernel"

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TapSource:
    """Where a tap is in a signature.

    view: how `[1, time, ...]` is made of the tensor; see `view_tensor`.
    subgraph: that of a composite when the tensor lies inside one, else the signature's own.
    name: the tensor's name in the file; op: the kind of the operator that writes it.
    """

    tap: str
    tensor: int
    subgraph: int
    view: str
    name: str
    op: str
    inner: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class SignaturePlan:
    signature: str
    sources: dict[str, TapSource]
    missing: dict[str, str]


def plan_signature(
    model: FlatbufferModel, signature: Signature, layout: HeadLayout, blocks: int, points: tuple[str, ...]
) -> SignaturePlan:
    """Find every tap of `tap_order(blocks, points)` in one signature."""
    finder = _Finder(model, signature, layout)
    sources = {source.tap: source for source in finder.find(blocks)}
    wanted = tap_order(blocks, points)
    missing = {tap: finder.why.get(tap, "no such tensor in this signature") for tap in wanted if tap not in sources}
    return SignaturePlan(signature.name, {tap: sources[tap] for tap in wanted if tap in sources}, missing)


class _Finder:
    """One pass over a signature's subgraph. `why` says for taps that were not found what is in the way."""

    def __init__(self, model: FlatbufferModel, signature: Signature, layout: HeadLayout) -> None:
        self.model = model
        self.signature = signature
        self.layout = layout
        self.graph: Subgraph = model.subgraph(signature.subgraph)
        self.writer = self.graph.producers()
        self.readers = self.graph.consumers()
        self.dense = self._dense_by_weight()
        self.why: dict[str, str] = {}

    def _dense_by_weight(self) -> dict[tuple[int | None, str], Operator]:
        """(block, attribute) of the weight -> its fully connected operator, e.g. (3, "qkv_projection")."""
        found: dict[tuple[int | None, str], Operator] = {}
        for op in self.graph.operators:
            if op.kind != "FULLY_CONNECTED":
                continue
            weight, output = self.graph.tensors[op.inputs[1]], self.graph.tensors[op.outputs[0]]
            # A weight that is shared or permuted carries further locations; the first linear layer is its own.
            keys = (_weight_key(path) for path in [*weight.paths, *output.paths])
            key = next((key for key in keys if key is not None), None)
            if key is not None and key not in found:
                found[key] = op
        return found

    def find(self, blocks: int) -> Iterator[TapSource]:
        for block in range(blocks):
            yield from self._attention_inputs(block)
            yield from self._cache(block)
            yield from self._attention_core(block)
            yield from self._mlp(block)
        yield from self._ends()

    def _attention_inputs(self, block: int) -> Iterator[TapSource]:
        qkv = self.dense.get((block, "qkv_projection"))
        if qkv is None:
            return
        yield self._source(block_tap(block, "attn.norm"), qkv.inputs[0])
        for part in ("q", "k", "v"):
            yield self._source(block_tap(block, f"attn.{part}"), qkv.outputs[0], view=f"split_{part}")

    def _cache(self, block: int) -> Iterator[TapSource]:
        for part in ("k", "v"):
            index = self.signature.outputs.get(f"kv_cache_{part}_{block}")
            if index is None:
                continue
            yield self._source(block_tap(block, f"cache.{part}"), index, view="cache")
            update = self.writer.get(index)
            if part == "k" and update is not None and update.kind == "DYNAMIC_UPDATE_SLICE":
                yield self._source(block_tap(block, "attn.k_rope"), update.inputs[1], view="heads")

    def _attention_core(self, block: int) -> Iterator[TapSource]:
        cache = self.signature.outputs.get(f"kv_cache_k_{block}")
        readers = self.readers.get(cache, []) if cache is not None else []
        attention = next((op for op in readers if op.composite == SDPA), None)
        if attention is None:
            for point in ("attn.q_rope", "attn.probs"):
                self.why[block_tap(block, point)] = f"the attention of this signature is no {SDPA} composite"
        else:
            yield self._source(block_tap(block, "attn.q_rope"), attention.inputs[0], view="heads")
            yield from self._probabilities(block, attention)
        projection = self.dense.get((block, "output_projection"))
        if projection is not None:
            yield self._source(block_tap(block, "attn.context"), projection.inputs[0])
            yield self._source(block_tap(block, "attn.out"), projection.outputs[0])

    def _probabilities(self, block: int, attention: Operator) -> Iterator[TapSource]:
        assert attention.decomposition is not None
        inside = self.model.subgraph(attention.decomposition)
        softmax = [op for op in inside.operators if op.kind == "SOFTMAX"]
        if len(softmax) != 1:
            self.why[block_tap(block, "attn.probs")] = f"{len(softmax)} SOFTMAX operators inside {SDPA}"
            return
        tensor = inside.tensors[softmax[0].outputs[0]]
        yield TapSource(
            block_tap(block, "attn.probs"), tensor.index, inside.index, "probs", tensor.name, "SOFTMAX", inner=True
        )

    def _mlp(self, block: int) -> Iterator[TapSource]:
        gate, up, down = (self.dense.get((block, name)) for name in ("w1", "w3", "w2"))
        if gate is not None:
            yield self._source(block_tap(block, "mlp.norm"), gate.inputs[0])
            yield self._source(block_tap(block, "mlp.gate" if up is not None else "mlp.up"), gate.outputs[0])
        if up is not None:
            yield self._source(block_tap(block, "mlp.up"), up.outputs[0])
        if down is not None:
            yield self._source(block_tap(block, "mlp.act"), down.inputs[0])
            yield self._source(block_tap(block, "mlp.out"), down.outputs[0])
        adds = self._residual_adds(block)
        if adds:
            yield self._source(block_tap(block, "residual"), adds[0].outputs[0])
        if len(adds) > 1:
            yield self._source(block_tap(block, "out"), adds[-1].outputs[0])
        if block == 0 and adds:
            carried = self._block_input(adds[0])
            if carried is not None:
                yield self._source(EMBED, carried)

    def _residual_adds(self, block: int) -> list[Operator]:
        """The ADD operators that belong to the block itself and to no module inside it, in order."""
        leaf = f"{_BLOCK}{block}"
        return [
            op
            for op in self.graph.operators
            if op.kind == "ADD" and self.graph.tensors[op.outputs[0]].path[-1:] == (leaf,)
        ]

    def _block_input(self, residual: Operator) -> int | None:
        """The operand of the first residual ADD that is not the attention's output."""
        for index in residual.inputs:
            if not any(part.startswith(_BLOCK) for part in self.graph.tensors[index].path):
                return index
        return None

    def _ends(self) -> Iterator[TapSource]:
        logits = self.signature.outputs.get("logits")
        if logits is None:
            self.why[LOGITS] = self.why[FINAL_NORM] = "this signature gives no logits"
            return
        yield self._source(LOGITS, logits)
        head = self.writer.get(logits)
        while head is not None and head.kind != "FULLY_CONNECTED":  # a softcap may stand behind the head
            head = next((self.writer[i] for i in head.inputs if i in self.writer), None)
        if head is not None:
            yield self._source(FINAL_NORM, head.inputs[0])

    def _source(self, tap: str, index: int, view: str = "plain") -> TapSource:
        tensor = self.graph.tensors[index]
        writer = self.writer.get(index)
        return TapSource(tap, index, self.graph.index, view, tensor.name, writer.kind if writer else "input")


def _weight_key(path: tuple[str, ...]) -> tuple[int | None, str] | None:
    """`(..., "TransformerBlock_3", ..., "Linear_w2")` -> `(3, "w2")`; None for anything but a linear layer."""
    if not path or not path[-1].startswith("Linear_"):
        return None
    blocks = [part for part in path if part.startswith(_BLOCK)]
    block = int(blocks[0].removeprefix(_BLOCK)) if blocks else None
    return block, path[-1].removeprefix("Linear_")


def view_tensor(values: Array, view: str, layout: HeadLayout) -> Array:
    """A tensor of a signature as a tap, `[1, time, ...]`.

    plain: as it is. heads: `[1, time, heads, head_dim]` as it is. split_q|k|v: a part of a fused
    projection. probs: `[1, heads, time, source]` with the first two axes swapped. cache: `[1, cache
    length, kv_heads, head_dim]`, of which the caller takes the positions that were written.
    """
    if view.startswith("split_"):
        return split_heads(values, view.removeprefix("split_"), layout)  # type: ignore[no-any-return]
    if view == "probs":
        return values.transpose(0, 2, 1, 3)
    return values
