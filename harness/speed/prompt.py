"""The prompt that speed is measured on. In: sizes of a model, tokens. Out: the calls of a repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.inputs.tokens import Step

DECODED = 16  # tokens after each prompt


@dataclass(frozen=True)
class Prompt:
    """What each repeat runs. tokens: of the prefill and of each decode after it."""

    prefill: Step
    decodes: tuple[Step, ...]
    tokens: tuple[int, ...]


def prompt_tokens(prefill: Sequence[int], kv_cache_len: int) -> int:
    """As many as the largest prefill takes that fits into the KV cache, with room for a token after them."""
    return min(_largest(prefill, kv_cache_len), kv_cache_len - 1)


def prompt_of(prefill: Sequence[int], kv_cache_len: int, tokens: Sequence[int]) -> Prompt:
    """One call of the largest prefill, and as many decodes as the KV cache has room for, up to `DECODED`.

    tokens: of an input. What they are makes no difference to time, so they are taken again and again.
    """
    largest, valid = _largest(prefill, kv_cache_len), prompt_tokens(prefill, kv_cache_len)
    decoded = min(DECODED, kv_cache_len - valid)
    decodes = tuple(Step("decode", 1, position, 1) for position in range(valid, valid + decoded))
    many = [tokens[index % len(tokens)] for index in range(valid + decoded)]
    return Prompt(Step(f"prefill_{largest}", largest, 0, valid), decodes, tuple(many))


def _largest(prefill: Sequence[int], kv_cache_len: int) -> int:
    return max(size for size in prefill if size <= kv_cache_len)
