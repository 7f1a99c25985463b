"""The checks that people run on quantised files, on the same fault.

In: the stages of a recipe, a file and the traces of what is wrong. Out: whether each check complains. None of them
knows what a recipe costs: each takes a limit, and a recipe that is right may be beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench.quantised import QuantisedBench
from harness.bench.result import QUANTISED_OTHERS
from harness.compare.metrics import position_stats, summarise
from harness.names.stages import REAUTHORED, XNNPACK
from harness.names.taps import LOGITS
from harness.store.trace import Trace

CLOSE = 0.5  # of logits, relative and absolute
AGREE = 0.9  # of the likeliest tokens
DECIBEL = 20.0


def peers_complain(
    stages: QuantisedBench, file: Path | None, broken: Path | None = None, lost: Collection[str] = ()
) -> dict[str, bool]:
    """By name. file: what the kernels read; None where no file does what they do, so that `validate` cannot be asked.

    broken: traces of what is wrong; the sound ones stand in for the others. lost: stages that did not take the file;
    whoever runs it sees that.
    """
    if any(runtime.name in lost for runtime in stages.runtimes):
        return dict.fromkeys(QUANTISED_OTHERS, True)
    with stages.joined(broken, lost) as traces:
        found = {**_logits_complain(stages, traces), "snr": _snr_complains(stages, traces)}
    return found if file is None else {**found, "validate": validate_complains(stages, file)}


def _logits_complain(stages: QuantisedBench, traces: Path) -> dict[str, bool]:
    apart, same, positions = False, 0, 0
    for item in stages.bench.prepared.inputs:
        wanted = _values(traces, REAUTHORED, item.id, LOGITS)
        for runtime in stages.runtimes:
            found = _values(traces, runtime.name, item.id, LOGITS)
            apart |= not np.allclose(found, wanted, rtol=CLOSE, atol=CLOSE)
            agree = found.argmax(-1) == wanted.argmax(-1)
            same, positions = same + int(agree.sum()), positions + agree.size
    return {"quantised_allclose": apart, "quantised_top1": same < AGREE * positions}


def _snr_complains(stages: QuantisedBench, traces: Path) -> bool:
    """The float32 file against the quantised one on the same kernels, tap by tap."""
    return any(
        not _snr(traces, runtime.base, runtime.name, item.id) >= DECIBEL
        for runtime in stages.runtimes
        for item in stages.bench.prepared.inputs
    )


def _snr(traces: Path, reference: str, candidate: str, item: str) -> float:
    """The lowest of any tap that both have; NaN where one is not a number."""
    one, other = (Trace.open(traces / stage / item) for stage in (reference, candidate))
    found = [
        summarise(position_stats(np.asarray(one.load(tap)), np.asarray(other.load(tap)))).snr_db
        for tap in one.taps
        if tap in other
    ]
    return math.nan if any(map(math.isnan, found)) else min(found)


def validate_complains(stages: QuantisedBench, file: Path) -> bool:
    """ai-edge-quantizer's own comparison of every tensor that is computed, on tokens of the bench.

    The tokens that it draws itself lie outside the vocabulary, and the runtime refuses them.
    """
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.utils.validation_utils import ValidationErrorMetric

    made = quantizer.Quantizer(str(stages.bench.flatbuffer), previous_quantized_model=str(file))
    kernels = any(runtime.base == XNNPACK for runtime in stages.runtimes)
    try:
        found = made.validate(_test_data(stages), [ValidationErrorMetric.SNR], use_xnnpack=kernels, num_threads=1)
    except (RuntimeError, ValueError):  # the runtime refuses the file
        return True
    limit = 10 ** (DECIBEL / 10)
    results: list[Any] = [found.get_signature_comparison_result(key) for key in found.available_signature_keys()]
    computed = (tensors for one in results for tensors in (one.output_tensors, one.intermediate_tensors))
    # It gives 0 for a tensor of zeros that agrees, a mask say: that tells nothing.
    ratios = [figures["snr"] for tensors in computed for figures in tensors.values() if figures["snr"] != 0]
    return not ratios or not min(ratios) >= limit


def _test_data(stages: QuantisedBench) -> dict[str, list[dict[str, Any]]]:
    """One sample for each signature: tokens from position 0 on, and an empty cache."""
    from ai_edge_quantizer.utils import tfl_interpreter_utils

    drawn: dict[str, list[dict[str, Any]]]
    drawn = tfl_interpreter_utils.create_random_normal_input_data(str(stages.bench.flatbuffer), num_samples=1)
    tokens = max((item.tokens for item in stages.bench.prepared.inputs), key=len)
    for (sample,) in drawn.values():
        for name, values in sample.items():
            if name == "tokens":
                sample[name] = np.resize(np.array(tokens, values.dtype), values.shape)
            elif name == "input_pos":
                sample[name] = np.arange(values.size, dtype=values.dtype).reshape(values.shape)
            else:
                sample[name] = np.zeros_like(values)
    return drawn


def _values(traces: Path, stage: str, item: str, tap: str) -> np.ndarray[Any, Any]:
    return np.asarray(Trace.open(traces / stage / item).load(tap))
