"""The same fault through the checks that exist elsewhere.

In: a broken re-authored model, or logits. Out: whether each check sees the fault.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.bench.breaking import Change, loading, unchanged
from harness.bench.workbench import Bench
from harness.names.stages import HF
from harness.names.taps import LOGITS
from harness.spec.model import GenerativeModel
from harness.stages.huggingface import stage as hf
from harness.stages.litert_torch.config import reauthored_config
from harness.store.trace import Trace

CLOSE = 1e-3  # relative and absolute
# What litert-torch's own verify scripts give: the inputs and tolerances of its examples.
VERIFIED_INPUT = [1, 2, 3, 4]
_ABSOLUTE, _RELATIVE = 1e-4, 1e-5


def verifier_complains(bench: Bench, model: GenerativeModel | None = None, change: Change = unchanged) -> bool:
    """litert-torch's `verify_with_input_ids`. change: what is done to the loaded network."""
    from litert_torch.generative.utilities import transformers_verifier, verifier

    network = load_network(bench, model, change)
    logging.disable(logging.CRITICAL)
    try:
        with torch.no_grad():
            verifier.verify_with_input_ids(
                transformers_verifier.TransformersModelWrapper(_original(bench)),
                verifier.ReauthoredModelWrapper(network),
                VERIFIED_INPUT,
                rtol=_RELATIVE,
                atol=_ABSOLUTE,
            )
    except AssertionError:
        return True
    finally:
        logging.disable(logging.NOTSET)
    return False


def load_network(bench: Bench, model: GenerativeModel | None = None, change: Change = unchanged) -> Any:
    """The re-authored model of a bench, or of another declaration, and changed."""
    declared, prepared = model or bench.model, bench.prepared
    config = reauthored_config(declared, miniature=prepared.miniature, layers=prepared.layers)
    return loading(change)(declared, bench.checkpoint, config, prepared.kv_cache_len)


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
