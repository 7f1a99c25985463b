"""Biases and norms of a quantised flatbuffer against the checkpoint's, by reading.

In: a flatbuffer that the user gave, the sources of the re-authored parameters, a checkpoint folder. Out: findings.

A recipe makes the weights of layers narrow and leaves what is a vector in float, so that a vector of the file is the
checkpoint's bit by bit, or its nearest float16. What the converter has folded into the weight of a layer is no constant
any more: what becomes of it is compared by running alone, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from harness.audit.constants import difference, forms, likeness
from harness.audit.named_constants import NamedConstant
from harness.audit.values import Array, ExpectedValues, bits, summarised, weights_finding
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import read_constants
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.weights.parameters import ParameterSource

_RELATED = 0.5  # a vector that shares this much with a parameter was made of it
_FLOAT16 = "FLOAT16"


def vector_findings(file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path) -> list[Finding]:
    """An error for each bias and norm that a constant of the file was made of and does not hold."""
    expected = ExpectedValues(folder)
    vectors = [s for s in sources if expected.is_float(s) and len(expected.shape_of(s)) == 1]
    constants = [
        (NamedConstant(read), dtype == _FLOAT16)
        for dtype in ("FLOAT32", _FLOAT16)
        for read in read_constants(file, dtype)
        if np.squeeze(read.values).ndim == 1
    ]
    lacking = []
    for source in vectors:
        wanted = expected.of(source)
        if not _fill(source, wanted, constants):
            lacking.append((source, wanted))
    left = [(constant, half) for constant, half in constants if not constant.holds]
    found = list(_wrong(lacking, left))
    told = summarised([finding for _, finding in found], len(vectors), "biases and norms in the flatbuffer")
    rest = [source.parameter for source, _ in lacking if source not in [one for one, _ in found]]
    if rest:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        what = (
            f"no constant of the flatbuffer is {rest[0]}{more}: folded into the weights of layers, "
            "they are compared by running alone"
        )
        told.append(weights_finding(FindingCode.CONSTANT_NOT_COMPARED, what, rest[0], severity="warning"))
    return told


def _fill(source: ParameterSource, wanted: Array, constants: Sequence[tuple[NamedConstant, bool]]) -> bool:
    """Note which constants hold a parameter; whether any does."""
    for constant, half in constants:
        held = np.squeeze(constant.values)
        if any(form.shape == held.shape and _same(held, form, half) for form in forms(wanted, source)):
            constant.holds.append(source.parameter)
    return any(source.parameter in constant.holds for constant, _ in constants)


def _same(held: Array, form: Array, half: bool) -> bool:
    return np.array_equal(bits(held), bits(_as_stored(form, half)))


def _as_stored(form: Array, half: bool) -> Array:
    with np.errstate(over="ignore"):
        return form.astype(np.float16).astype(np.float32) if half else form


def _wrong(
    lacking: Sequence[tuple[ParameterSource, Array]], left: Sequence[tuple[NamedConstant, bool]]
) -> Iterator[tuple[ParameterSource, Finding]]:
    """The parameters that a constant left over was made of: by its name, or by most of its numbers."""
    for source, wanted in lacking:
        fits = [
            (likeness(np.squeeze(constant.values), _as_stored(form, half)), constant, _as_stored(form, half))
            for constant, half in left
            for form in forms(wanted, source)
            if form.shape == np.squeeze(constant.values).shape and not constant.claimed
        ]
        named = [fit for fit in fits if fit[1].is_named(source)]
        best = max(named or fits, key=lambda fit: fit[0], default=None)
        if best is not None and source.forms_known and (named or best[0][0] >= _RELATED):
            best[1].claimed = True
            what = f"constant {best[1]} of the flatbuffer is not {source.parameter}: {difference(best[1], best[2])}"
            yield source, weights_finding(FindingCode.CONSTANT_DIFFERS, what, source.parameter)
