"""What a function gives, as named arrays.

In: a tensor, an array, a number, or tuples, lists, dicts and dataclasses of those. Out: a name and an array for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_DEEPEST = 16


@dataclasses.dataclass(frozen=True)
class Output:
    """values: float64 where the dtype is one that NumPy lacks (bfloat16). dtype: as torch and NumPy both call it."""

    name: str  # "", "[0]", ".logits", "['loss']"
    values: Array
    dtype: str


class UncomparableError(ValueError):
    """Something that is given and cannot be compared: exact to one line, with the remedy."""


def outputs_of(given: object, only: tuple[str, ...] | None = None) -> dict[str, Output]:
    """Every array by its name. only: globs of names; None for all.

    Raises UncomparableError for an object that is none of these, and for nothing at all.
    """
    found = {output.name: output for output in _flat(given, "", only, 0)}
    if not found:
        wanted = f" called {', '.join(only)}" if only else ""
        raise UncomparableError(f"nothing to compare: there is no output{wanted} in a {type(given).__name__}")
    return found


def _flat(given: object, name: str, only: tuple[str, ...] | None, depth: int) -> Iterator[Output]:
    if given is None:
        return
    parts = list(_parts(given)) if depth < _DEEPEST else None
    if parts is not None and _is_group(given):
        for key, part in parts:
            yield from _flat(part, name + key, only, depth + 1)
        return
    if only is not None and not any(fnmatchcase(name, glob) for glob in only):
        return
    found = _array(given)
    if found is None:
        raise UncomparableError(
            f"output {name or 'itself'} is a {type(given).__name__}, which is not compared; "
            "name what to compare with outputs=(...)"
        )
    yield Output(name, *found)


def _is_group(given: object) -> bool:
    return isinstance(given, (tuple, list, Mapping)) or (
        dataclasses.is_dataclass(given) and not isinstance(given, type)
    )


def _parts(given: object) -> Iterator[tuple[str, object]]:
    if dataclasses.is_dataclass(given) and not isinstance(given, type):
        for entry in dataclasses.fields(given):
            yield f".{entry.name}", getattr(given, entry.name)
    elif isinstance(given, Mapping):
        for key, part in given.items():
            yield f"[{key!r}]", part
    elif isinstance(given, tuple) and hasattr(given, "_fields"):
        for key in given._fields:
            yield f".{key}", getattr(given, key)
    elif isinstance(given, (tuple, list)):
        for index, part in enumerate(given):
            yield f"[{index}]", part


def _array(given: Any) -> tuple[Array, str] | None:
    if isinstance(given, (bool, int, float, complex)):
        return np.asarray(given), type(given).__name__
    if type(given).__module__.partition(".")[0] == "torch" or hasattr(given, "detach"):
        return _torch_array(given)
    if isinstance(given, (np.ndarray, np.generic)) or hasattr(given, "__array__"):
        values = np.asarray(given)
        dtype = str(values.dtype)
        if values.dtype.kind == "V" or dtype == "bfloat16":  # of ml_dtypes, as jax gives it
            return values.astype(np.float64), dtype
        return (values, dtype) if values.dtype.kind in "biufc" else None
    return None


def _torch_array(tensor: Any) -> tuple[Array, str] | None:
    import torch

    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        return None
    dtype = str(tensor.dtype).removeprefix("torch.")
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (plain.double() if tensor.dtype == torch.bfloat16 else plain).numpy(), dtype
