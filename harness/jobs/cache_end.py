"""What a version of a model does at the end of its KV cache. Arrays only: who decodes is handed in.

In: a way to decode one token at a position. Out: a `CacheEnd`, what becomes of the first position past the cache, which
the record keeps with the stage; and a `LastPosition`, what comes of the last one in it, by which versions are compared.
No default input is as long as that, and what hides there (a bound that is one too small, say) shows nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from harness.align.layout import canonical_cache
from harness.jobs.facts import CacheEnd, LastPosition
from harness.names.taps import LOGITS

Array = np.ndarray[Any, Any]
Decode = Callable[[int, Mapping[str, Array]], Mapping[str, Array]]


_SAMPLE = 256  # logits by which versions are compared
_APART = 0.01  # of the spread of the logits: nine sound miniatures are off by 1.5e-6 to 1.1e-5
_SAID = 160  # the end counts: kernels put what they grumble about before it


def past_the_cache(decode: Decode, empty: Mapping[str, Array], length: int, layout: str) -> CacheEnd:
    """Decode a token at the first position that no slot is for, with every slot full.

    empty: the caches by name, `kv_cache_k_0` and so on. length: their slots. layout: as in `harness/names/variant.py`.
    """
    full = {name: np.ones_like(values) for name, values in empty.items()}
    try:
        after = decode(length, full)
    except RuntimeError as error:
        return CacheEnd(position=length, refusal=_said(error))
    changed = {slot for name in full for slot in _changed(name, full[name], after[name], layout)}
    return CacheEnd(position=length, overwritten=sorted(changed))


def wrong(own: LastPosition, reference: LastPosition) -> str:
    """What is wrong with a last position by the same of the reference, in words that follow a subject; empty for what
    agrees.

    Where the reference has numbers that are not finite, nothing can be told.
    """
    known = np.array(reference.logits, float)
    if reference.refusal or not known.size or not np.isfinite(known).all():
        return ""
    if own.refusal:
        return f"refuses it ({own.refusal})"
    found = np.array(own.logits, float)
    if found.shape != known.shape:
        return ""
    if not np.isfinite(found).all():
        return "gives logits that are not finite"
    apart, spread = float(np.abs(found - known).max()), float(known.std())
    return f"gives other logits, off by {apart / spread:.2g} of their spread" if apart > _APART * spread > 0 else ""


def last_position(decode: Decode, empty: Mapping[str, Array], length: int, layout: str) -> LastPosition:
    """Decode a token at the last position of the cache, every slot of which holds numbers that are the same for all
    versions and drawn at random. Takes what `past_the_cache` takes.
    """
    full = {name: np.zeros_like(values) for name, values in empty.items()}
    for name, values in full.items():
        side, block = _place(name)
        slots = canonical_cache(values, side, layout)  # a view
        slots[...] = np.random.default_rng((int(block), side == "k")).standard_normal(slots.shape, np.float32)
    try:
        logits = np.asarray(decode(length - 1, full)[LOGITS]).reshape(-1)
    except Exception as error:  # a declaration's own code raises whatever it likes
        return LastPosition(position=length - 1, refusal=_said(error))
    some = logits[:: max(1, logits.size // _SAMPLE)].tolist()
    return LastPosition(position=length - 1, logits=[value if np.isfinite(value) else None for value in some])


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[-_SAID:] or "no word"


def _place(name: str) -> tuple[str, str]:
    """("k", "3") of `kv_cache_k_3`."""
    side, _, block = name.removeprefix("kv_cache_").partition("_")
    return side, block


def _changed(name: str, before: Array, after: Array, layout: str) -> list[int]:
    """Slots of one cache that differ."""
    side, _ = _place(name)
    one, other = (canonical_cache(values, side, layout) for values in (before, after))
    return [int(slot) for slot in np.flatnonzero((one != other).any(axis=(0, 2, 3)))]
