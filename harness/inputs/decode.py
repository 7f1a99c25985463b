"""Inputs that the reference continues, so that every stage decodes the same tokens step by step.

In: inputs and a number of steps. Out: the inputs whose tokens are to be drawn, and those inputs once they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.errors import UsageError
from harness.inputs.tokens import TokenInput

DECODE_INPUT = "decode"
_CONTINUED = "prompt"  # the default input that it continues


def to_draw(
    defaults: Sequence[TokenInput], chosen: Sequence[TokenInput], steps: int, kv_cache_len: int
) -> list[TokenInput]:
    """The inputs that lack their last `steps` tokens: a person's own ones, or where there is none one of its own, which
    goes on from the default prompt.

    A person's input keeps its decode tail, so that it decodes that and the tokens drawn. Raises UsageError for what the
    cache does not hold.
    """
    if not steps:
        return []
    if chosen:
        found = [replace(item, decode_tail=item.decode_tail + steps, drawn=steps) for item in chosen]
    else:
        prompt = next(item for item in defaults if item.id == _CONTINUED)
        found = [TokenInput(DECODE_INPUT, prompt.tokens, None, steps, steps)]
    for item in found:
        if len(item.tokens) + steps > kv_cache_len:
            raise UsageError(
                f"--decode {steps}: input '{item.id}' has {len(item.tokens)} tokens, and with {steps} more it does not "
                f"fit the KV cache of {kv_cache_len} positions; give a smaller --decode, a shorter input or a longer "
                "--kv-cache-len"
            )
    return found
