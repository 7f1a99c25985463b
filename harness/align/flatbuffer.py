"""Align a flatbuffer with the taps: which tensor of which subgraph is `block.3.attn.q`.

In: a subgraph and the model's dimensions. Out: a `TapSource` per tap, and why the others are missing.

Nothing is typed per model. A fully connected operator is known by the name of its weight, which is
the module path of the re-authored model, or of the Hugging Face model where that was exported itself; everything else
follows from how it is wired to those.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.align.keras_names import KerasNaming, is_scaled
from harness.align.naming import GENERATIVE, Key, Naming, block_number, told_apart
from harness.align.views import Move, TapSource
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature, Subgraph
from harness.flatbuffer.signatures import DECODE
from harness.names.coverage import ANCHORED, FOLDED_NORM, LAST_BLOCK, NO_PREFILL_LOGITS, OWN_BLOCKS, Absence, listed
from harness.names.taps import EMBED, FINAL_NORM, LOGITS, block_tap, split_tap, tap_order

_WRAPPED = re.compile(r"^[A-Za-z]\w*_module$")
_NORM = re.compile(r"^\w*Norm_")  # a module of a class such as LayerNorm
SDPA = "odml.scaled_dot_product_attention"
# What may stand between the operators of an attention that is not a composite.
_MOVES = ("RESHAPE", "TRANSPOSE")
_MASKS = "SELECT_V2"  # puts a number where a mask hides
_TO_SCORES = (*_MOVES, "ADD", "MUL", "DIV", "TANH", _MASKS)


@dataclass(frozen=True)
class SignaturePlan:
    """The taps of one signature, in execution order."""

    signature: str  # its name
    sources: dict[str, TapSource]  # tap -> where it is
    missing: dict[str, Absence]  # tap -> why it is nowhere


def plan_signature(
    model: FlatbufferModel,
    signature: Signature,
    blocks: int,
    points: tuple[str, ...],
    own_blocks: bool = False,
    hf: Naming | None = None,
    keras: KerasNaming | None = None,
) -> SignaturePlan:
    """Find every tap of `tap_order(blocks, points)` in one signature.

    own_blocks: the re-authored model is not built of the Generative API's blocks: its names of tensors inside a block
    say nothing. hf: names of a file that was exported from the Hugging Face model itself. keras: of one that was
    converted of a Keras model.
    """
    finder = _Finder(model, signature, hf, keras)
    sources = {source.tap: source for source in finder.find(blocks)}
    wanted = tap_order(blocks, points)
    if own_blocks and finder.naming is GENERATIVE:
        finder.why |= {tap: listed(OWN_BLOCKS) for tap in wanted if split_tap(tap)[1] not in ANCHORED}
        sources = {tap: source for tap, source in sources.items() if tap not in finder.why}
    if LOGITS not in signature.outputs and signature.name != DECODE:
        unread = {block_tap(blocks - 1, point): listed(NO_PREFILL_LOGITS) for point in LAST_BLOCK}
        finder.why = unread | finder.why
    nowhere = Absence(f"no such tensor in signature {signature.name}")
    missing = {tap: finder.why.get(tap, nowhere) for tap in wanted if tap not in sources}
    return SignaturePlan(signature.name, {tap: sources[tap] for tap in wanted if tap in sources}, missing)


class _Finder:
    """One pass over a signature's subgraph. `why` says for taps that were not found what is in the way."""

    def __init__(
        self, model: FlatbufferModel, signature: Signature, hf: Naming | None, keras: KerasNaming | None
    ) -> None:
        self.model = model
        self.signature = signature
        self.graph: Subgraph = model.subgraph(signature.subgraph)
        self.writer = self.graph.producers()
        self.readers = self.graph.consumers()
        self.naming: Naming | KerasNaming = keras or GENERATIVE
        self.dense = self._dense_by_weight()
        if not self.dense and keras is None and hf is not None and not self._is_generative():
            self.naming = hf
            self.dense = self._dense_by_weight()
        self.why: dict[str, Absence] = {}

    def _is_generative(self) -> bool:
        """Whether the Generative API converted it: it wraps the model as its attribute `module`."""
        return any(_WRAPPED.search(part) for tensor in self.graph.tensors for path in tensor.paths for part in path)

    def _dense_by_weight(self) -> dict[Key, Operator]:
        """(block, role) of the weight -> its fully connected operator, e.g. (3, "qkv")."""
        found: dict[Key, Operator] = {}
        dense = [op for op in self.graph.operators if op.kind == "FULLY_CONNECTED"]
        named = [self._layers_named(op) for op in dense]
        # A weight that is shared or permuted carries further locations. The Generative API's has its own first.
        first_is_right = self.naming is GENERATIVE or isinstance(self.naming, KerasNaming)
        keys = [layers[0] if layers else None for layers in named] if first_is_right else told_apart(named)
        for op, key in zip(dense, keys, strict=True):
            if key is not None and key not in found:
                found[key] = op
        return found

    def _layers_named(self, op: Operator) -> list[Key]:
        """The layers in the names of an operator's weight; where there is none, of its output."""
        for index in (op.inputs[1], op.outputs[0]):
            keys = [key for path in self.graph.tensors[index].paths if (key := self.naming.key(path)) is not None]
            if keys:
                return keys
        return []

    def find(self, blocks: int) -> Iterator[TapSource]:
        for block in range(blocks):
            yield from self._attention_inputs(block)
            yield from self._cache(block)
            yield from self._attention_core(block)
            yield from self._mlp(block)
        yield from self._ends()

    def _attention_inputs(self, block: int) -> Iterator[TapSource]:
        qkv = self.dense.get((block, "qkv"))
        parts = {part: self.dense.get((block, part)) for part in ("k", "v", "q")}
        reader = next((op for op in (qkv, *parts.values()) if op is not None), None)
        if reader is not None:
            yield from self._normed(block_tap(block, "attn.norm"), reader)
        for part, op in parts.items():
            if qkv is not None:
                yield self._source(block_tap(block, f"attn.{part}"), qkv.outputs[0], view=self.naming.qkv_view + part)
            elif op is not None:
                yield self._projected(block_tap(block, f"attn.{part}"), op.outputs[0])

    def _projected(self, tap: str, index: int) -> TapSource:
        source = self._source(tap, index, view="rows_of_heads")
        scaled = isinstance(self.naming, KerasNaming) and is_scaled(self.graph.tensors[index].name)
        return replace(source, scaled=scaled)

    def _cache(self, block: int) -> Iterator[TapSource]:
        for part in ("k", "v"):
            index = self.signature.outputs.get(f"kv_cache_{part}_{block}")
            if index is None:
                continue
            yield self._source(block_tap(block, f"cache.{part}"), index, view=f"cache_{part}")
            update = self.writer.get(index)
            if part == "k" and update is not None and update.kind == "DYNAMIC_UPDATE_SLICE":
                yield self._source(block_tap(block, "attn.k_rope"), update.inputs[1], view="cache_k")

    def _attention_core(self, block: int) -> Iterator[TapSource]:
        cache = self.signature.outputs.get(f"kv_cache_k_{block}")
        readers = self.readers.get(cache, []) if cache is not None else []
        attention = next((op for op in readers if op.composite == SDPA), None)
        projection = self.dense.get((block, "o"))
        if attention is not None:
            yield self._source(block_tap(block, "attn.q_rope"), attention.inputs[0], view="heads")
            yield from self._probabilities(block, attention)
        elif projection is not None:
            yield from self._plain_attention(block, projection)
        if projection is not None:
            yield self._source(block_tap(block, "attn.context"), projection.inputs[0])
            yield self._source(block_tap(block, "attn.out"), projection.outputs[0])

    def _plain_attention(self, block: int, projection: Operator) -> Iterator[TapSource]:
        """Queries and probabilities of an attention without a composite, found upwards from its output projection."""
        mixing = self._upwards(projection.inputs[0], "BATCH_MATMUL", _MOVES)
        softmax = self._upwards(mixing.inputs[0], "SOFTMAX", (*_MOVES, _MASKS)) if mixing is not None else None
        scores = self._upwards(softmax.inputs[0], "BATCH_MATMUL", _TO_SCORES) if softmax is not None else None
        if softmax is None or scores is None:
            for point in ("attn.q_rope", "attn.probs"):
                self.why[block_tap(block, point)] = Absence(
                    f"the attention is neither {SDPA} nor SOFTMAX between two matmuls"
                )
            return
        queries, moves = self._before_moves(scores.inputs[0])
        yield self._source(block_tap(block, "attn.q_rope"), queries, view="heads_first", moves=moves)
        masked = next((op for op in self.readers.get(softmax.outputs[0], []) if op.kind == _MASKS), softmax)
        yield self._source(block_tap(block, "attn.probs"), masked.outputs[0], view="probs")

    def _upwards(self, index: int, kind: str, through: tuple[str, ...]) -> Operator | None:
        """The nearest operator of a kind that `index` is made by, looking through operators of other kinds."""
        op = self.writer.get(index)
        if op is None or op.kind == kind:
            return op
        if op.kind not in through:
            return None
        found = (self._upwards(item, kind, through) for item in op.inputs)
        return next((op for op in found if op is not None), None)

    def _before_moves(self, index: int) -> tuple[int, tuple[Move, ...]]:
        """The tensor that `index` is, but for its shape and a constant scale, and how its shape was changed."""
        moves: list[Move] = []
        while (op := self.writer.get(index)) is not None:
            if op.kind == "RESHAPE":
                moves.append(("reshape", self.graph.tensors[op.outputs[0]].shape))
            elif op.kind == "TRANSPOSE":
                order = self.model.integers(self.graph.tensors[op.inputs[1]])
                moves.append(("transpose", order))
            elif op.kind != "MUL" or not self._is_scalar(op.inputs[1]):
                break
            index = op.inputs[0]
        return index, tuple(reversed(moves))

    def _is_scalar(self, index: int) -> bool:
        return index not in self.writer and all(size == 1 for size in self.graph.tensors[index].shape)

    def _probabilities(self, block: int, attention: Operator) -> Iterator[TapSource]:
        assert attention.decomposition is not None
        inside = self.model.subgraph(attention.decomposition)
        softmax = [op for op in inside.operators if op.kind == "SOFTMAX"]
        if len(softmax) != 1:
            self.why[block_tap(block, "attn.probs")] = Absence(f"{len(softmax)} SOFTMAX operators inside {SDPA}")
            return
        tensor = inside.tensors[softmax[0].outputs[0]]
        yield TapSource(
            block_tap(block, "attn.probs"), tensor.index, inside.index, "probs", tensor.name, "SOFTMAX", inner=True
        )

    def _mlp(self, block: int) -> Iterator[TapSource]:
        gate, up, down = (self.dense.get((block, name)) for name in ("gate", "up", "down"))
        first = gate or self.dense.get((block, "gate_up")) or up
        if first is not None:
            yield from self._normed(block_tap(block, "mlp.norm"), first)
            yield from self._gate_and_up(block, first, up if gate is not None else None)
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

    def _gate_and_up(self, block: int, gate: Operator, up: Operator | None) -> Iterator[TapSource]:
        """Two projections, one for both (twice as wide as what the down projection takes), or one without a gate."""
        down = self.dense.get((block, "down"))
        if up is not None:
            yield self._source(block_tap(block, "mlp.gate"), gate.outputs[0])
            yield self._source(block_tap(block, "mlp.up"), up.outputs[0])
        elif down is not None and self._width(gate.outputs[0]) == 2 * self._width(down.inputs[0]):
            yield self._source(block_tap(block, "mlp.gate"), gate.outputs[0], view="split_gate")
            yield self._source(block_tap(block, "mlp.up"), gate.outputs[0], view="split_up")
        else:
            yield self._source(block_tap(block, "mlp.up"), gate.outputs[0])

    def _width(self, index: int) -> int:
        return self.graph.tensors[index].shape[-1]

    def _residual_adds(self, block: int) -> list[Operator]:
        """The ADD operators that belong to the block itself and to no module inside it, in order."""
        if isinstance(self.naming, KerasNaming):
            ends = (self.dense.get((block, role)) for role in ("o", "down"))
            read = (self.readers.get(op.outputs[0], []) for op in ends if op is not None)
            return [op for readers in read for op in readers if op.kind == "ADD"]
        return [
            op
            for op in self.graph.operators
            if op.kind == "ADD" and _is_block(self.graph.tensors[op.outputs[0]].path, block)
        ]

    def _block_input(self, residual: Operator) -> int | None:
        """The operand of the first block's first residual ADD that is not made by its attention."""
        projection = self.dense.get((0, "o"))
        if projection is None:
            return None
        made = self._made_by(projection)
        return next((index for index in residual.inputs if index not in made), None)

    def _made_by(self, op: Operator) -> set[int]:
        """Every tensor that depends on an operator; operators stand in execution order."""
        made = set(op.outputs)
        for later in self.graph.operators[op.index + 1 :]:
            if made.intersection(later.inputs):
                made.update(later.outputs)
        return made

    def _ends(self) -> Iterator[TapSource]:
        logits = self.signature.outputs.get("logits")
        if logits is None:
            prefill = self.signature.name != DECODE
            absent = listed(NO_PREFILL_LOGITS) if prefill else Absence("decode gives no logits")
            self.why[LOGITS] = self.why[FINAL_NORM] = absent
            return
        yield self._source(LOGITS, logits)
        head = self.writer.get(logits)
        while head is not None and head.kind != "FULLY_CONNECTED":  # a softcap may come after the head
            head = next((self.writer[i] for i in head.inputs if i in self.writer), None)
        if head is not None:
            yield from self._normed(FINAL_NORM, head)

    def _normed(self, tap: str, linear: Operator) -> Iterator[TapSource]:
        """A norm's output, which is what the linear layer after it reads, unless part of the norm went into the layer.

        Then the weight is a product, and the norm's module stands among its names.
        """
        leaves = [path[-1] for path in self.graph.tensors[linear.inputs[1]].paths if path]
        if any(_NORM.match(leaf) for leaf in leaves):
            self.why[tap] = listed(FOLDED_NORM)
        else:
            yield self._source(tap, linear.inputs[0])

    def _source(self, tap: str, index: int, view: str = "rows", moves: tuple[Move, ...] = ()) -> TapSource:
        tensor = self.graph.tensors[index]
        writer = self.writer.get(index)
        kind = writer.kind if writer else "input"
        return TapSource(tap, index, self.graph.index, view, tensor.name, kind, moves=moves)


def _is_block(path: tuple[str, ...], block: int) -> bool:
    """Whether a path is that of a block itself, and of no module inside it."""
    return block_number(path) == block and block_number(path[:-1]) is None
