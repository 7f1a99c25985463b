"""Write a tapped flatbuffer: a copy in which chosen tensors are extra signature outputs.

In: a .tflite file and, per signature, names for tensor indices. Out: the copy, with operators,
tensors and weights as they were; and the head of a severed one, in which the same tensors are inputs as well.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.flatbuffer.writing import Rewriting, tensor_map, text

Named = Mapping[str, Mapping[str, int]]
_FED_SUFFIX = ";fed"


def write_tapped(
    source: Path, target: Path, taps: Named, fed: Named | None = None, severed_head: Path | None = None
) -> None:
    """Copy `source` to `target` with `taps[signature][output name] = tensor index` as extra outputs.

    A tensor that already is an output of its subgraph gets the further name only.
    fed, severed_head: where to write the head of a copy that is also cut through at `fed[signature][input name]`: see
    `write_severed`. `graft` makes it a file. Raises KeyError when a signature is not in the file.
    """
    work = Rewriting(source)
    _tap(work, taps)
    work.write(target)
    if severed_head is not None:
        _sever(work, fed or {})
        work.write_head(severed_head)


def write_severed(source: Path, target: Path, taps: Named, fed: Named) -> None:
    """Copy `source` to `target` cut through at tensors: each signature gets them as outputs and as inputs.

    taps: signature -> output name -> tensor. fed: signature -> input name -> tensor: whatever reads that tensor reads
    the new input instead, while the tensor itself is computed as ever. Operators and their order stay as they are.
    Raises KeyError when a signature is not in the file.
    """
    work = Rewriting(source)
    _tap(work, taps)
    _sever(work, fed)
    work.write(target)


def _tap(work: Rewriting, taps: Named) -> None:
    for name, wanted in taps.items():
        signature = work.signature(name)
        graph = work.model.subgraphs[signature.subgraphIndex]
        graph.outputs = list(dict.fromkeys([*(int(index) for index in graph.outputs), *wanted.values()]))
        signature.outputs += [tensor_map(key, index) for key, index in wanted.items()]


def _sever(work: Rewriting, fed: Named) -> None:
    for name, wanted in fed.items():
        signature = work.signature(name)
        graph = work.model.subgraphs[signature.subgraphIndex]
        graph.inputs = [int(index) for index in graph.inputs]
        instead: dict[int, int] = {}
        for key, index in wanted.items():
            instead[index] = len(graph.tensors)
            graph.tensors.append(_fed_tensor(graph.tensors[index]))
            graph.inputs.append(instead[index])
            signature.inputs.append(tensor_map(key, instead[index]))
        for op in graph.operators:
            op.inputs = [instead.get(int(index), int(index)) for index in op.inputs]


def _fed_tensor(tensor: Any) -> Any:
    fed = copy.copy(tensor)
    fed.name = text(tensor.name) + _FED_SUFFIX
    fed.buffer = 0
    return fed
