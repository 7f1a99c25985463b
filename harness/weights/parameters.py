"""What a parameter of a model is made of, whatever model it is.

Out: `ParameterSource`, `Fused`. Data only.
"""

from __future__ import annotations

from pydantic import BaseModel


class Fused(BaseModel):
    """How attention splits a fused projection; see `harness/align/layout.py`."""

    heads: int
    kv_heads: int
    head_dim: int
    interleaved: bool


class ParameterSource(BaseModel):
    """Where a parameter's values come from.

    keys: one tensor of the checkpoint, or those of queries, keys and values, which are fused.
    columns: which of the one tensor's, first and past the last; None for all. Of a vector: which of its numbers.
    one_plus: the model multiplies by 1 + this, so a converter may store the sum. scale, divisor: it multiplies or
    divides what this gives, so a converter may store the product. forms_known: that these are all; not so for a model
    of its user's own blocks.
    """

    parameter: str
    keys: list[str]
    fused: Fused | None = None
    one_plus: bool = False
    scale: float | None = None
    divisor: float | None = None
    forms_known: bool = True
    columns: tuple[int, int] | None = None
