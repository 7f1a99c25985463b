"""Every float constant of a flatbuffer against the parameter it was made of, bit by bit.

In: a float32 flatbuffer, the sources of the re-authored parameters, a checkpoint folder. Out: findings of kind
"weights" and how many constants were matched.

Constants are matched by value and not by name: the converter leaves norms and embeddings without one. A parameter that
no constant holds, and a constant that holds almost a parameter, is an error. The file is mapped, and the checkpoint
read tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.audit.parameters import ParameterSource
from harness.audit.values import Array, Expected, bits, describe_difference, summarised
from harness.flatbuffer.reader import FlatbufferModel
from harness.record import Finding
from harness.weight_files import shape_text

_HEAD = 32  # numbers that are compared before the whole is
_BLOCK = re.compile(r"Block_(\d+)$")
_MASKED = -np.finfo(np.float32).max  # what the converter makes of minus infinity
_RELATED = 0.5  # a constant that shares this much with a parameter was made of it


@dataclass
class _Constant:
    """names: re-authored modules that its tensor names lead to; none for one the converter left unnamed."""

    label: str
    values: Array
    names: list[str]
    holds: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Its own tensor's name without the packages before it, which fill a screen."""
        return self.label.split(";;")[0].rsplit("/", 1)[-1].rsplit(".", 1)[-1].rstrip(";")


@dataclass(frozen=True)
class ConstantAudit:
    """matched: constants that hold a parameter. computed: masks, rotary tables, and single numbers."""

    findings: list[Finding]
    matched: int
    computed: int


def audit_constants(
    file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path, tables: Sequence[Sequence[float]] = ()
) -> ConstantAudit:
    """Match constants and parameters both ways.

    tables: what the re-authored model makes of positions, from `position_tables`.
    """
    constants = list(_constants(file))
    by_size: dict[int, list[_Constant]] = {}
    for constant in constants:
        by_size.setdefault(constant.values.size, []).append(constant)
    expected = Expected(folder)
    lost: list[ParameterSource] = []
    findings: list[Finding] = []
    for source in sources:
        try:
            values = expected.of(source)
        except ValueError as error:
            findings.append(_error(f"{source.parameter} cannot be compared with the flatbuffer: {error}"))
            continue
        holders = [c for c in by_size.get(values.size, []) if any(_equal(c.values, v) for v in _forms(values, source))]
        for constant in holders:
            constant.holds.append(source.parameter)
        if not holders:
            lost.append(source)
    matched = sum(1 for c in constants if c.holds)
    strangers = [c for c in constants if not c.holds and not _is_computed(c.values, tables)]
    # From here on a stranger that was meant to be a parameter holds its name.
    findings += [_lost(source, expected.of(source), strangers) for source in lost]
    findings = summarised(findings, len(sources), "parameters in the flatbuffer")
    findings += _strangers(strangers, sources, expected)
    return ConstantAudit(findings, matched, len(constants) - matched - len(strangers))


def _constants(file: FlatbufferModel) -> Iterator[_Constant]:
    """Float32 constants of all subgraphs; those that signatures share once."""
    found: dict[int, _Constant] = {}
    for index in range(file.subgraph_count):
        for tensor in file.subgraph(index).tensors:
            if tensor.dtype != "FLOAT32" or tensor.buffer in found:
                continue
            data = file.buffer(tensor.buffer)
            if len(data) and len(data) == 4 * int(np.prod(tensor.shape, dtype=np.int64)):
                # Buffers inside the flatbuffer need not begin at a multiple of four.
                values = np.frombuffer(data, np.uint8).view(np.float32).reshape(tensor.shape)
                names = [module for path in tensor.paths if (module := _module(path))]
                found[tensor.buffer] = _Constant(tensor.name or f"buffer {tensor.buffer}", values, names)
    yield from found.values()


def _module(path: tuple[str, ...]) -> str:
    """("X_module", "TransformerBlock_3", "GatedFeedForward_ff", "Linear_w2") -> "transformer_blocks.3.ff.w2"."""
    parts = []
    for part in path:
        block = _BLOCK.search(part)
        if block:
            parts = ["transformer_blocks", block.group(1)]
        elif not part.endswith("_module"):
            parts.append(part.partition("_")[2])
    return ".".join(part for part in parts if part)


