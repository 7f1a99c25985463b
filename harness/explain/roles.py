"""Which tensor of a checkpoint plays which role in a block.

In: what the published model's modules are called, and what the audit found out about the norms. Out: keys by role, and
their values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.layout import HeadLayout, split_gate, split_heads
from harness.align.modules import ModuleNames
from harness.audit.structure import Structure
from harness.audit.values import read_values
from harness.explain.decoder import NORM_POINTS
from harness.explain.functions import Array
from harness.jobs.job import Dimensions
from harness.weights.configs import raw_config
from harness.weights.families import stores_turned
from harness.weights.files import StoredTensor, stored_tensors

_ENTRIES = {
    "embedding": "embedding",
    "positions": "position_embedding",
    "lm_head": "lm_head",
    "q": "attn_query_proj",
    "k": "attn_key_proj",
    "v": "attn_value_proj",
    "qkv": "attn_fused_qkv_proj",
    "o": "attn_output_proj",
    "gate": "ff_gate_proj",
    "up": "ff_up_proj",
    "down": "ff_down_proj",
}


_TABLES = ("embedding", "positions", "lm_head")


def module_paths(names: ModuleNames, structure: Structure) -> dict[str, str]:
    """Role -> module of the Hugging Face model, with `{}` for the block's number."""
    paths = {role: path for role, entry in _ENTRIES.items() if (path := getattr(names, entry, None))}
    paths |= {slot: path for slot in NORM_POINTS if (path := structure.modules.get(slot))}
    paths.setdefault("lm_head", paths["embedding"])
    return paths


class CheckpointWeights:
    """Reads weights by role. Keeps what it read, since hypotheses ask for the same again and again."""

    def __init__(self, folder: Path, paths: Mapping[str, str], dims: Dimensions) -> None:
        self.paths = paths
        self.dims = dims
        self._stored: dict[str, StoredTensor] = stored_tensors(folder)
        self._read: dict[tuple[str, int], Array | None] = {}
        self._turned = stores_turned(raw_config(folder)["model_type"])

    def __call__(self, role: str, block: int) -> Array | None:
        if (role, block) not in self._read:
            self._read[role, block] = self._find(role, block)
        return self._read[role, block]

    def key(self, role: str, block: int) -> str | None:
        """The tensor that holds a role's values, alone or with others."""
        name, _, kind = role.partition(".")
        if name in ("q", "k", "v") and name not in self.paths:
            name = "qkv"
        if name == "gate" and self.dims.fused_gate:
            name = "up"
        path = self.paths.get(name)
        key = f"{path.format(block)}.{kind or 'weight'}" if path else ""
        if key not in self._stored and role == "lm_head":  # tied, whatever the names say
            key = f"{self.paths['embedding']}.weight"
        return key if key in self._stored else None

    def _find(self, role: str, block: int) -> Array | None:
        key = self.key(role, block)
        if key is None:
            return None
        values = read_values(self._stored[key]).astype(np.float64)
        name = role.partition(".")[0]
        if self._turned and values.ndim == 2 and name not in _TABLES:
            values = values.T
        if name in ("q", "k", "v") and name not in self.paths:
            return _of_rows(values, lambda rows: split_heads(rows, name, self._layout(block)))
        if name in ("gate", "up") and self.dims.fused_gate:
            return _of_rows(values, lambda rows: split_gate(rows, name))
        return values

    def _layout(self, block: int) -> HeadLayout:
        return self.dims.hf_layout_of(max(block, 0))


def _of_rows(values: Array, split: Any) -> Array:
    """Part of a fused projection, weight `[rows, in]` or bias `[rows]`: its rows lie as its outputs do."""
    outputs = values.reshape(len(values), -1).T[None]  # as if each input were a position
    part = split(outputs)
    return np.asarray(part.reshape(part.shape[1], -1).T.reshape(-1, *values.shape[1:]))
