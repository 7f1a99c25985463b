"""The operators of a PyTorch version, as `torch.export` sees them, and the taps that they make.

In: a module that runs the model with a stage's own hooks. Out: an `OpGraph`. While the model is exported, each tap
becomes one more output, whose place in the graph tells who makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from harness.align.op_graph import INPUTS, OUTSIDE, Op, OpGraph, bypassed
from harness.jobs.prepared import Prepared
from harness.names.taps import tap_order
from harness.stages.torch.capture import Capture

NETWORK = "network"  # what a module that is exported calls the model
# They hand on what they are given: dropout of a model that does not train, and conversions to the type that it has
# already. A framework may have marks of its own.
_MARKS = frozenset({"aten.alias", "aten.detach_", "aten.lift_fresh_copy", "aten.dropout"})
_CONVERSIONS = frozenset({"aten.to", "aten.type_as", "aten._to_copy"})
_SDPA = "aten.scaled_dot_product_attention"


class Taps(Capture):
    """Keeps every tap as a tensor of the graph, in place of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, torch.Tensor] = {}
        self.derived: set[str] = set()

    def put(self, tap: str, values: torch.Tensor, how: str = "read", at: int = 0) -> None:
        if tap not in self.found:
            # A mark of its own: a later conversion that changes nothing would take the tensor's name.
            self.found[tap] = torch.ops.aten.alias.default(values)
            if how == "derived":
                self.derived.add(tap)

    def begin(self) -> None:
        """The model may be called more than once while it is exported; the last time counts."""
        self.found.clear()
        self.derived.clear()


def exported(module: torch.nn.Module, arguments: tuple[Any, ...]) -> Any:
    """The program of a module that returns the model's own outputs and a list of taps, within the hooks."""
    with torch.no_grad():
        return torch.export.export(module.eval(), arguments, strict=False)


def graph_of(program: Any, taps: Taps, layer: str, package: str = "", marks: frozenset[str] = frozenset()) -> OpGraph:
    """The operators that the model's own outputs need: what the hooks computed for other ends is left out.

    taps: what the hooks found while the program was exported. layer: the model's path of a block, with `{}`. package:
    a framework's name for operators of its own; marks: those of them that hand on what they are given.
    """
    layer = f"{NETWORK}.{layer}"
    results = list(program.graph.output_node().args[0])
    own, marked = results[: -len(taps.found)], dict(zip(taps.found, results[-len(taps.found) :], strict=True))
    needed = _needed(own)
    constants = _constants(program)
    nodes = [node for node in program.graph.nodes if node in needed and node.name not in constants]
    ops = [_op(node, constants, layer, package) for node in nodes]
    kept, stands_for = bypassed(ops, [node.name for node in nodes if _is_transparent(node, constants, marks)])
    made = {}
    for tap, node in marked.items():
        maker = _inside(node, needed) if tap in taps.derived else _maker(node, needed)
        if maker is not None and maker.name not in constants:
            made[tap] = stands_for.get(maker.name, maker.name)
    return OpGraph(kept, made)


def _needed(results: Iterable[Any]) -> set[Any]:
    waiting = [node for node in results if isinstance(node, torch.fx.Node)]
    found: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _maker(node: Any, needed: set[Any]) -> Any:
    """The model's own operator that makes a tap: what the hooks did to it, reshapes and parts, hangs on one input."""
    while node not in needed:
        if not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return node


def _inside(node: Any, needed: set[Any]) -> Any:
    """The fused attention whose arguments a derived tap was computed from: it is made inside it."""
    waiting, borders = [node], set()
    while waiting:
        node = waiting.pop()
        if node in needed:
            borders.add(node)
        else:
            waiting += node.all_input_nodes
    users = (user for border in borders for user in border.users if user in needed)
    return next((user for user in users if str(user.target).startswith(_SDPA)), None)


def _constants(program: Any) -> dict[str, str]:
    """Name of a node that stands for a parameter, a buffer or a constant -> what the model calls it."""
    specs = program.graph_signature.input_specs
    return {spec.arg.name: str(spec.target).removeprefix(f"{NETWORK}.") for spec in specs if spec.target is not None}


def _is_transparent(node: Any, constants: Mapping[str, str], marks: frozenset[str]) -> bool:
    label = _label(node)
    sources = [source for source in node.all_input_nodes if source.name not in constants]
    if not sources or label not in (_MARKS | marks | _CONVERSIONS):
        return False
    before, after = sources[0].meta.get("val"), node.meta.get("val")
    same = getattr(before, "dtype", None) == getattr(after, "dtype", None)
    return same and sources[0] is node.all_input_nodes[0]


def _label(node: Any) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(node.target, "__name__", str(node.target))


def _op(node: Any, constants: Mapping[str, str], layer: str, package: str) -> Op:
    sources = tuple(source.name for source in node.all_input_nodes if source.name not in constants)
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) and value else value
    shape, dtype = "", ""
    if isinstance(value, torch.Tensor):
        shape, dtype = "x".join(map(str, value.shape)) or "scalar", str(value.dtype).removeprefix("torch.")
    if node.op == "placeholder":
        return Op(node.name, node.name, INPUTS, (), {}, shape, dtype)
    attributes = {"operator": f"{node.name} = {node.target}"}
    schema = getattr(node.target, "_schema", None)
    names = [argument.name for argument in schema.arguments] if schema else []
    for number, argument in enumerate(node.args):
        key = names[number] if number < len(names) else str(number)
        attributes[f"argument {key}"] = constants.get(str(argument), str(argument))
    attributes |= {f"argument {key}": str(argument) for key, argument in node.kwargs.items()}
    label = _label(node).removeprefix("aten.").removeprefix(f"{package}.")
    return Op(node.name, label, _namespace(node, layer) or OUTSIDE, sources, attributes, shape, dtype)


def _namespace(node: Any, layer: str) -> str:
    """The modules that a node lies in, as the flatbuffer names them, without those that hold all the blocks."""
    parts = []
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        if path and not layer.startswith(f"{path}."):
            name = kind if isinstance(kind, str) else kind.__name__
            parts.append(f"{name.rsplit('.', 1)[-1]}_{path.rsplit('.', 1)[-1]}")
    return "/".join(parts)


def ordered(graph: OpGraph, prepared: Prepared) -> OpGraph:
    """With the taps in execution order."""
    order = tap_order(prepared.dimensions.blocks, prepared.points)
    return OpGraph(graph.ops, {tap: graph.taps[tap] for tap in order if tap in graph.taps}, graph.places)
