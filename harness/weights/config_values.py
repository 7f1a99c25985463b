"""Values of a config.json that no model can be computed with: numbers above all, and words nobody knows.

In: its content as JSON. Out: nothing, or a UsageError of one line that names the field and its value. An epsilon that
is NaN makes every number NaN, in every version alike, and the fault would be looked for in the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.errors import UsageError

_CORRECT = "correct it, or download it again"
_EPSILONS = ("eps", "_epsilon")
_FROM_ZERO = ("final_logit_softcapping", "attn_logit_softcapping")
_ABOVE_ZERO = frozenset(
    {
        "rope_theta", "rope_local_base_freq", "rope_freq_constant", "rotary_emb_base", "partial_rotary_factor",
        "factor", "low_freq_factor", "high_freq_factor", "attention_factor", "long_factor", "short_factor",
        "original_max_position_embeddings", "max_position_embeddings", "query_pre_attn_scalar",
    }
)  # fmt: skip
_NUMBERS = frozenset({"sliding_window"})  # any: what a negative one means is the class's affair
_INFINITE = frozenset({"time_step_limit"})  # of state spaces, which write Infinity for none


def refuse_wrong_numbers(path: Path, content: Mapping[str, Any]) -> None:
    """path: of the config.json. Raises UsageError for NaN, infinity, and for what a field of that name cannot be."""
    for name, leaf, value in _leaves(content):
        wanted = _wanted(leaf, value)
        if wanted:
            kind = {str: ", a string,", bool: ", a boolean,"}.get(type(value), "")
            shown = f"{json.dumps(value)[:60]}{kind}"
            raise UsageError(f"{path}: {name} is {shown} and must be {wanted}; {_CORRECT}")


def unknown_word(content: Mapping[str, Any], error: Exception) -> str:
    """The field whose word a table of transformers lacks, as a clause; empty where it is not about one.

    error: what building the model raised.
    """
    word = error.args[0] if isinstance(error, KeyError) and error.args else None
    if not isinstance(word, str):
        return ""
    field = next((name for name, _, value in _leaves(content) if value == word), "")
    return f"{field} is {json.dumps(word)[:60]}, which transformers does not know" if field else ""


def _wanted(leaf: str, value: Any) -> str:
    """What a value must be that is not; empty for one that is right."""
    eps, above = leaf.endswith(_EPSILONS), leaf in _ABOVE_ZERO
    known = eps or above or leaf in _FROM_ZERO or leaf in _NUMBERS
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "a number" if known else ""
    if not math.isfinite(value):
        return "" if leaf in _INFINITE else "a finite number"
    if above and value <= 0:
        return "a number above 0"
    if (eps or leaf in _FROM_ZERO) and value < 0:
        return "a number from 0"
    return ""


def _leaves(part: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str, Any]]:
    """(dotted name, field, value) of everything about the language model; each number of a list by itself."""
    for name, value in part.items():
        if isinstance(value, Mapping):
            if name == "text_config" or not name.endswith("_config"):  # not of an image encoder, say
                yield from _leaves(value, f"{before}{name}.")
        elif isinstance(value, list):
            yield from ((f"{before}{name}.{at}", name, item) for at, item in enumerate(value) if item is not None)
        elif value is not None:
            yield f"{before}{name}", name, value
