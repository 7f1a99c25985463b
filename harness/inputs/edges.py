"""The edges of the context as inputs: its ends, a sliding window's edge, the boundary of a scaled rope.

In: the sizes of the converted model. Out: inputs with names that say which edge, and those that do not fit with why.
Position 0 alone is the default input `one-token`; one past the last position is not an input, since a device that
refuses it gives nothing to compare: `harness/jobs/cache_end.py` looks at that in every run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.inputs.tokens import TokenInput, Tokenizer, check_vocabulary, drawn_tokens, prose_tokens
from harness.names.boundaries import CACHE, ROPE, WINDOW

_SEED = 7  # of the tokens, beside the run's own


def edge_lengths(prefill: Sequence[int], boundaries: Mapping[str, int]) -> dict[str, int]:
    """Name -> tokens. The last one of each is decoded, so at `edge-window-at` decode sees exactly one window.

    boundaries: see `harness/names/boundaries.py`.
    """
    lengths = {"edge-first": 1, "edge-past-prefill": max(prefill) + 2}
    if WINDOW in boundaries:
        window = boundaries[WINDOW]
        lengths |= {"edge-window-below": window - 1, "edge-window-at": window, "edge-window-above": window + 1}
    if ROPE in boundaries:
        lengths |= {"edge-rope": boundaries[ROPE], "edge-rope-above": boundaries[ROPE] + 1}
    return {name: length for name, length in {**lengths, "edge-full": boundaries[CACHE]}.items() if length >= 1}


def edge_inputs(
    prefill: Sequence[int], boundaries: Mapping[str, int], vocab_size: int, tokenizer: Tokenizer | None, seed: int
) -> tuple[list[TokenInput], dict[str, str]]:
    """The inputs, and of those that are not run the name and why.

    tokenizer: without one the tokens are drawn from `seed`. Raises UsageError for one that is not this model's.
    """
    limit, lengths = boundaries[CACHE], edge_lengths(prefill, boundaries)
    beyond = {name: length for name, length in lengths.items() if length > limit}
    why = {name: f"{length} tokens do not fit the KV cache of {limit} positions" for name, length in beyond.items()}
    within = {name: length for name, length in lengths.items() if name not in beyond}
    tokens = _tokens(max(within.values()), vocab_size, tokenizer, seed)
    return [TokenInput(name, tokens[:length]) for name, length in within.items()], why


def _tokens(length: int, vocab_size: int, tokenizer: Tokenizer | None, seed: int) -> tuple[int, ...]:
    if tokenizer is None:
        return drawn_tokens(length, vocab_size, (seed, _SEED))
    tokens = tuple(prose_tokens(tokenizer, length)[:length])
    check_vocabulary(tokens, vocab_size, "the text of the edges")
    return tokens
