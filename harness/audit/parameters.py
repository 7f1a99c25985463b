"""Which tensors of a checkpoint a parameter of a route's model is made of, and how.

In: nothing. Out: `ParameterSource`, which crosses process borders as JSON.
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
