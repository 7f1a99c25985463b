"""What is in a flatbuffer, read off its tables.

In: a file whose tables are whole. Out: `FileContents`. No runtime is asked and weights are not read, but where two of
one size may be the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.quantised import grid_of
from harness.flatbuffer.reader import FlatbufferModel, Operator, Signature, Subgraph
from harness.flatbuffer.reads import called
from harness.inspection.sizes import sizes_of
from harness.plain import one_line
from harness.record.contents import FileContents, MetadataEntry, NamedTensor, OperatorForm, SignatureContents

FLEX = "Flex"  # how the names of TensorFlow's own operators begin
_LONGEST_TEXT = 200
_FIRST = ""  # the name of a file's first subgraph where no signature names one


class Graphs:
    """The subgraphs of a file, each read once, and what runs in each signature."""

    def __init__(self, file: FlatbufferModel) -> None:
        self.file = file
        self._known: dict[int, Subgraph] = {}
        self.signatures: Mapping[str, Signature] = file.signatures or {_FIRST: _nameless(file)}
        self.called = {name: list(called(file, entry.subgraph, self._known)) for name, entry in self.signatures.items()}

    @property
    def all(self) -> list[Subgraph]:
        """Those that some signature runs, each once."""
        return list({graph.index: graph for graphs in self.called.values() for graph in graphs}.values())


def contents_of(file: FlatbufferModel) -> FileContents:
    """Everything but what runtimes make of it."""
    graphs = Graphs(file)
    sizes = sizes_of(file, graphs.called)
    custom = Counter(kind for graph in graphs.all for op in graph.operators if (kind := _custom(file, graph, op)))
    return FileContents(
        file=str(file.path),
        size=len(file.mapped),
        version=int(file.root.Version()),
        description=one_line((file.root.Description() or b"").decode(errors="replace"), _LONGEST_TEXT),
        signatures=[_signature(file, name, entry, graphs.called[name]) for name, entry in graphs.signatures.items()],
        forms=_forms(file, graphs.all),
        sizes=sizes.rows,
        rest=len(file.mapped) - sum(row.size for row in sizes.rows),
        outside=sizes.outside,
        shared=sizes.shared,
        doubled=sizes.doubled,
        custom=dict(custom.most_common()),
        flex=sorted(name for name in custom if name.startswith(FLEX)),
        metadata=list(_metadata(file)),
    )


def kind_of(file: FlatbufferModel, graph: Subgraph, op: Operator) -> str:
    """What an operator is called: its kind, a composite's own name, a custom operator's own name."""
    return op.composite or _custom(file, graph, op) or op.kind


def _custom(file: FlatbufferModel, graph: Subgraph, op: Operator) -> str:
    return one_line(file.custom_name(graph.index, op.index), _LONGEST_TEXT) if op.kind == "CUSTOM" else ""


def _nameless(file: FlatbufferModel) -> Signature:
    tensors = file.subgraph(0).tensors
    inputs, outputs = file.subgraph_inputs(0), file.subgraph_outputs(0)
    return Signature(
        _FIRST, 0, {tensors[index].name: index for index in inputs}, {tensors[index].name: index for index in outputs}
    )


def _signature(file: FlatbufferModel, name: str, entry: Signature, graphs: list[Subgraph]) -> SignatureContents:
    own = next(graph for graph in graphs if graph.index == entry.subgraph)
    operators = Counter(kind_of(file, own, op) for op in own.operators)
    inside = Counter(kind_of(file, graph, op) for graph in graphs if graph is not own for op in graph.operators)
    return SignatureContents(
        name=one_line(name),
        inputs=[_tensor(file, own, key, index) for key, index in entry.inputs.items()],
        outputs=[_tensor(file, own, key, index) for key, index in entry.outputs.items()],
        operators=dict(operators.most_common()),
        inside=dict(inside.most_common()),
    )


def _tensor(file: FlatbufferModel, graph: Subgraph, name: str, index: int) -> NamedTensor:
    tensor = graph.tensors[index]
    return NamedTensor(name=one_line(name), dtype=tensor.dtype, shape=list(file.open_shape(graph.index, index)))


def _forms(file: FlatbufferModel, graphs: list[Subgraph]) -> list[OperatorForm]:
    found: Counter[tuple[str, tuple[str, ...], tuple[str, ...]]] = Counter()
    for graph in graphs:
        grids: dict[int, str] = {}
        for op in graph.operators:
            reads = tuple(_type(file, graph, index, grids) for index in op.inputs if index >= 0)
            gives = tuple(_type(file, graph, index, grids) for index in op.outputs)
            found[kind_of(file, graph, op), _once(reads), _once(gives)] += 1
    rows = [
        OperatorForm(kind=kind, reads=list(reads), gives=list(gives), count=count)
        for (kind, reads, gives), count in found.items()
    ]
    return sorted(rows, key=lambda row: (-row.count, row.kind))


def _once(types: tuple[str, ...]) -> tuple[str, ...]:
    """In their order, each once: an operator that joins forty tensors reads one type."""
    return tuple(dict.fromkeys(types))


def _type(file: FlatbufferModel, graph: Subgraph, index: int, known: dict[int, str]) -> str:
    if index not in known:
        tensor = graph.tensors[index]
        words = tensor.dtype
        if tensor.dtype in NARROW:
            try:
                words = f"{tensor.dtype} {grid_of(file, graph, index).granularity.lower().replace('_', ' ')}"
            except ValueError as error:
                words = f"{tensor.dtype} ({error})"
        known[index] = f"const {words}" if len(file.buffer(tensor.buffer)) else words
    return known[index]


def _metadata(file: FlatbufferModel) -> Iterator[MetadataEntry]:
    for index in range(file.root.MetadataLength()):
        entry = file.root.Metadata(index)
        if not 0 <= entry.Buffer() < file.buffer_count:
            continue
        held = bytes(file.buffer(entry.Buffer())[: _LONGEST_TEXT + 1])
        size = len(file.buffer(entry.Buffer()))
        text = held.rstrip(b"\0").decode("ascii", errors="replace")
        shown = text if size <= _LONGEST_TEXT and text.isprintable() and "\ufffd" not in text else ""
        yield MetadataEntry(name=one_line((entry.Name() or b"").decode(errors="replace")), size=size, text=shown)
