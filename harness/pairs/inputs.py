"""Inputs that two files share: a person's, or drawn from a seed by what a signature takes.

In: a file, a signature, and a `.npz` or a seed. Out: an array for each input.
"""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel, Signature, Subgraph
from harness.plain import one_line
from harness.system.reading import MB, check_file

Array = np.ndarray[Any, Any]
_TYPES: dict[str, type[Any]] = {
    "FLOAT32": np.float32, "FLOAT16": np.float16, "FLOAT64": np.float64, "INT8": np.int8, "UINT8": np.uint8,
    "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT32": np.uint32, "BOOL": np.bool_,
}  # fmt: skip
_MOVED_ON = frozenset({"RESHAPE", "CAST", "SELECT", "SELECT_V2", "MAXIMUM", "MINIMUM", "SQUEEZE", "EXPAND_DIMS"})
_LOOKED_UP = {"EMBEDDING_LOOKUP": (0, 1), "GATHER": (1, 0)}  # places of the index and of the table
_LARGEST = 4000 * MB
_FEW = 8  # whole numbers are drawn below it, where nothing says how many there are


def given_inputs(path: Path, model: FlatbufferModel, graph: Subgraph, signature: Signature) -> dict[str, Array]:
    """Those of a `.npz`: `SIGNATURE/NAME`, for one signature alone, or `NAME`, for all that take it.

    Raises UsageError where it lacks one, or has it in another shape or of another type.
    """
    check_file(path, "give a .npz with an array for each input", _LARGEST)
    called = signature.name or "the file"
    try:
        with np.load(path, allow_pickle=False) as held:
            keys = {name: _key(held.files, signature.name, name) for name in signature.inputs}
            arrays = {name: held[key] for name, key in keys.items() if key}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, EOFError) as error:
        raise UsageError(f"{path} is no .npz of arrays ({one_line(error, 100)}); write it with numpy.savez") from None
    for name, index in signature.inputs.items():
        if name not in arrays:
            raise UsageError(f"{path} has no array '{name}', which {called} takes; add it")
        tensor, shape = graph.tensors[index], model.open_shape(graph.index, index)
        fits = len(shape) == arrays[name].ndim and all(
            want in (-1, got) for want, got in zip(shape, arrays[name].shape, strict=True)
        )
        if not fits or arrays[name].dtype != number_type(tensor.dtype, name):
            several = f", as '{signature.name}/{name}' where other signatures take another" if signature.name else ""
            raise UsageError(
                f"{path}: '{name}' is {arrays[name].dtype} {list(arrays[name].shape)}, and {called} takes "
                f"{tensor.dtype} {list(shape)}; write it so{several}"
            )
    return arrays


def _key(keys: Collection[str], signature: str, name: str) -> str:
    """What an input is called in a `.npz`; empty where it is not there."""
    return next((key for key in (f"{signature}/{name}", name) if key in keys), "")


def drawn_inputs(model: FlatbufferModel, graph: Subgraph, signature: Signature, seed: int) -> dict[str, Array]:
    """Normal numbers; whole numbers below what they look up; positions that ascend; an empty KV cache."""
    draw = np.random.default_rng(seed)
    found = {}
    for name, index in signature.inputs.items():
        tensor = graph.tensors[index]
        shape = tuple(max(size, 1) for size in model.open_shape(graph.index, index))
        kind = number_type(tensor.dtype, name)
        if np.issubdtype(kind, np.floating):
            values: Array = np.zeros(shape) if name.startswith("kv_cache") else draw.standard_normal(shape)
            if name == "mask":
                values = np.where(np.tri(shape[-2], shape[-1]) > 0, 0.0, -1e4) * np.ones(shape)
        elif kind is np.bool_:
            values = draw.integers(0, 2, shape)
        elif "pos" in name and len(shape) == 1:
            values = np.arange(shape[0])
        else:
            values = draw.integers(0, looked_up(graph, index), shape)
        found[name] = np.ascontiguousarray(values, kind)
    return found


def number_type(dtype: str, name: str) -> type[Any]:
    """Of an input. Raises UsageError for one that holds no numbers."""
    if dtype not in _TYPES:
        raise UsageError(
            f"input '{name}' is {dtype}, which is not drawn and not read; compare files with numbers for inputs"
        )
    return _TYPES[dtype]


def looked_up(graph: Subgraph, index: int) -> int:
    """How many rows the table has that an input looks up, wherever it is handed on to."""
    consumers, waiting, seen = graph.consumers(), [index], {index}
    rows = []
    while waiting:
        tensor = waiting.pop()
        for op in consumers.get(tensor, []):
            place, table = _LOOKED_UP.get(op.kind, (-1, -1))
            if place >= 0 and op.inputs[place] == tensor:
                rows.append(graph.tensors[op.inputs[table]].shape[0])
            elif op.kind in _MOVED_ON:
                fresh = [made for made in op.outputs if made not in seen]
                seen.update(fresh)
                waiting += fresh
    return max(min(rows, default=_FEW), 1)
