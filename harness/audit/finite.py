"""Numbers that are NaN or infinite: in the checkpoint, and in a flatbuffer that a recipe made of finite weights.

In: tensors of a checkpoint, constants of a flatbuffer. Out: findings of kind "weights" that say where and whose they
are. What no stage could compute right is not charged to the stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.flatbuffer.reader import FlatbufferModel
from harness.names.codes import FindingCode
from harness.names.owners import CHECKPOINT, RECIPE
from harness.record.findings import Severity
from harness.record.record import Finding

_SHOWN = 8
_FLOATS: Mapping[str, Any] = {"FLOAT32": np.float32, "FLOAT16": np.float16}
# What a mask hides a position with: minus infinity, or the most negative number of its type.
_HIDING = -65504.0


def is_finite(values: npt.NDArray[np.floating[Any]]) -> bool:
    """Whether no number is NaN or infinite. One pass at the speed of memory where that is so."""
    flat = values.reshape(-1)
    if flat.dtype == np.float16:  # NumPy has no fast arithmetic for these: all bits of the exponent are set
        return not bool(((flat.view(np.uint16) & 0x7C00) == 0x7C00).any())
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.dot(flat, flat)  # NaN and infinity go on through it
    return bool(np.isfinite(total)) or bool(np.isfinite(flat).all())


def not_finite_words(values: npt.NDArray[np.floating[Any]]) -> str:
    """The first number that is not finite and how many more there are, `[3,5] is NaN`; empty where there is none."""
    if is_finite(values):
        return ""
    wrong = ~np.isfinite(values)
    count = int(wrong.sum())
    at = np.unravel_index(int(np.argmax(wrong)), values.shape)
    first = values[at]
    what = "NaN" if np.isnan(first) else "Inf" if first > 0 else "-Inf"
    more = f", and {count - 1} more of its {values.size} numbers are NaN or infinite" if count > 1 else ""
    return f"[{','.join(str(int(index)) for index in at)}] is {what}{more}"


def checkpoint_findings(not_finite: Mapping[str, str], severity: Severity) -> list[Finding]:
    """not_finite: name of a tensor -> `not_finite_words`. The first few, and how many more tensors there are."""
    wrong = {name: f"{name}{words} in the checkpoint" for name, words in not_finite.items() if words}
    said = list(wrong.items())
    if len(said) > _SHOWN:
        more = f"{len(said) - _SHOWN} more tensors of the checkpoint hold numbers that are not finite"
        said[_SHOWN:] = [("", more)]
    return [
        Finding(
            kind="weights",
            code=FindingCode.CHECKPOINT_NOT_FINITE,
            severity=severity,
            what=what,
            owner=CHECKPOINT,
            key=key,
        )
        for key, what in said
    ]


def file_findings(file: FlatbufferModel, recipe: str) -> list[Finding]:
    """One error for each float constant of a recipe's file that holds numbers which are not finite; masks may."""
    found = []
    for name, values in _float_constants(file):
        if values.size <= 1 or is_finite(values) or bool(np.all((values == 0) | (values <= _HIDING))):
            continue  # a single number is computed: a converter fills with NaN what is out of bounds
        infinite, nan = int(np.isinf(values).sum()), int(np.isnan(values).sum())
        counts = " and ".join(f"{count} {what}" for count, what in ((infinite, "Inf"), (nan, "NaN")) if count)
        why = ": float16 ends at 65,504" if values.dtype == np.float16 and infinite else ""
        what = f"constant {name} of the {recipe} flatbuffer holds {counts} among its {values.size} numbers{why}"
        found.append(_of_file(recipe, what))
    if len(found) > _SHOWN:
        what = f"{len(found) - _SHOWN} more constants of the {recipe} flatbuffer hold numbers that are not finite"
        found[_SHOWN:] = [_of_file(recipe, what)]
    return found


def _of_file(recipe: str, what: str) -> Finding:
    owner = f"{RECIPE} {recipe}"
    return Finding(kind="weights", code=FindingCode.FILE_NOT_FINITE, severity="error", what=what, owner=owner)


def short_name(name: str) -> str:
    """A tensor's name without packages, `TransformerBlock_1/GatedFeedForward_ff/Linear_w2`: they would fill a line."""
    parts = [part.rsplit(".", 1)[-1] for part in name.split(";")[0].split("/")]
    return "/".join([part for part in parts if not part.endswith("_module")] or parts[-1:])


def _float_constants(file: FlatbufferModel) -> Iterator[tuple[str, npt.NDArray[np.floating[Any]]]]:
    """Name and values of each float constant of all subgraphs, once."""
    seen: set[int] = set()
    for index in range(file.subgraph_count):
        for tensor in file.subgraph(index).tensors:
            kind = _FLOATS.get(tensor.dtype)
            if kind is None or tensor.buffer in seen:
                continue
            data = file.buffer(tensor.buffer)
            if len(data) and len(data) == np.dtype(kind).itemsize * int(np.prod(tensor.shape, dtype=np.int64)):
                seen.add(tensor.buffer)
                yield (
                    short_name(tensor.name) or f"buffer {tensor.buffer}",
                    np.frombuffer(data, np.uint8).view(kind).reshape(tensor.shape),
                )
