"""Read a .tflite file: its signatures, and each subgraph as plain operators and tensors.

In: a path. Out: a `FlatbufferModel`. The file is memory-mapped and weights are never copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.system.reading import check_file

_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph, whose name is the module path of the torch module that made it.

    Names look like `pkg.Model_module/pkg.Block_0/pkg.Linear_w2;1`: `;N` only makes them unique, and
    the locations of merged tensors are joined by `;;`, the tensor's own first.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    buffer: int

    @property
    def paths(self) -> list[tuple[str, ...]]:
        """A path per location: `("SmolLM2_module", "TransformerBlock_0", "Linear_w2")`, packages dropped."""
        locations = [location.split(";")[0] for location in self.name.split(";;")]
        return [tuple(part.rsplit(".", 1)[-1] for part in location.split("/") if part) for location in locations]

    @property
    def path(self) -> tuple[str, ...]:
        return self.paths[0]


@dataclass(frozen=True)
class Operator:
    """One operator; `inputs` holds -1 where an optional input is absent."""

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    composite: str | None = None
    decomposition: int | None = None  # subgraph of a composite


@dataclass(frozen=True)
class Signature:
    name: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class Subgraph:
    index: int
    name: str
    tensors: list[Tensor]
    operators: list[Operator]

    def producers(self) -> dict[int, Operator]:
        """Tensor index -> the operator that writes it."""
        return {output: op for op in self.operators for output in op.outputs}

    def consumers(self) -> dict[int, list[Operator]]:
        """Tensor index -> the operators that read it, in execution order."""
        readers: dict[int, list[Operator]] = {}
        for op in self.operators:
            for index in op.inputs:
                readers.setdefault(index, []).append(op)
        return readers


@cache
def _schema() -> Any:
    from ai_edge_litert import schema_py_generated

    return schema_py_generated


@cache
def enum_names(enum: str) -> dict[int, str]:
    """Of an enumeration of the schema: number -> name."""
    members = vars(getattr(_schema(), enum))
    return {value: name for name, value in members.items() if isinstance(value, int)}


class FlatbufferModel:
    """A .tflite file, mapped. Raises UsageError for a file that is not a whole TFLite flatbuffer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map_file(path)
        self._subgraphs: dict[int, Subgraph] = {}
        try:
            self._root = _schema().Model.GetRootAs(self._map, 0)
            self._check_counts()
            self._codes = self._operator_codes()
            self.signatures = self._read_signatures()
            self._check_extent()
        except UsageError:
            raise
        except Exception as error:  # the generated reader raises whatever garbage leads it to
            raise UsageError(
                f"{path} is damaged or truncated (its tables lead nowhere: {type(error).__name__}); convert it again"
            ) from None

    def _operator_codes(self) -> list[str]:
        names = enum_names("BuiltinOperator")
        codes = (self._root.OperatorCodes(i) for i in range(self._root.OperatorCodesLength()))
        return [names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes]

    @property
    def custom_operators(self) -> list[str]:
        """The names of the operators that are none of TFLite's own."""
        codes = (self._root.OperatorCodes(i).CustomCode() for i in range(self._root.OperatorCodesLength()))
        return [code.decode(errors="replace") for code in codes if code]

    def _read_signatures(self) -> dict[str, Signature]:
        found = {}
        for i in range(self._root.SignatureDefsLength()):
            entry = self._root.SignatureDefs(i)
            name = entry.SignatureKey().decode()
            inputs = {
                entry.Inputs(j).Name().decode(): entry.Inputs(j).TensorIndex() for j in range(entry.InputsLength())
            }
            outputs = {
                entry.Outputs(j).Name().decode(): entry.Outputs(j).TensorIndex() for j in range(entry.OutputsLength())
            }
            found[name] = Signature(name, entry.SubgraphIndex(), inputs, outputs)
        return found

    def _check_extent(self) -> None:
        """Every buffer must lie inside the file; a cut file keeps its tables and loses its weights."""
        size = len(self._map)
        for i in range(self._root.BuffersLength()):
            buffer = self._root.Buffers(i)
            end = buffer.Offset() + buffer.Size() if buffer.Offset() > 1 else 0
            if buffer.DataLength():
                start = buffer._tab.Vector(buffer._tab.Offset(4))
                end = start + buffer.DataLength()
            if end > size:
                raise UsageError(f"{self.path} is truncated: a weight ends at byte {end} of {size}; copy it again")

    def _check_counts(self) -> None:
        """Lists that cannot be as long as they say: whatever goes through them would take for ever."""
        root, room = self._root, len(self._map) // 4  # an entry of a list takes four bytes at least
        counts = [("subgraphs", root.SubgraphsLength()), ("signatures", root.SignatureDefsLength())]
        counts += [("buffers", root.BuffersLength()), ("kinds of operators", root.OperatorCodesLength())]
        for name, count in self._counts(counts, room):
            room -= count
            if room < 0:
                raise UsageError(f"{self.path} is damaged: it says that it has {count} {name}; convert it again")

    def _counts(self, counts: list[tuple[str, int]], room: int) -> Iterator[tuple[str, int]]:
        yield from counts
        for index in range(min(self._root.SubgraphsLength(), room)):
            graph = self._root.Subgraphs(index)
            yield f"tensors in subgraph {index}", graph.TensorsLength()
            yield f"operators in subgraph {index}", graph.OperatorsLength()
        for index in range(min(self._root.SignatureDefsLength(), room)):
            entry = self._root.SignatureDefs(index)
            yield f"inputs of signature {index}", entry.InputsLength()
            yield f"outputs of signature {index}", entry.OutputsLength()

    def signature_names(self) -> list[str]:
        """As the file lists them: `signatures` holds one of those that share a name."""
        return [self._root.SignatureDefs(i).SignatureKey().decode() for i in range(self._root.SignatureDefsLength())]

    @property
    def mapped(self) -> mmap.mmap:
        """The bytes of the file."""
        return self._map

    @property
    def root(self) -> Any:
        """The table of the whole file, as the schema's generated code reads it."""
        return self._root

    @property
    def subgraph_count(self) -> int:
        return int(self._root.SubgraphsLength())

    @property
    def buffer_count(self) -> int:
        return int(self._root.BuffersLength())

    def buffer(self, index: int) -> Any:
        """The bytes of a constant, `uint8`, mapped; empty where a tensor has none."""
        import numpy as np

        buffer = self._root.Buffers(index)
        if buffer.DataLength():
            return buffer.DataAsNumpy()
        count = buffer.Size() if buffer.Offset() > 1 else 0
        return np.frombuffer(self._map, np.uint8, count, buffer.Offset() if count else 0)

    def subgraph(self, index: int) -> Subgraph:
        """Read once: the tables of a large file take half a second."""
        if index not in self._subgraphs:
            self._subgraphs[index] = self._read_subgraph(index)
        return self._subgraphs[index]

    def _read_subgraph(self, index: int) -> Subgraph:
        graph = self._root.Subgraphs(index)
        types = enum_names("TensorType")
        tensors = []
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            shape = tuple(int(n) for n in tensor.ShapeAsNumpy()) if tensor.ShapeLength() else ()
            name = (tensor.Name() or b"").decode(errors="replace")
            tensors.append(Tensor(i, name, shape, types[tensor.Type()], tensor.Buffer()))
        operators = [self._operator(graph.Operators(i), i) for i in range(graph.OperatorsLength())]
        return Subgraph(index, (graph.Name() or b"").decode(), tensors, operators)

    def integers(self, tensor: Tensor) -> tuple[int, ...]:
        """The content of a constant of 32-bit integers, such as the order of a TRANSPOSE; empty for no constant."""
        buffer = self._root.Buffers(tensor.buffer)
        if buffer.Offset() > 1:
            data = self._map[buffer.Offset() : buffer.Offset() + buffer.Size()]
        else:
            data = buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
        return tuple(int(value) for value in np.frombuffer(data, "<i4"))

    def open_shape(self, subgraph: int, tensor: int) -> tuple[int, ...]:
        """A tensor's shape with -1 where the file leaves the size open."""
        entry = self._root.Subgraphs(subgraph).Tensors(tensor)
        if entry.ShapeSignatureLength():
            return tuple(int(size) for size in entry.ShapeSignatureAsNumpy())
        return tuple(int(size) for size in entry.ShapeAsNumpy()) if entry.ShapeLength() else ()

    def custom_name(self, subgraph: int, operator: int) -> str:
        """What an operator that is none of TFLite's own is called."""
        code = self._root.OperatorCodes(self._root.Subgraphs(subgraph).Operators(operator).OpcodeIndex())
        return (code.CustomCode() or b"?").decode(errors="replace")

    def subgraph_inputs(self, index: int) -> tuple[int, ...]:
        return tuple(int(i) for i in self._root.Subgraphs(index).InputsAsNumpy())

    def subgraph_outputs(self, index: int) -> tuple[int, ...]:
        return tuple(int(i) for i in self._root.Subgraphs(index).OutputsAsNumpy())

    def options(self, subgraph: int, operator: int) -> dict[str, Any]:
        """An operator's options by the names of the schema, e.g. `{"axis": 3}`; empty where it has none."""
        op = _schema().OperatorT.InitFromObj(self._root.Subgraphs(subgraph).Operators(operator))
        return {} if op.builtinOptions is None else dict(vars(op.builtinOptions))

    def all_options(self, subgraph: int, operator: int) -> dict[str, Any]:
        """As `options`, with those of newer operators, a composite's attributes and a custom operator's bytes."""
        op = _schema().OperatorT.InitFromObj(self._root.Subgraphs(subgraph).Operators(operator))
        tables = [vars(each) for each in (op.builtinOptions, op.builtinOptions2) if each is not None]
        found = {name: value for table in tables for name, value in table.items()}
        content = found.pop("compositeAttributes", None)
        found |= {} if content is None else _flexible(content)
        return found if op.customOptions is None else found | _flexible(op.customOptions)

    def quantization(self, subgraph: int, tensor: int) -> Any:
        """A tensor's quantisation in the schema's object form, or None."""
        return _schema().TensorT.InitFromObj(self._root.Subgraphs(subgraph).Tensors(tensor)).quantization

    def _operator(self, op: Any, index: int) -> Operator:
        kind = self._codes[op.OpcodeIndex()]
        inputs = tuple(int(i) for i in op.InputsAsNumpy()) if op.InputsLength() else ()
        outputs = tuple(int(i) for i in op.OutputsAsNumpy()) if op.OutputsLength() else ()
        if kind != "STABLEHLO_COMPOSITE":
            return Operator(index, kind, inputs, outputs)
        options = _schema().StableHLOCompositeOptions()
        table = op.BuiltinOptions2()
        options.Init(table.Bytes, table.Pos)
        return Operator(index, kind, inputs, outputs, options.Name().decode(), options.DecompositionSubgraphIndex())


def _flexible(content: Any) -> dict[str, Any]:
    """A table of names, or the bytes of what is not one. They may be a stranger's."""
    from flatbuffers import flexbuffers

    held = bytes(np.asarray(content, np.uint8))
    try:
        table = flexbuffers.Loads(held)
    except Exception:  # it raises whatever garbage leads it to
        table = None
    return table if isinstance(table, dict) else {"bytes": held.hex()}


def _map_file(path: Path) -> mmap.mmap:
    check_file(path, "give the path of a .tflite file")
    try:
        with path.open("rb") as file:
            if path.stat().st_size < 8:
                raise UsageError(f"{path} is empty; give the .tflite file that ships")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}); give the path of a .tflite file") from None
    if mapped[4:8] != _IDENTIFIER:
        raise UsageError(f"{path} is no TFLite flatbuffer (no TFL3 identifier); give a .tflite file")
    return mapped
