"""Linear layers that a norm was folded into: the converter multiplies the weight by the norm's, and adds to the bias.

In: constants that hold no parameter, the sources of the parameters. Out: what the folded ones hold, filled in. A norm
and the linear layer after it give `(x * g + b) W^T + c = x (W g)^T + (W b + c)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from harness.audit.named_constants import NamedConstant
from harness.audit.values import Array, ExpectedValues, bits
from harness.weights.parameters import ParameterSource

Wide = npt.NDArray[np.float64]
# Of what a float32 sum of these terms may be off by, term by term; in what order the converter adds is not known.
_ROUNDINGS = 16 * 2.0**-24


def match_folded(
    constants: Sequence[NamedConstant], sources: Sequence[ParameterSource], expected: ExpectedValues
) -> None:
    """Fill in what each constant holds that carries the names of a linear layer and of the norm before it."""
    known = {source.parameter: source for source in sources if expected.is_float(source)}
    pairs = {
        (linear, norm)
        for constant in constants
        for linear, norm in _named_pairs(constant, known)
        if _is_product(constant, expected.of(known[f"{linear}.weight"]), known[f"{norm}.weight"], expected)
    }
    for linear, norm in sorted(pairs):
        weight = expected.of(known[f"{linear}.weight"])
        shift = known.get(f"{norm}.bias")
        bias = known.get(f"{linear}.bias")
        total, terms = _shifted(weight, bias, shift, expected)
        for constant in constants:
            values = np.squeeze(constant.values)
            if _is_product(constant, weight, known[f"{norm}.weight"], expected):
                constant.holds += [f"{linear}.weight", f"{norm}.weight"]
            elif shift is not None and values.shape == total.shape and bool(np.all(np.abs(values - total) <= terms)):
                constant.holds += [source.parameter for source in (bias, shift) if source is not None]


def _named_pairs(constant: NamedConstant, known: dict[str, ParameterSource]) -> Iterator[tuple[str, str]]:
    """(linear layer, norm) among a constant's names. A linear layer is known by its bias or width: any other module."""
    modules = [name for name in dict.fromkeys(constant.names) if f"{name}.weight" in known]
    yield from ((linear, norm) for linear in modules for norm in modules if linear != norm)


def _is_product(constant: NamedConstant, weight: Array, norm: ParameterSource, expected: ExpectedValues) -> bool:
    gain = expected.of(norm)
    values = np.squeeze(constant.values)
    if weight.ndim != 2 or gain.shape != weight.shape[1:] or values.shape != weight.shape:
        return False
    gain = np.float32(1) + gain if norm.one_plus else gain
    return np.array_equal(bits(values), bits(weight * gain))


def _shifted(
    weight: Array, bias: ParameterSource | None, shift: ParameterSource | None, expected: ExpectedValues
) -> tuple[Wide, Wide]:
    """The bias of a folded layer in float64, and how far a float32 sum may be from it."""
    own = expected.of(bias).astype(np.float64) if bias is not None else np.zeros(len(weight))
    added = expected.of(shift).astype(np.float64) if shift is not None else np.zeros(weight.shape[1])
    wide = weight.astype(np.float64)
    return own + wide @ added, _ROUNDINGS * (np.abs(own) + np.abs(wide) @ np.abs(added))
