"""Every parameter of the loaded re-authored model against the tensors it was made of, bit by bit.

In: the model's parameters, their sources, a checkpoint folder. Out: findings of kind "weights". Tensors are read
from the files one after the other, so the memory of a second model is never taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.audit.beyond_half import BeyondHalf
from harness.audit.finite import checkpoint_findings, not_finite_words
from harness.names.codes import FindingCode
from harness.record.findings import Severity
from harness.record.record import Finding
from harness.weights.files import StoredTensor, shape_text, stored_tensors
from harness.weights.parameters import Fused, ParameterSource

Array = npt.NDArray[np.float32]
_SHOWN = 8
_STORED: dict[str, type[np.generic]] = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


class ExpectedValues:
    """What parameters should hold, by a checkpoint's files. seen: is given each tensor that is read, with its name."""

    def __init__(self, folder: Path, seen: Callable[[str, Array], None] = lambda name, values: None) -> None:
        self._stored = stored_tensors(folder)
        self._seen = seen
        self._read: dict[str, str] = {}  # name -> what of it is not finite

    def of(self, source: ParameterSource) -> Array:
        """The values of one parameter in float32. Raises ValueError where the parts do not fit together."""
        parts = [self.values(key) for key in source.keys]
        if source.columns is not None:
            return np.ascontiguousarray(parts[0][..., slice(*source.columns)])
        return parts[0] if source.fused is None else fuse(parts, source.fused)

    def values(self, key: str) -> Array:
        """A tensor of the checkpoint in float32. Raises ValueError for one that holds no floating point numbers."""
        values = read_values(self._stored[key])
        self._seen(key, values)
        if key not in self._read:
            self._read[key] = not_finite_words(values)
        return values

    def is_float(self, source: ParameterSource) -> bool:
        """Whether all tensors of a parameter hold floating point numbers."""
        return all(self._stored[key].dtype in _STORED for key in source.keys)

    def shape(self, key: str) -> tuple[int, ...]:
        """Of a tensor of the checkpoint, by its file's header."""
        return self._stored[key].shape

    def not_finite(self) -> list[Finding]:
        """What is NaN or infinite: errors of what was read so far, warnings of all that no parameter is made of."""
        rest = {
            name: not_finite_words(read_values(tensor))
            for name, tensor in self._stored.items()
            if name not in self._read and tensor.dtype in _STORED
        }
        return [*checkpoint_findings(self._read, "error"), *checkpoint_findings(rest, "warning")]

    def shape_of(self, source: ParameterSource) -> tuple[int, ...]:
        """The shape of one parameter, by the headers; parts that are fused lie one after the other."""
        shapes = [self.shape(key) for key in source.keys]
        if source.columns is not None:
            return (*shapes[0][:-1], source.columns[1] - source.columns[0])
        return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if source.fused is not None else shapes[0]


def read_values(tensor: StoredTensor) -> Array:
    """A tensor of a checkpoint in float32. Raises ValueError for one that holds no floating point numbers.

    Read and not mapped: pages that stay mapped would count as this process's memory, a whole model of them.
    """
    count = int(np.prod(tensor.shape, dtype=np.int64))
    kind = _STORED.get(tensor.dtype)
    if kind is None:
        raise ValueError(f"{tensor.name} holds {tensor.dtype}, which is not a floating point number known here")
    raw = np.fromfile(tensor.file, kind, count, offset=tensor.offset).reshape(tensor.shape)
    if tensor.dtype == "BF16":  # the upper half of a float32
        return (raw.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(raw.astype(np.float32, copy=False))


def fuse(parts: Sequence[Array], layout: Fused) -> Array:
    """Queries, keys and values `[rows, ...]` as one projection, in the order in which attention takes its rows."""
    if not layout.interleaved:
        return np.concatenate(parts)
    grouped = [part.reshape(layout.kv_heads, -1, *part.shape[1:]) for part in parts]
    return np.concatenate(grouped, axis=1).reshape(-1, *parts[0].shape[1:])


def loaded_wrongly(network: Any, sources: Sequence[ParameterSource], folder: Path) -> list[Finding]:
    """`differing_parameters` of a loaded re-authored model, and a warning that names what has no known source."""
    own = {name: parameter.detach().numpy() for name, parameter in network.state_dict().items()}
    findings = differing_parameters(own, sources, folder)
    unknown = sorted(own.keys() - {source.parameter for source in sources})
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        what = f"{len(unknown)} parameters of the re-authored model are not audited by value: {shown}"
        findings.append(weights_finding(FindingCode.PARAMETERS_NOT_AUDITED, what, severity="warning"))
    return findings


def differing_parameters(
    own: Mapping[str, Any], sources: Sequence[ParameterSource], folder: Path, *, reshaped: bool = False
) -> list[Finding]:
    """An error for each parameter that is not, bit for bit, what its sources say, and each source that is not finite;
    a warning of what overflows float16.

    own: name -> array of float32 values. reshaped: whether they may have other axes than the sources, such as heads
        apart, with as many numbers in the same order.
    """
    beyond = BeyondHalf()
    expected = ExpectedValues(folder, beyond)
    findings = []
    for source in sources:
        try:
            wanted, held = expected.of(source), own[source.parameter]
            difference = describe_difference(
                held.reshape(wanted.shape) if reshaped and held.size == wanted.size else held, wanted
            )
        except ValueError as error:
            difference = str(error)
        if difference:
            what = f"{source.parameter} of the re-authored model is not {' and '.join(source.keys)}: {difference}"
            findings.append(weights_finding(FindingCode.PARAMETER_DIFFERS, what, source.parameter))
    wrong = summarised(findings, len(sources), "parameters of the re-authored model")
    return [*expected.not_finite(), *wrong, *beyond.findings()]


def summarised(findings: list[Finding], whole: int, what: str) -> list[Finding]:
    """The findings, or the first few and how many more there are: weights of another checkpoint differ everywhere.

    whole: how many could have been wrong.
    """
    if len(findings) <= _SHOWN:
        return findings
    more = f"{len(findings)} of {whole} {what} are wrong, of which {_SHOWN} are listed: are these weights of one model?"
    return [weights_finding(FindingCode.WEIGHTS_WRONG, more), *findings[:_SHOWN]]


def describe_difference(one: Any, other: Any) -> str:
    """How two arrays differ, bit by bit; empty where they do not."""
    one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
    if one.shape != other.shape:
        return f"shape {shape_text(one.shape)} instead of {shape_text(other.shape)}"
    unequal = bits(one) != bits(other)
    count = int(unequal.sum())
    if not count:
        return ""
    largest = float(np.max(np.abs(one[unequal].astype(np.float64) - other[unequal])))
    at = np.unravel_index(int(np.argmax(unequal)), one.shape)
    where = ", ".join(str(int(i)) for i in at)
    return f"{count} of {one.size} numbers differ, by up to {largest:.3g}, first at [{where}]"


def bits(values: Array) -> npt.NDArray[np.uint32]:
    """The numbers' bits, so that NaN equals itself and a sign of zero counts."""
    return np.ascontiguousarray(values).view(np.uint32)


def weights_finding(code: FindingCode, what: str, parameter: str = "", severity: Severity = "error") -> Finding:
    """parameter: the re-authored model's that it is about."""
    return Finding(kind="weights", code=code, severity=severity, what=what, parameter=parameter)
