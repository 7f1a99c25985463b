"""What files are run on: which signature on which inputs, one run after the other.

In: files, and a `.npz`, a `.jsonl` of token ids or a seed. Out: chains of `Feed`s. In a chain each run may take over
what the one before gave, as a KV cache is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Signature
from harness.flatbuffer.signatures import DECODE, prefill_length
from harness.inputs.given import inputs_from_jsonl
from harness.inputs.tokens import Step, TokenInput, schedule_of
from harness.pairs.inputs import drawn_inputs, given_inputs, looked_up, number_type
from harness.stages.litert.stage import CACHE, device_mask

Array = np.ndarray[Any, Any]
Pair = tuple[Signature, ...]  # the same signature of each file
_LINES = ".jsonl"


@dataclass(frozen=True)
class Feed:
    """One run of a signature. pair: that of each file. arrays: by the names of the first file, without those that are
    `carried`. told: where they come from, in words. step: which tokens it takes; None where it takes no text."""

    pair: Pair
    arrays: Mapping[str, Array]
    told: str
    carried: tuple[str, ...] = ()
    step: Step | None = None


@dataclass(frozen=True)
class _Sizes:
    """Of a language model's file, as `schedule_of` asks for them."""

    prefill: Sequence[int]
    kv_cache_len: int


def chains(model: FlatbufferModel, pairs: Sequence[Pair], inputs: Path | None, seed: int) -> list[list[Feed]]:
    """model: the first file. pairs: the signatures to run. Raises UsageError for inputs that do not fit."""
    if inputs is None:
        return [[_drawn(model, pair, seed)] for pair in pairs]
    if inputs.suffix != _LINES:
        told = str(inputs)
        return [[Feed(pair, given_inputs(inputs, model, _graph(model, pair), pair[0]), told)] for pair in pairs]
    found = [token_feeds(model, pairs, item, f"{item.id} of {inputs}") for item in _lines(model, pairs, inputs)]
    reached = {feed.pair[0].name for feeds in found for feed in feeds}
    # What no line reaches is compared all the same: on inputs that are drawn.
    return found + [[_drawn(model, pair, seed)] for pair in pairs if pair[0].name not in reached]


def _graph(model: FlatbufferModel, pair: Pair) -> Any:
    return model.subgraph(pair[0].subgraph)


def _drawn(model: FlatbufferModel, pair: Pair, seed: int) -> Feed:
    return Feed(pair, drawn_inputs(model, _graph(model, pair), pair[0], seed), f"seed {seed}")


def _lines(model: FlatbufferModel, pairs: Sequence[Pair], path: Path) -> list[TokenInput]:
    pair = next(iter(_of_text(model, pairs).values()))
    vocabulary = looked_up(model.subgraph(pair[0].subgraph), pair[0].inputs["tokens"])
    return inputs_from_jsonl(path, None, vocabulary, _cache_length(model, pair))


def _of_text(model: FlatbufferModel, pairs: Sequence[Pair]) -> dict[str, Pair]:
    """By name, those that take a text through a language model. Raises UsageError where there are none."""
    named = {pair[0].name: pair for pair in pairs if {"tokens", "input_pos"} <= set(pair[0].inputs)}
    found = {name: pair for name, pair in named.items() if name == DECODE or prefill_length(name) is not None}
    if not found:
        names = ", ".join(pair[0].name or "one without a name" for pair in pairs)
        raise UsageError(
            f"token ids are for a language model's 'prefill_N' and 'decode', and {model.path} has {names}; give a .npz "
            "with an array for each input"
        )
    return found


def token_feeds(model: FlatbufferModel, pairs: Sequence[Pair], item: TokenInput, told: str) -> list[Feed]:
    """The runs by which a device takes a text through the signatures. Raises UsageError where they cannot take it."""
    known = _of_text(model, pairs)
    prefill = sorted(size for name in known if (size := prefill_length(name)) is not None)
    length = _cache_length(model, next(iter(known.values())))
    if len(item.tokens) > length:
        raise UsageError(
            f"{told}: {len(item.tokens)} tokens do not fit the {length} positions of the KV cache of {model.path}; "
            "shorten it"
        )
    feeds: list[Feed] = []
    for step in schedule_of(item, _Sizes(prefill, length)):
        if step.signature not in known:
            raise UsageError(
                f"{told}: {model.path} has no signature '{step.signature}' in common, which token {step.start} needs; "
                'give inputs of other lengths, or "decode_tail": 0'
            )
        pair = known[step.signature]
        caches = tuple(name for name in pair[0].inputs if name.startswith(CACHE))
        arrays = _arguments(model, pair[0], step, item.tokens)
        carried = caches if feeds else ()
        if not feeds:
            arrays |= {name: _empty(model, pair[0], name) for name in caches}
        words = f"{told}, tokens {step.start} to {step.start + step.valid - 1}"
        feeds.append(Feed(pair, arrays, words, carried, step))
    return feeds


def _arguments(model: FlatbufferModel, signature: Signature, step: Step, ids: Sequence[int]) -> dict[str, Array]:
    tokens = np.zeros((1, step.size), np.int32)
    tokens[0, : step.valid] = ids[step.start : step.start + step.valid]
    positions = np.arange(step.start, step.start + step.size, dtype=np.int32)
    found: dict[str, Array] = {"tokens": tokens, "input_pos": positions}
    if "mask" in signature.inputs:
        found["mask"] = device_mask(positions, step.valid, _shape(model, signature, "mask")[-1])
    other = next((name for name in signature.inputs if name not in found and not name.startswith(CACHE)), None)
    if other is not None:
        raise UsageError(
            f"{model.path}: {signature.name} takes '{other}' too, which token ids do not give; give a .npz"
        )
    return found


def _shape(model: FlatbufferModel, signature: Signature, name: str) -> tuple[int, ...]:
    return model.subgraph(signature.subgraph).tensors[signature.inputs[name]].shape


def _empty(model: FlatbufferModel, signature: Signature, name: str) -> Array:
    tensor = model.subgraph(signature.subgraph).tensors[signature.inputs[name]]
    return np.zeros(tensor.shape, number_type(tensor.dtype, name))


def _cache_length(model: FlatbufferModel, pair: Pair) -> int:
    """Positions of the KV cache, which its two layouts have at other places."""
    signature = pair[0]
    names = [f"{CACHE}{part}_0" for part in "kv"]
    if any(name not in signature.inputs for name in names):
        raise UsageError(f"{model.path}: {signature.name} takes no KV cache ({names[0]}); give a .npz for its inputs")
    k, v = (_shape(model, signature, name) for name in names)
    return k[1] if k == v else v[-1]


def cache_layout(model: FlatbufferModel, signature: Signature) -> str:
    """`default` or `transposed`, as `harness/names/variant.py` has them."""
    k, v = (_shape(model, signature, f"{CACHE}{part}_0") for part in "kv")
    return "default" if k == v else "transposed"
