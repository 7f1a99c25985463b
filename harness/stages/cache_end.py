"""What a flatbuffer does with a position past the end of its KV cache. Arrays only: who decodes is handed in.

In: a way to decode one token at a position. Out: a `CacheEnd`, which the record keeps with the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, Field

from harness.align.layout import canonical_cache

Array = np.ndarray[Any, Any]
Decode = Callable[[int, Mapping[str, Array]], Mapping[str, Array]]


_SAID = 160  # the end counts: kernels put what they grumble about before it


class CacheEnd(BaseModel):
    """refusal: what the runtime said; empty where it took the position. overwritten: slots that changed then."""

    position: int
    refusal: str = ""
    overwritten: list[int] = Field(default_factory=list)


def past_the_cache(decode: Decode, empty: Mapping[str, Array], length: int, layout: str) -> CacheEnd:
    """Decode a token at the first position that no slot is for, with every slot full.

    empty: the caches by name, `kv_cache_k_0` and so on. length: their slots. layout: as in `harness/variant.py`.
    """
    full = {name: np.ones_like(values) for name, values in empty.items()}
    try:
        after = decode(length, full)
    except RuntimeError as error:
        return CacheEnd(position=length, refusal=" ".join(str(error).split())[-_SAID:] or "no word")
    changed = {slot for name in full for slot in _changed(name, full[name], after[name], layout)}
    return CacheEnd(position=length, overwritten=sorted(changed))


def _changed(name: str, before: Array, after: Array, layout: str) -> list[int]:
    """Slots of one cache that differ."""
    side = name.removeprefix("kv_cache_").partition("_")[0]
    one, other = (canonical_cache(values, side, layout) for values in (before, after))
    return [int(slot) for slot in np.flatnonzero((one != other).any(axis=(0, 2, 3)))]
