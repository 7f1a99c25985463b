"""Every float constant of a flatbuffer against the parameter it was made of, bit by bit, in every signature.

In: a float32 flatbuffer, the sources of the re-authored parameters, a checkpoint folder. Out: findings of kind
"weights" and how many constants were matched.

Constants are matched by value and not by name: the converter leaves norms and embeddings without one. Each signature is
audited for itself, since it may read a copy of its own: a parameter that none of its constants holds is an error, and
so is a constant that was meant to be a parameter and holds none. The file is mapped, and the checkpoint read tensor by
tensor.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.audit.computed import is_computed
from harness.audit.folded import match_folded
from harness.audit.masks import wrong_flags, wrong_mask
from harness.audit.named_constants import NamedConstant
from harness.audit.pieces import covers, find_pieces
from harness.audit.turned import turned_round
from harness.audit.values import Array, ExpectedValues, bits, describe_difference, summarised, weights_finding
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.reads import read_constants
from harness.flatbuffer.signatures import DECODE, PREFILL, can_run
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.weights.files import shape_text
from harness.weights.parameters import ParameterSource

_HEAD = 32  # numbers that are compared before the whole is
_SAMPLE = 1 << 16  # numbers by which the nearest parameter is told
_TRANSPOSED = 1  # of the forms of a matrix
_BLOCK = re.compile(r"(?:\w+\.)+?(\d+)\.")  # transformer_blocks.3., and as a published model calls it model.layers.3.
_NO_BLOCK = "no block"
# The final norm and the head, of a re-authored model and of published ones that are exported themselves.
_AFTER_BLOCKS = (
    "final_norm.",
    "lm_head.",
    "model.norm.",
    "model.embedding_norm.",
    "model.final_layernorm.",
    "transformer.ln_f.",
)
RELATED = 0.5  # a constant that shares this much with a parameter was made of it


@dataclass(frozen=True)
class ConstantAudit:
    """matched: constants that hold a parameter. computed: masks, rotary tables, and single numbers."""

    findings: list[Finding]
    matched: int
    computed: int


@dataclass(frozen=True)
class _Audit:
    """flags: constants that are booleans.

    signatures: name -> whether it gives logits; without them its last block need only fill the KV cache.
    """

    sources: Sequence[ParameterSource]
    expected: ExpectedValues
    constants: Sequence[NamedConstant]
    flags: Sequence[NamedConstant]
    signatures: dict[str, bool]

    @functools.cached_property
    def last_block(self) -> str:
        """The beginning of its parameters' names, whatever a list of blocks is called."""
        found = [match for source in self.sources if (match := _BLOCK.match(source.parameter))]
        return max(found, key=lambda match: int(match[1]))[0] if found else _NO_BLOCK

    @property
    def parts(self) -> list[ParameterSource]:
        """What parameters are fused of, each as a parameter of its own: an exporter may keep them apart."""
        return [part for source in self.sources if source.fused is not None for part in _apart(source)]

    def holds(self, signature: str, source: ParameterSource) -> bool:
        """Whether what a signature reads holds a parameter, in one constant or in several."""
        read = [c for c in self.constants if signature in c.read.signatures]
        if any(source.parameter in c.holds for c in read):
            return True
        pieces = [piece for c in read for piece in c.pieces]
        return bool(pieces) and all(covers(pieces, key, self.expected.shape(key)[0]) for key in source.keys)

    def all_read(self, constant: NamedConstant) -> bool:
        return set(constant.read.signatures) >= set(self.signatures)

    def readers(self, constant: NamedConstant) -> str:
        """Which signatures read a constant, in words for a sentence; of one that all read: of the flatbuffer."""
        if self.all_read(constant):
            return " of the flatbuffer"
        names = constant.read.signatures
        return f", which {' and '.join(names)} alone read{'s' if len(names) == 1 else ''},"


