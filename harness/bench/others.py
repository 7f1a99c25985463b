"""The same fault through the checks that exist elsewhere.

In: a broken re-authored model, or logits. Out: whether each check sees the fault.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.bench.breaking import Change, loading, unchanged
from harness.bench.workbench import Bench
from harness.names.stages import HF
from harness.names.taps import LOGITS
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.huggingface import stage as hf
from harness.store.trace import Trace

CLOSE = 1e-3  # relative and absolute


def verifier_complains(bench: Bench, model: Model | None = None, change: Change = unchanged) -> bool:
    """The check that comes with the route's packages. change: what is done to the loaded network."""
    network = load_network(bench, model, change)
    return route_of(bench.model).verifier_complains(_original(bench), network)


def load_network(bench: Bench, model: Model | None = None, change: Change = unchanged) -> Any:
    """The route's own network of a bench, or of another declaration, and changed."""
    return loading(change)(bench.own(model), bench.checkpoint, bench.prepared.kv_cache_len)


@functools.lru_cache(1)
def _original(bench: Bench) -> Any:
    return hf.load(bench.checkpoint, torch.float32)


def logits_complain(bench: Bench, broken: Path, candidates: Sequence[str]) -> dict[str, bool]:
    """Whether the logits of any of the candidates are not those of `hf`: by `allclose`, and by the likeliest token.

    broken: traces of the broken stages; the sound ones stand in for the others.
    """
    apart = flipped = False
    for item in bench.prepared.inputs:
        reference, *others = (_logits(bench, broken, stage, item.id) for stage in (HF, *candidates))
        for candidate in others:
            apart |= not np.allclose(candidate, reference, rtol=CLOSE, atol=CLOSE)
            flipped |= bool((candidate.argmax(-1) != reference.argmax(-1)).any())
    return {"allclose": apart, "top1": flipped}


def _logits(bench: Bench, broken: Path, stage: str, item: str) -> np.ndarray[Any, Any]:
    folder = broken if (broken / stage).is_dir() else bench.sound
    return np.asarray(Trace.open(folder / stage / item).load(LOGITS))
