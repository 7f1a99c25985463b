"""Biases and norms of a quantised flatbuffer against the checkpoint's, by reading.

In: a flatbuffer that the user gave, the sources of the re-authored parameters, a checkpoint folder. Out: findings, and
what the file holds in place of the checkpoint's.

A recipe makes the weights of layers narrow and leaves what is a vector in float, so that a vector of the file is the
checkpoint's bit by bit, or its nearest float16. What the converter has folded into the weight of a layer is not a
constant any more: what becomes of it is compared by running alone, and a warning says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from harness.audit.constants import RELATED, difference, forms, likeness
from harness.audit.named_constants import NamedConstant
from harness.audit.values import Array, ExpectedValues, bits, summarised, weights_finding
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import read_constants
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.weights.parameters import ParameterSource

_FLOAT16 = "FLOAT16"


@dataclass(frozen=True)
class _Differs:
    """A parameter whose constant holds something else. form: what the constant should hold, of the parameter `wanted`.

    in_part: other signatures read another constant, which holds the parameter.
    """

    source: ParameterSource
    constant: NamedConstant
    wanted: Array
    form: Array
    in_part: bool = False

    @property
    def finding(self) -> Finding:
        parameter, names = self.source.parameter, self.constant.read.signatures
        reader = f"which {' and '.join(names)} alone read{'s' if len(names) == 1 else ''},"
        where = reader if self.in_part else "of the flatbuffer"
        code = FindingCode.CONSTANT_DIFFERS_IN_PART if self.in_part else FindingCode.CONSTANT_DIFFERS
        comma = "," if self.in_part else ""
        what = f"constant {self.constant}{comma} {where} is not {parameter}: {difference(self.constant, self.form)}"
        return weights_finding(code, what, parameter)

    @property
    def held(self) -> Array:
        """What the file has in the parameter's place. A constant may hold it with one added."""
        values = np.squeeze(self.constant.values)
        one_more = np.abs(self.form - self.wanted).mean() > 0.5
        return values - np.float32(1) if one_more else values


@dataclass(frozen=True)
class _Compared:
    """vectors: how many parameters were looked for. lacking: those that no constant holds. differing: of them, those
    whose constant is known. partly: those that some signature reads another constant of, which differs. halves:
    parameter -> what float16 keeps of it, where constants of float16 alone hold it.
    """

    vectors: int
    lacking: list[ParameterSource]
    differing: list[_Differs]
    partly: list[_Differs]
    halves: dict[str, Array]


def held_vectors(file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path) -> dict[str, Array]:
    """Biases and norms of the file that are not the checkpoint's: parameter -> the values, `[numbers]`, float32."""
    compared = _compared(file, sources, folder)
    return compared.halves | {one.source.parameter: one.held for one in compared.differing}


def vector_findings(file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path) -> list[Finding]:
    """An error for each bias and norm that a constant of the file was made of and does not hold."""
    compared = _compared(file, sources, folder)
    found = [one.finding for one in (*compared.differing, *compared.partly)]
    told = summarised(found, compared.vectors, "biases and norms in the flatbuffer")
    known = [one.source for one in compared.differing]
    rest = [source.parameter for source in compared.lacking if source not in known]
    if rest:
        more = f" and {len(rest) - 1} more" if len(rest) > 1 else ""
        what = (
            f"no constant of the flatbuffer is {rest[0]}{more}: folded into the weights of layers, "
            "they are compared by running alone"
        )
        told.append(weights_finding(FindingCode.CONSTANT_NOT_COMPARED, what, rest[0], severity="warning"))
    return told


def _compared(file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path) -> _Compared:
    expected = ExpectedValues(folder)
    vectors = [s for s in sources if expected.is_float(s) and len(expected.shape_of(s)) == 1]
    constants = [
        (NamedConstant(read), dtype == _FLOAT16)
        for dtype in ("FLOAT32", _FLOAT16)
        for read in read_constants(file, dtype)
        if np.squeeze(read.values).ndim == 1
    ]
    lacking, partly, halves = [], [], {}
    for source in vectors:
        wanted = expected.of(source)
        widths = _fill(source, wanted, constants)
        if not widths:
            lacking.append((source, wanted))
            continue
        partly.append((source, wanted))
        if widths == {True}:
            halves[source.parameter] = _as_stored(wanted, half=True)
    left = [(constant, half) for constant, half in constants if not constant.holds]
    differing = list(_wrong(lacking, left))
    found = [replace(one, in_part=True) for held in partly for one in _wrong([held], _of_others(held[0], constants))]
    return _Compared(len(vectors), [source for source, _ in lacking], differing, found, halves)


def _of_others(
    source: ParameterSource, constants: Sequence[tuple[NamedConstant, bool]]
) -> list[tuple[NamedConstant, bool]]:
    """Constants that hold no parameter, of signatures of which none reads one that holds this parameter."""
    right = {
        name for constant, _ in constants if source.parameter in constant.holds for name in constant.read.signatures
    }
    return [(one, half) for one, half in constants if not one.holds and not right & set(one.read.signatures)]


def _fill(source: ParameterSource, wanted: Array, constants: Sequence[tuple[NamedConstant, bool]]) -> set[bool]:
    """Note which constants hold a parameter; for those that do, whether they are float16."""
    for constant, half in constants:
        held = np.squeeze(constant.values)
        if any(form.shape == held.shape and _same(held, form, half) for form in forms(wanted, source)):
            constant.holds.append(source.parameter)
    return {half for constant, half in constants if source.parameter in constant.holds}


def _same(held: Array, form: Array, half: bool) -> bool:
    return np.array_equal(bits(held), bits(_as_stored(form, half)))


def _as_stored(form: Array, half: bool) -> Array:
    with np.errstate(over="ignore"):
        return form.astype(np.float16).astype(np.float32) if half else form


def _wrong(
    lacking: Sequence[tuple[ParameterSource, Array]], left: Sequence[tuple[NamedConstant, bool]]
) -> Iterator[_Differs]:
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
        if best is not None and source.forms_known and (named or best[0][0] >= RELATED):
            best[1].claimed = True
            yield _Differs(source, best[1], wanted, best[2])
