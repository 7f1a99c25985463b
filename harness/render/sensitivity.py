"""Which tensors a recipe costs most at, in words. In: a recipe of a record. Out: sentences and rows. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.names.codes import CostCause
from harness.record.recipes import RecipeResult
from harness.record.sensitivity import Sensitivity, TensorSensitivity
from harness.render.numbers import percent

_NAMED = 3
CAUSES: dict[str, str] = {
    CostCause.SCALE: "its scales are far from the best ones",
    CostCause.OUTLIER_CHANNELS: "a few input channels give most of its error",
    CostCause.INPUTS: "most of its error is that of its input, which is quantised too",
    CostCause.BEFORE_SOFTMAX: "it feeds the softmax, which passes its error on to every position",
    CostCause.HEAD: "its error stands in the logits as it is",
    CostCause.EMBEDDING: "its error goes into every layer",
    CostCause.NUMBERS: "so few bits are too few for it",
}


def cause_words(one: TensorSensitivity) -> str:
    """Empty for a tensor that does not stand out; of another version's cause its name."""
    return CAUSES.get(one.why, one.why)


def share_of(one: TensorSensitivity, found: Sensitivity) -> float:
    """Of the recipe's KL, what putting the tensor back to float saves; NaN where it is not known."""
    return math.nan if one.gain is None or not found.kl else one.gain / found.kl


def dearest(found: Sensitivity) -> list[TensorSensitivity]:
    """Those that cost most first; what is not known stands above all."""
    return sorted(found.tensors, key=lambda one: math.inf if one.gain is None else one.gain, reverse=True)


def sensitivity_words(result: RecipeResult) -> str:
    """The dearest tensors in a sentence; empty where that was not measured."""
    found = result.sensitivity
    if found is None or not found.tensors:
        return ""
    said = [_words(one, found) for one in dearest(found)[:_NAMED]]
    return f"{result.name} costs most at {'; '.join(said)}"


def _words(one: TensorSensitivity, found: Sensitivity) -> str:
    cause = cause_words(one)
    share = "of unknown cost" if one.gain is None else f"{percent(share_of(one, found))} of its KL"
    return f"{one.tensor} ({share}{': ' + cause if cause else ''})"


def ranks_differ(found: Sensitivity) -> Sequence[TensorSensitivity]:
    """The tensors in the order of their own errors, largest first: what a table of SNR per layer would blame."""
    return sorted(found.tensors, key=lambda one: math.inf if one.local_error is None else one.local_error, reverse=True)


def table_rows(found: Sensitivity, most: int) -> list[tuple[TensorSensitivity, int, str, str, str]]:
    """(tensor, its rank by its own error, the share of the KL, the same as the length of a bar, the cause in words)"""
    by_error = {one.tensor: rank for rank, one in enumerate(ranks_differ(found), start=1)}
    first = dearest(found)[:most]
    largest = max((share_of(one, found) for one in first if one.gain is not None), default=0.0)
    return [
        (
            one,
            by_error[one.tensor],
            percent(share_of(one, found)) if one.gain is not None else "-",
            "0" if one.gain is None or largest <= 0 else f"{max(0.0, share_of(one, found) / largest):.4f}",
            cause_words(one),
        )
        for one in first
    ]