def _forms(values: Array, source: ParameterSource) -> Iterator[Array]:
    """What the converter may make of a parameter: the same, turned, with one added, scaled."""
    yield values
    if values.ndim == 2:
        yield values.T
    if source.one_plus or not source.forms_known:
        yield np.float32(1) + values
    if source.scale is not None:
        yield values * np.float32(source.scale)
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


def _is_computed(values: Array, tables: Sequence[Sequence[float]]) -> bool:
    """Made by code and not loaded: single numbers, masks, rotary frequencies, ALiBi biases."""
    flat = values.reshape(-1)
    if flat.size <= 1 or bool(np.all((flat == 0) | (flat <= _MASKED))):
        return True
    if np.squeeze(values).ndim == 2:  # heads x positions
        heads, positions = np.squeeze(values).shape
        return any(
            len(known) == heads and np.allclose(np.squeeze(values), np.outer(known, np.arange(positions)), rtol=1e-5)
            for known in tables
        )
    with np.errstate(divide="ignore"):
        return any(
            len(known) == flat.size and (np.allclose(flat, known, rtol=1e-5) or np.allclose(1 / flat, known, rtol=1e-5))
            for known in tables
        )


def _lost(source: ParameterSource, values: Array, strangers: list[_Constant]) -> Finding:
    module = source.parameter.rpartition(".")[0]
    same_size = [c for c in strangers if c.values.size == values.size and not c.holds]
    related = [c for c in same_size if module in c.names] or same_size
    best: tuple[float, _Constant, str] | None = None
    for constant in related:
        for form in _forms(values, source):
            if np.squeeze(form).shape == np.squeeze(constant.values).shape:
                shared = _shared(constant.values, form)
                if best is None or shared > best[0]:
                    best = (shared, constant, describe_difference(constant.values.reshape(form.shape), form))
    if best is None or not (best[0] >= _RELATED or module in best[1].names):
        what = f"no constant of the flatbuffer holds {source.parameter}: its values are not in the file"
        if source.forms_known:
            return _error(what)
        return Finding(kind="weights", severity="warning", what=f"{what}, or in a form that is not known here")
    best[1].holds.append(source.parameter)
    return _error(f"constant {best[1]} of the flatbuffer is not {source.parameter}: {best[2]}")


def _strangers(strangers: list[_Constant], sources: Sequence[ParameterSource], expected: Expected) -> list[Finding]:
    """Constants that hold no parameter: an error where one was meant, else a warning."""
    findings, unknown = [], []
    for constant in strangers:
        if constant.holds:
            continue
        finding = _meant(constant, sources, expected)
        if finding is not None:
            constant.holds.append("")
            findings.append(finding)
        else:
            unknown.append(constant)
    if unknown:
        shown = "; ".join(f"{c} {shape_text(c.values.shape)}" for c in unknown[:3])
        what = f"{len(unknown)} float constants of the flatbuffer could not be matched with a parameter: {shown}"
        findings.append(Finding(kind="weights", severity="warning", what=what))
    return findings


def _meant(constant: _Constant, sources: Sequence[ParameterSource], expected: Expected) -> Finding | None:
    for source in sources:
        if source.parameter.rpartition(".")[0] not in constant.names and constant.names:
            continue
        try:
            values = expected.of(source)
        except ValueError:
            continue
        if values.size != constant.values.size:
            continue
        for form in _forms(values, source):
            if (
                np.squeeze(form).shape == np.squeeze(constant.values).shape
                and _shared(constant.values, form) >= _RELATED
            ):
                difference = describe_difference(constant.values.reshape(form.shape), form)
                return _error(f"constant {constant} of the flatbuffer is not {source.parameter}: {difference}")
    return None


def _shared(one: Array, other: Array) -> float:
    """The share of numbers that are the same."""
    return float(np.mean(bits(one).reshape(-1) == bits(other).reshape(-1)))


def _error(what: str) -> Finding:
    return Finding(kind="weights", severity="error", what=what)
