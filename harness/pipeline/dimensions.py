"""The sizes that a run's stages and alignment share: the route's own, and the published ones where they are others.

In: a declaration, the route's model at the sizes of the run, and the checkpoint's config. Out: `Dimensions`.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from harness.audit.honoured import published_windows
from harness.jobs.job import Dimensions
from harness.spec.model import Model
from harness.spec.route import RouteModel
from harness.weights.families import interleaves_qkv, sizes_of


def dimensions_of(model: Model, own: RouteModel, published: Any) -> Dimensions:
    """published: the checkpoint's Hugging Face config."""
    dims, text = own.dimensions(), published.get_text_config()
    own_heads = dims.layer_heads or [(dims.heads, dims.kv_heads)] * dims.blocks
    theirs = [sizes_of(text, block) for block in range(sizes_of(text).layers)]
    hf_heads = [(layer.heads, layer.kv_heads) for layer in theirs]
    same = hf_heads[: len(own_heads)] == own_heads[: len(hf_heads)]
    return dims.model_copy(
        update={
            "hf_heads": [] if same else hf_heads,
            "hf_head_dim": _unless(theirs[0].head_dim, dims.head_dim),
            "hf_vocab": _unless(theirs[0].vocab, dims.vocab),
            "hf_interleaved": interleaves_qkv(text),
            "window": window_of(model, published, own.longest),
        }
    )


def _unless(value: int, other: int) -> int | None:
    return None if value == other else value


def window_of(model: Model, published: Any, reach: int) -> int | None:
    """The published window, if its class has one and the route's model takes inputs that outgrow it."""
    text = published.get_text_config()
    window = sizes_of(text).window
    if not 0 < window < reach or not getattr(text, "use_sliding_window", True):
        return None
    try:
        found = published_windows(replace(model, published=lambda: copy.deepcopy(text)))
    except Exception:  # the audit says why; inputs that outgrow a window do no harm where there is none
        return window
    return window if found is None or any(found) else None