def audit_constants(
    file: FlatbufferModel,
    sources: Sequence[ParameterSource],
    folder: Path,
    tables: Sequence[Sequence[float]] = (),
    windows: Sequence[int] = (),
) -> ConstantAudit:
    """Match constants and parameters both ways, in each signature.

    tables: what the re-authored model makes of positions, from `position_tables`. windows: of its sliding layers.
    """
    constants = [NamedConstant(read) for read in read_constants(file)]
    signatures = {
        name: "logits" in entry.outputs
        for name, entry in file.signatures.items()
        if name == DECODE or name.startswith(PREFILL)
    }
    flags = [NamedConstant(read) for read in read_constants(file, "BOOL")]
    audit = _Audit(sources, ExpectedValues(folder), constants, flags, signatures)
    findings = [*_match(audit)]
    _match_pieces(audit, tables)
    match_folded([c for c in constants if not c.found and c.values.size > 1], sources, audit.expected)
    findings += _wrong_masks(audit, windows)
    findings += [
        weights_finding(FindingCode.CONSTANT_TURNED, what, parameter) for parameter, what in turned_round(constants)
    ]
    strangers = [c for c in constants if not (c.found or c.claimed or _is_known(c, audit, tables))]
    # From here on a stranger that was meant to be a parameter is claimed.
    findings += _lost_parameters(audit, strangers)
    findings = summarised(findings, len(sources), "parameters in the flatbuffer")
    findings += _unlike_its_twin(audit, [c for c in strangers if not c.claimed], tables)
    findings += _strangers(audit, [c for c in strangers if not c.claimed])
    matched = sum(1 for c in constants if c.found)
    return ConstantAudit(findings, matched, len(constants) - matched - len(strangers))


def _apart(source: ParameterSource) -> list[ParameterSource]:
    return [ParameterSource(parameter=key, keys=[key], forms_known=source.forms_known) for key in source.keys]


def _match(audit: _Audit) -> Iterator[Finding]:
    """Fill in what each constant holds."""
    by_size: dict[int, list[NamedConstant]] = {}
    for constant in audit.constants:
        by_size.setdefault(constant.values.size, []).append(constant)
    for source in audit.sources:
        try:
            values = audit.expected.of(source)
        except ValueError as unfit:
            what = f"{source.parameter} cannot be compared with the flatbuffer: {unfit}"
            yield weights_finding(FindingCode.CONSTANT_NOT_COMPARED, what, source.parameter)
            continue
        for constant in by_size.get(values.size, []):
            tried = enumerate(forms(values, source))
            form = next((number for number, form in tried if _equal(constant.values, form)), None)
            if form is not None:
                constant.holds.append(source.parameter)
            if form == _TRANSPOSED and values.ndim == 2:
                constant.turned.append(source.parameter)


def _match_pieces(audit: _Audit, tables: Sequence[Sequence[float]]) -> None:
    """Of the constants that hold no parameter whole. Zeros may be some tensor's; other computed ones are none's."""
    open_ = [c for c in audit.constants if not c.holds and c.values.size > 1]
    open_ = [c for c in open_ if not c.values.any() or not is_computed(c.values, tables)]
    keys = [key for source in audit.sources for key in source.keys]
    found = find_pieces([c.values for c in open_], audit.expected, keys) if open_ else []
    for constant, pieces in zip(open_, found, strict=True):
        constant.pieces = pieces


def forms(values: Array, source: ParameterSource) -> Iterator[Array]:
    """What the converter may make of a parameter: the same, turned, with one added, scaled."""
    yield values
    if values.ndim == 2:
        yield values.T
    if source.one_plus or not source.forms_known:
        yield np.float32(1) + values
    if source.scale is not None:
        yield values * np.float32(source.scale)
        if source.columns is not None and values.ndim == 2:
            yield (values * np.float32(source.scale)).T
    if source.divisor is not None:
        yield values * np.float32(1 / source.divisor)
        yield values / np.float32(source.divisor)


def _equal(one: Array, other: Array) -> bool:
    """Bit for bit, whatever dimensions of size one there are."""
    one, other = np.squeeze(one), np.squeeze(other)
    if one.shape != other.shape:
        return False
    first = (0,) * (one.ndim - 1)
    if one.ndim and not np.array_equal(bits(one[first][:_HEAD]), bits(other[first][:_HEAD])):
        return False
    return np.array_equal(bits(one), bits(other))


def _wrong_masks(audit: _Audit, windows: Sequence[int]) -> Iterator[Finding]:
    """Masks of numbers, which hold no parameter, and of booleans."""
    for constant in audit.constants:
        # Rows of an image see each other; a signature that takes text has none.
        image = not any(can_run(name) for name in constant.read.signatures)
        wrong = "" if constant.found else wrong_mask(constant.values, windows, prefix=image)
        if wrong:
            constant.claimed = True
            yield _wrong_mask(audit, constant, wrong)
    for constant in audit.flags:
        wrong = wrong_flags(constant.values, windows)
        if wrong:
            yield _wrong_mask(audit, constant, wrong)


