"""Which tensors a recipe costs most at: each put back to float, one after the other, and its own error beside it.

In: a job of a fake-quantised stage and inputs. Out: a `Sensitivity`. No file is made: the numbers of the quantised one
and of the model are both in hand.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from harness.compare.metrics import logit_stats
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.switches import Logits, OwnError, SwitchedTensor, opener
from harness.names.stages import stage_named
from harness.record.sensitivity import AloneCosts, LayerAlone, Sensitivity, TensorSensitivity

POSITIONS = 64  # of all inputs together: the KL of SmolLM2's tensors has the same order on 64 as on 333
_FEWEST = 2  # of one input


class SensitivityRequest(BaseModel):
    """What the process is told. alone: each layer quantised alone, in place of each tensor put back alone."""

    job: Job
    alone: bool = False


def inputs_for_sensitivity(items: Sequence[JobInput], positions: int = POSITIONS) -> list[JobInput]:
    """Inputs of so many positions together, or all there are: those of text first, the longest first; the last is cut.

    An input that another one begins with says nothing more.
    """
    chosen: list[JobInput] = []
    left = positions
    for item in sorted(items, key=lambda item: (item.text is None, -len(item.tokens))):
        known = any(other.tokens[: len(item.tokens)] == item.tokens for other in chosen)
        tokens = item.tokens[:left]
        if known or len(tokens) < _FEWEST:
            continue
        chosen.append(item.model_copy(update={"tokens": tokens, "earlier": []}))
        left -= len(tokens)
    return chosen or list(items[:1])


def run(payload: object, report: Reporter) -> dict[str, object]:
    """payload: a `SensitivityRequest`. Returns a `Sensitivity`, or `AloneCosts`."""
    request = SensitivityRequest.model_validate(payload)
    job = request.job.model_copy(update={"threads": os.cpu_count() or 1})  # nothing runs beside it
    items = inputs_for_sensitivity(job.inputs)
    opened = opener(stage_named(job.stage).switches)(job, items, from_file=not request.alone, by_layer=request.alone)
    with costs_only_this_stage(), opened as switches:
        known = _kept(switches.float_logits())
        own = {} if request.alone else switches.own_errors()
        whole = _mean_kl(known, switches.base_logits())
        costs = {}
        for number, tensor in enumerate(switches.tensors):
            report.progress(number, len(switches.tensors), tensor.name)
            costs[tensor.name] = _mean_kl(known, switches.changed_logits(tensor.name))
        tensors = switches.tensors
    positions = sum(len(item.tokens) for item in items)
    if request.alone:
        layers = [LayerAlone(layer=one.layer, size=one.size, kl=costs[one.name]) for one in tensors]
        return AloneCosts(positions=positions, kl=whole, layers=layers).model_dump()
    measured = [_measured(one, whole, costs[one.name], own[one.name]) for one in tensors]
    return Sensitivity(positions=positions, kl=whole, tensors=measured).model_dump()


def _measured(tensor: SwitchedTensor, whole: float, kl: float, own: OwnError) -> TensorSensitivity:
    return TensorSensitivity(
        tensor=tensor.name,
        layer=tensor.layer,
        size=tensor.size,
        local_error=own.error if math.isfinite(own.error) else None,
        inputs_share=own.inputs_share,
        outlier_share=own.outlier_share,
        kl=kl if math.isfinite(kl) else None,
        gain=whole - kl if math.isfinite(whole - kl) else None,
    )


def _kept(found: Logits) -> dict[str, Any]:
    return {item.id: np.array(logits) for item, logits in found}


def _mean_kl(known: Mapping[str, Any], found: Logits) -> float:
    """Over all positions of all inputs, in nats; NaN where any is."""
    each = [logit_stats(known[item.id], logits).kl for item, logits in found]
    return float(np.concatenate(each).mean())
