"""What a file computes on the inputs of traces from elsewhere, under the names that those traces have for it.

In: a flatbuffer of any model, and traced inputs. Out: `Traces`. A tap is an output by its name, a tensor by its name,
or, of a language model that the Generative API converted, what `harness/align/flatbuffer.py` finds with no declaration.
What float32 costs at a tap comes of the operators' definitions in float64.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.flatbuffer import plan_signature
from harness.align.layout import HeadLayout
from harness.align.views import TapSource, view_tensor
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Signature
from harness.inputs.tokens import TokenInput, check_vocabulary
from harness.inspection.contents import Graphs
from harness.names.stages import BUILTIN, XNNPACK
from harness.names.taps import BLOCK_POINTS, LOGITS, block_tap, split_tap
from harness.pairs.compare import FileOptions, checked_file, named
from harness.pairs.feeding import Feed, Pair, cache_layout, chains, token_feeds
from harness.pairs.floor import in_float64
from harness.pairs.folders import Floor, TracedInput, Traces, of_time
from harness.pairs.inputs import looked_up
from harness.pairs.running import Side, is_narrow, run_chain
from harness.processes.scheduler import Watcher
from harness.stages.litert.stage import CACHE

Array = np.ndarray[Any, Any]
_PARTS = ("split_q", "split_k", "split_v")
_NAMED = "named"  # the view of a tensor that is a tap as it is


class NotRunError(Exception):
    """The file could not be run: what became of it."""


Taps = dict[str, Array]


@dataclass
class _Computed:
    """Of one input. taps: on builtin kernels. shipped: on XNNPACK, those that are outputs. exact: in float64, as far as
    that is known."""

    taps: Taps
    shipped: Taps
    exact: Taps


def file_traces(path: Path, wanted: Traces, options: FileOptions, watcher: Watcher) -> tuple[Traces, Traces]:
    """What the file computes at the taps of `wanted`, on builtin kernels and, of its outputs, on XNNPACK.

    Raises UsageError for an input that the file cannot be given, and NotRunError.
    """
    model = checked_file(path)
    narrow = is_narrow(model)
    found: dict[str, _Computed] = {}
    for item in wanted.inputs.values():
        feeds = _feeds(model, item, wanted, options)
        with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
            sides, lost = run_chain({"": model}, feeds, Path(name), watcher, options.timeout)
            if lost:
                raise NotRunError("; ".join(f"{path} on {stage}: {what}" for stage, what in lost.items()))
            found[item.id] = _computed(item, feeds, sides[""], narrow)

    def floor(item: str, tap: str, shape: tuple[int, ...]) -> Floor | None:
        exact = found[item].exact.get(tap)
        return (exact, [found[item].taps[tap]]) if exact is not None and exact.shape == shape else None

    inputs = {item.id: replace(item, taps=found[item.id].taps) for item in wanted.inputs.values()}
    shipped = {item.id: replace(item, taps=found[item.id].shipped) for item in wanted.inputs.values()}
    plain = Traces(str(path), inputs, floor, narrow=narrow, counted_in="float64")
    return plain, replace(plain, inputs=shipped)


def _feeds(model: FlatbufferModel, item: TracedInput, wanted: Traces, options: FileOptions) -> list[Feed]:
    """The runs of signatures that take an input through the file."""
    known = Graphs(model).signatures
    if item.tokens:
        pairs: list[Pair] = [(entry,) for entry in known.values()]
        text = [entry for entry in known.values() if "tokens" in entry.inputs]
        for entry in text[:1]:
            vocabulary = looked_up(model.subgraph(entry.subgraph), entry.inputs["tokens"])
            check_vocabulary(item.tokens, vocabulary, f"input {item.id} of {wanted.name}")
        silent = [entry for entry in text if LOGITS not in entry.outputs]
        tail = len(item.tokens) if silent and LOGITS in item.taps else 0
        return token_feeds(model, pairs, TokenInput(item.id, tuple(item.tokens), decode_tail=tail), f"input {item.id}")
    arrays = item.arrays or options.inputs
    if arrays is None:
        raise UsageError(
            f"input {item.id} of {wanted.name} tells neither 'tokens' nor 'arrays', so {model.path} cannot be run on "
            "it; add them to its manifest.json, or give --inputs FILE.npz. docs/traces.md has the format"
        )
    name = item.signature or (next(iter(known)) if len(known) == 1 else "")
    if name not in known:
        raise UsageError(
            f"input {item.id} of {wanted.name} is for signature '{name}', and {model.path} has {named(known)}; name "
            "one as its 'signature' in manifest.json"
        )
    return [feed for chain in chains(model, [(known[name],)], arrays, options.seed) for feed in chain]


def _computed(item: TracedInput, feeds: Sequence[Feed], sides: Sequence[Side], narrow: bool) -> _Computed:
    rows: tuple[dict[str, list[Array]], ...] = ({}, {}, {})
    before: dict[str, Array] = {}
    for feed, side in zip(feeds, sides, strict=True):
        signature, exact = side.signature, dict[int, Array]()
        held = side.inputs() | side.tensors() | _by_tensor(signature, side.outputs(BUILTIN))
        if not narrow:
            # What float64 hands on itself: the cache of the float32 run has the errors of the steps before.
            given = side.inputs() | _by_tensor(signature, before, signature.inputs)
            exact, _ = in_float64(side.model, signature.subgraph, given, held)
            before = {
                name: exact[signature.outputs[name]] for name in _carried(feeds) if _given(signature, name, exact)
            }
        places = _Places(side.model, signature)
        for tap in item.taps:
            source = places.of(tap)
            for values, kept in zip((held, _by_tensor(signature, side.outputs(XNNPACK)), exact), rows, strict=True):
                if source is not None and source.tensor in values:
                    made = _as_tap(values[source.tensor], source, places, feed, item)
                    kept.setdefault(tap, []).append(made)
    return _Computed(*({tap: _joined(tap, each, feeds, item) for tap, each in kept.items()} for kept in rows))


def _by_tensor(
    signature: Signature, values: Mapping[str, Array], names: Mapping[str, int] | None = None
) -> dict[int, Array]:
    """names: of the signature's inputs; of its outputs without."""
    return {(signature.outputs if names is None else names)[name]: array for name, array in values.items()}