def _wrong_mask(audit: _Audit, constant: NamedConstant, wrong: str) -> Finding:
    what = f"constant {constant}{audit.readers(constant)} is a mask that is wrong: {wrong}"
    return weights_finding(FindingCode.MASK_WRONG, what)


def _is_known(constant: NamedConstant, audit: _Audit, tables: Sequence[Sequence[float]]) -> bool:
    """Made by code and not loaded, by what it holds; zeros of a parameter's name and size are no such thing."""
    named = any(constant.is_named(source) for source in _of_size(audit, constant))
    return is_computed(constant.values, tables) and not (named and constant.values.size > 1)


def _of_size(audit: _Audit, constant: NamedConstant) -> list[ParameterSource]:
    return [
        s for s in (*audit.sources, *audit.parts) if int(np.prod(audit.expected.shape_of(s))) == constant.values.size
    ]


def _lost_parameters(audit: _Audit, strangers: Sequence[NamedConstant]) -> Iterator[Finding]:
    """An error for each parameter that no constant of some signature holds."""
    for source in audit.sources:
        missing = [name for name in audit.signatures if _must_read(audit, name, source)]
        missing = [name for name in missing if not audit.holds(name, source)]
        near = [c for c in strangers if set(missing) & set(c.read.signatures)]
        for lost in _lost_of(audit, source, missing, near) if missing else ():
            try:
                values = audit.expected.of(lost)
            except ValueError:
                continue  # reported when it was matched
            alike = [c for c in near if c.values.size == values.size]
            if not _adds_nothing(lost, values) or any(constant.is_named(lost) for constant in alike):
                yield _lost(audit, lost, values, missing, alike)


def _adds_nothing(source: ParameterSource, values: Array) -> bool:
    """Whether it is a bias of zeros: a converter leaves such an addition out, and nothing is lost."""
    return source.parameter.endswith(("bias", "beta")) and not values.any()


def _lost_of(
    audit: _Audit, source: ParameterSource, missing: Sequence[str], near: Sequence[NamedConstant]
) -> list[ParameterSource]:
    """The parameter, or those of its parts that are lost where the file keeps them apart."""
    if source.fused is None:
        return [source]
    parts = _apart(source)
    lost = [part for part in parts if not all(audit.holds(name, part) for name in missing)]
    together = len(lost) == len(parts) and any(source in _of_size(audit, constant) for constant in near)
    return [source] if together else lost


def _must_read(audit: _Audit, signature: str, source: ParameterSource) -> bool:
    """Without logits nothing reads the head, the final norm, and what comes after the last block's keys and values."""
    at_the_end = source.parameter.startswith((audit.last_block, *_AFTER_BLOCKS))
    return audit.signatures[signature] or not at_the_end


def _lost(
    audit: _Audit, source: ParameterSource, values: Array, missing: Sequence[str], near: Sequence[NamedConstant]
) -> Finding:
    named = [c for c in near if c.is_named(source)]
    fits = [(likeness(c.values, form), c, form) for c in named or near for form in _same_shape(c, values, source)]
    best = max(fits, key=lambda fit: (not fit[1].claimed, fit[0]), default=None)
    if best is not None and (best[0][0] >= RELATED or named):
        best[1].claimed = True
        return _not(audit, best[1], source, difference(best[1], best[2]))
    everywhere = len(missing) == len(audit.signatures)
    whose = "of the flatbuffer" if everywhere else f"that {' and '.join(missing)} reads"
    what = f"no constant {whose} holds {source.parameter}: its values are not in {'the file' if everywhere else 'one'}"
    code = FindingCode.CONSTANT_LACKING if everywhere else FindingCode.CONSTANT_LACKING_IN_PART
    if not source.forms_known:
        return weights_finding(code, f"{what}, or in a form that is not known here", source.parameter, "warning")
    if best is not None:
        best[1].claimed = True
        what += f"; the nearest constant is {best[1]}: {difference(best[1], best[2])}"
    return weights_finding(code, what, source.parameter)


