"""Why a tensor costs what it does. In: its figures, those of the other tensors, how near its numbers are. Out: a cause.

Pure. Only tensors that cost much more than their share have one: what is said of the others would be noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.names.codes import CostCause
from harness.names.taps import EMBED, LOGITS, split_tap
from harness.record.recipes import QuantisedLayer
from harness.record.sensitivity import Sensitivity, TensorSensitivity

_DEAR = 3.0  # times the share that a tensor would have were all alike
_SHARE_AT_LEAST = 0.02  # of the recipe's KL
_BEYOND_BEST = 1.5  # times the error that the best scales of the same kind give
# Of the squared error, by 1 % of the channels: 0.02 to 0.08 with random weights, where no channel stands out.
_OUTLIERS = 0.25
_MOSTLY = 0.5
_BEFORE_SOFTMAX = ("attn.q", "attn.k")


def with_causes(found: Sensitivity, layers: Sequence[QuantisedLayer]) -> Sensitivity:
    """layers: how near the numbers of each layer are to its weight."""
    near = {layer.layer: layer for layer in layers}
    tensors = [one.model_copy(update={"why": _cause(one, found, near)}) for one in found.tensors]
    return found.model_copy(update={"tensors": tensors})


def is_dear(one: TensorSensitivity, found: Sensitivity) -> bool:
    """Whether a tensor costs much more than its share of the recipe's KL."""
    if one.gain is None or not found.kl:
        return False
    return one.gain / found.kl >= max(_SHARE_AT_LEAST, _DEAR / len(found.tensors))


def _cause(one: TensorSensitivity, found: Sensitivity, near: Mapping[str, QuantisedLayer]) -> str:
    if not is_dear(one, found):
        return ""
    layer = near.get(one.layer)
    if layer is not None and layer.error is not None and layer.best and layer.error > _BEYOND_BEST * layer.best:
        return CostCause.SCALE
    names = one.tensor.split(", ")
    point = split_tap(names[0])[1]
    causes = (
        (one.outlier_share > _OUTLIERS, CostCause.OUTLIER_CHANNELS),
        (one.inputs_share > _MOSTLY, CostCause.INPUTS),
        (point in _BEFORE_SOFTMAX, CostCause.BEFORE_SOFTMAX),
        (LOGITS in names, CostCause.HEAD),
        (EMBED in names, CostCause.EMBEDDING),
    )
    return next((cause for holds, cause in causes if holds), CostCause.NUMBERS)
