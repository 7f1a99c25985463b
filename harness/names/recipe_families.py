"""Families of recipes, by what a quantised file holds: those of one family cost about as much. Pure.

In: the bits of a file's layers, and whether it quantises the inputs of any. Out: a family.
"""

from __future__ import annotations

from collections.abc import Iterable

FLOAT16 = "float16"
_BITS = (8, 4, 2)
# From the one that costs least to the one that costs most.
FAMILIES = (FLOAT16, *(f"{how}_int{bits}" for bits in _BITS for how in ("weight", "dynamic")))


def family_of(bits: Iterable[int], inputs_quantised: bool) -> str:
    """`dynamic_int4`; empty where every layer is in float32. A mixed file is of the family of its narrowest layer.

    bits: of one number of each layer's weight. inputs_quantised: whether any layer multiplies whole numbers.
    """
    narrowest = min(bits, default=32)
    if narrowest >= 32:
        return ""
    return FLOAT16 if narrowest == 16 else f"{'dynamic' if inputs_quantised else 'weight'}_int{narrowest}"