def _unlike_its_twin(
    audit: _Audit, strangers: Sequence[NamedConstant], tables: Sequence[Sequence[float]]
) -> Iterator[Finding]:
    """An error for each table that other signatures read as code makes it: of one name and shape, mostly the same."""
    for constant in strangers:
        for twin in audit.constants:
            same = str(twin) == str(constant) and twin.values.shape == constant.values.shape
            apart = not set(twin.read.signatures) & set(constant.read.signatures)
            if same and apart and is_computed(twin.values, tables) and _is_related(constant, twin):
                constant.claimed = True
                mine, others = (" and ".join(one.read.signatures) for one in (constant, twin))
                what = (
                    f"constant {constant} {shape_text(constant.values.shape)} of {mine} differs from that of {others}, "
                    f"which is right: {difference(constant, twin.values)}"
                )
                yield weights_finding(FindingCode.CONSTANT_DIFFERS_IN_PART, what)
                break


def _is_related(constant: NamedConstant, twin: NamedConstant) -> bool:
    return constant.values.size > 1 and likeness(constant.values, twin.values)[0] >= RELATED


def _strangers(audit: _Audit, strangers: Sequence[NamedConstant]) -> list[Finding]:
    """Constants that hold no parameter: an error where one was meant, else a warning."""
    wrong, unknown = [], []
    for constant in strangers:
        finding = _meant(audit, constant)
        if finding is None:
            unknown.append(constant)
        else:
            wrong.append(finding)
    findings = summarised(wrong, len(audit.constants), "constants in the flatbuffer")
    if unknown:
        shown = "; ".join(f"{c} {shape_text(c.values.shape)}" for c in unknown[:3])
        count = f"{len(unknown)} float constant{'s' if len(unknown) > 1 else ''}"
        what = f"{count} of the flatbuffer could not be matched with a parameter: {shown}"
        findings.append(weights_finding(FindingCode.CONSTANTS_UNKNOWN, what, severity="warning"))
    return findings


def _meant(audit: _Audit, constant: NamedConstant) -> Finding | None:
    """The error of a constant that has a parameter's shape, or its module's name; None for one that has neither."""
    best: tuple[tuple[float, float], ParameterSource, Array] | None = None
    named = [source for source in audit.sources if constant.is_named(source)]
    sized = _of_size(audit, constant)
    for source in [s for s in sized if constant.is_named(s)] or sized:
        for form in _same_shape(constant, audit.expected.of(source), source):
            alike = likeness(constant.values, form)
            if source.forms_known and (best is None or alike > best[0]):
                best = alike, source, form
    if best is not None:
        return _not(audit, constant, best[1], difference(constant, best[2]))
    if named and named[0].forms_known:
        shape = shape_text(constant.values.shape)
        of = f"shape {shape}, where it has {shape_text(audit.expected.shape_of(named[0]))}"
        return _not(audit, constant, named[0], of)
    return None


def _same_shape(constant: NamedConstant, values: Array, source: ParameterSource) -> Iterator[Array]:
    shape = np.squeeze(constant.values).shape
    return (form for form in forms(values, source) if np.squeeze(form).shape == shape)


def likeness(one: Array, other: Array) -> tuple[float, float]:
    """How much a constant is like a parameter of its shape: the share of numbers that are the same but for their sign,
    then the squared error over the parameter's square, negated. By a sample of the numbers.
    """
    one, other = np.squeeze(one).reshape(-1), np.squeeze(other).reshape(-1)
    step = max(1, one.size // _SAMPLE)
    one, other = one[::step], other[::step]
    same = float(np.mean(bits(np.abs(one)) == bits(np.abs(other))))
    with np.errstate(all="ignore"):
        error = float(np.sum((one.astype(np.float64) - other) ** 2) / np.sum(other.astype(np.float64) ** 2))
    return same, -error if np.isfinite(error) else -np.inf


def difference(constant: NamedConstant, form: Array) -> str:
    """How a constant differs from what it should hold, in words."""
    return describe_difference(constant.values.reshape(form.shape), form)


def _not(audit: _Audit, constant: NamedConstant, source: ParameterSource, difference: str) -> Finding:
    code = FindingCode.CONSTANT_DIFFERS if audit.all_read(constant) else FindingCode.CONSTANT_DIFFERS_IN_PART
    what = f"constant {constant}{audit.readers(constant)} is not {source.parameter}: {difference}"
    return weights_finding(code, what, source.parameter)