def _carried(feeds: Sequence[Feed]) -> tuple[str, ...]:
    return feeds[-1].carried


def _given(signature: Signature, name: str, values: Mapping[int, Array]) -> bool:
    return signature.outputs.get(name) in values


def _joined(tap: str, rows: Sequence[Array], feeds: Sequence[Feed], item: TracedInput) -> Array:
    """One array of all steps. A KV cache is what it is after the last one."""
    if feeds[-1].step is None:
        return of_time(rows[-1])
    if _is_cache(tap):
        return of_time(rows[-1][:, : len(item.tokens)])
    return of_time(np.concatenate(rows, 1))


def _is_cache(tap: str) -> bool:
    return split_tap(tap)[1].startswith("cache.") or tap.startswith(CACHE)


def _as_tap(values: Array, source: TapSource, places: _Places, feed: Feed, item: TracedInput) -> Array:
    """`[1, time, ...]` of the tokens that count; of what takes no text, the tensor as it is."""
    if feed.step is None or (_is_cache(source.tap) and source.view == _NAMED):
        return values
    rows = values if source.view == _NAMED else _viewed(values, source, places, feed, item)
    if _is_cache(source.tap):
        return rows
    if source.view == "probs":
        rows = rows[..., : len(item.tokens)]
    return rows[:, : feed.step.valid] if rows.ndim > 1 else rows


def _viewed(values: Array, source: TapSource, places: _Places, feed: Feed, item: TracedInput) -> Array:
    """A view of a tensor. How a fused projection lies is not in the file: the one of two orders that is nearer to the
    other side's numbers."""
    assert feed.step is not None
    layouts = [replace(places.layout, interleaved=way) for way in (True, False)]
    both = [view_tensor(values, source, layout, places.kv_layout) for layout in layouts]
    if source.view not in _PARTS:
        return both[0]
    theirs = np.asarray(item.taps[source.tap])[feed.step.start : feed.step.start + feed.step.valid]
    if both[0].shape[2:] != theirs.shape[1:]:
        return both[0]
    return min(both, key=lambda one: float(np.square(one[0, : len(theirs)] - theirs).sum()))


class _Places:
    """Where the taps of a signature are: as the alignment says, else an output or a tensor of that name."""

    def __init__(self, model: FlatbufferModel, signature: Signature) -> None:
        self.signature = signature
        self.graph = model.subgraph(signature.subgraph)
        blocks = sum(name.startswith(f"{CACHE}k_") for name in signature.inputs)
        self._planned = plan_signature(model, signature, blocks, BLOCK_POINTS).sources if blocks else {}
        self.kv_layout = cache_layout(model, signature) if blocks else "default"
        self._named: dict[str, list[int]] = {}
        for tensor in self.graph.tensors:
            self._named.setdefault(tensor.name, []).append(tensor.index)

    def of(self, tap: str) -> TapSource | None:
        planned = self._planned.get(tap)
        if planned is not None and not planned.inner:
            return planned
        if tap in self.signature.outputs:
            return self._called(tap, self.signature.outputs[tap])
        places = self._named.get(tap, [])
        return self._called(tap, places[0]) if len(places) == 1 else None

    def _called(self, tap: str, tensor: int) -> TapSource:
        return TapSource(tap, tensor, self.graph.index, _NAMED, tap, "")

    @cached_property
    def layout(self) -> HeadLayout:
        """The heads of a language model, by its KV cache and the width of its attention."""
        shape = self.graph.tensors[self.signature.inputs[f"{CACHE}v_0"]].shape
        kv_heads, width = (shape[2], shape[3]) if self.kv_layout == "default" else (shape[1], shape[2])
        context = self._planned.get(block_tap(0, "attn.context"))
        heads = self.graph.tensors[context.tensor].shape[-1] // width if context is not None else kv_heads
        return HeadLayout(heads, kv_heads, width)
