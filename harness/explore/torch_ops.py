"""The operators of the two PyTorch versions, as `torch.export` sees them, and the taps that they make.

In: a prepared model and its declaration. Out: an `OpGraph`. The taps are found with the very hooks that the stages
trace with: while the model is exported, each tap becomes one more output, whose place in the graph tells who makes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from harness.align.modules import hf_modules, own_modules
from harness.explore.ops import INPUTS, OUTSIDE, Op, OpGraph, bypassed
from harness.jobs.prepared import Prepared
from harness.names.taps import LOGITS, block_tap, tap_order
from harness.spec.model import GenerativeModel
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.convert import kv_layout
from harness.stages.torch.capture import Capture, module_taps

_NETWORK = "network"
# They hand on what they are given: marks of a composite's border, dropout of a model that does not train, and
# conversions to the type that it has already.
_MARKS = frozenset({"litert_torch.mark_tensor", "aten.alias", "aten.detach_", "aten.lift_fresh_copy", "aten.dropout"})
_CONVERSIONS = frozenset({"aten.to", "aten.type_as", "aten._to_copy"})
_SDPA = "aten.scaled_dot_product_attention"
# Without a cache, what would be kept is what attention reads.
_KEPT = {"cache.k": ("attn.k_rope", "attn.k"), "cache.v": ("attn.v",)}


def hf_ops(model: GenerativeModel, prepared: Prepared, length: int) -> OpGraph:
    """The Hugging Face model on `length` tokens, without a cache: what it would keep are its keys and values."""
    from harness.stages.huggingface import stage as hf

    dims = prepared.dimensions
    network = hf.load(Path(prepared.checkpoint), torch.float32)
    modules = hf_modules(model.tensor_names, fused_gate=dims.fused_gate)
    taps = _Taps()
    with ExitStack() as hooks:
        hooks.enter_context(module_taps(network, modules, dims.blocks, dims.hf_layout_of, taps))
        hooks.enter_context(hf.attention_taps(network, modules, dims.blocks, taps))
        program = _export(_Hf(network, taps), (torch.zeros((1, length), dtype=torch.long),))
    graph = _graph(program, taps, f"{_NETWORK}.{modules.layer}", prepared)
    for block in range(dims.blocks):
        for kept, same in _KEPT.items():
            maker = next((tap for point in same if (tap := block_tap(block, point)) in graph.taps), None)
            if maker is not None and block_tap(block, kept) not in graph.taps:
                graph.taps[block_tap(block, kept)] = graph.taps[maker]
    return _ordered(graph, prepared)


def reauthored_ops(model: GenerativeModel, prepared: Prepared, length: int) -> OpGraph:
    """The re-authored model on `length` tokens and an empty KV cache, as it is converted."""
    from litert_torch.generative.layers import kv_cache

    from harness.stages.litert_torch import stage as reauthored
    from harness.stages.litert_torch.loading import load_reauthored

    dims = prepared.dimensions
    config = reauthored_config(model, miniature=prepared.miniature, layers=prepared.layers, hlfb=prepared.variant.hlfb)
    network = load_reauthored(model, Path(prepared.checkpoint), config, prepared.kv_cache_len)
    modules = own_modules(model, fused_gate=dims.fused_gate)
    cache = kv_cache.KVCache.from_model_config(prepared.kv_cache_len, config, kv_layout=kv_layout(prepared.variant))
    arguments = (torch.zeros((1, length), dtype=torch.int), torch.arange(length, dtype=torch.int), cache)
    taps = _Taps()
    with ExitStack() as hooks:
        hooks.enter_context(module_taps(network, modules, dims.blocks, dims.layout_of, taps))
        hooks.enter_context(reauthored.attention_taps(network, modules, dims.blocks, taps))
        program = _export(_Reauthored(network, taps), arguments)
    return _ordered(_graph(program, taps, f"{_NETWORK}.{modules.layer}", prepared), prepared)


class _Taps(Capture):
    """Keeps every tap as a tensor of the graph, in place of writing it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, torch.Tensor] = {}
        self.derived: set[str] = set()

    def put(self, tap: str, values: torch.Tensor, how: str = "read") -> None:
        if tap not in self.found:
            # A mark of its own: a later conversion that changes nothing would take the tensor's name.
            self.found[tap] = torch.ops.aten.alias.default(values)
            if how == "derived":
                self.derived.add(tap)

    def begin(self) -> None:
        """The model may be called more than once while it is exported; the last time counts."""
        self.found.clear()
        self.derived.clear()


class _Hf(torch.nn.Module):
    def __init__(self, network: Any, taps: _Taps) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, tokens: torch.Tensor) -> Any:
        self.taps.begin()
        logits = self.network(tokens, use_cache=False).logits
        self.taps.put(LOGITS, logits)
        return logits, list(self.taps.found.values())


class _Reauthored(torch.nn.Module):
    def __init__(self, network: Any, taps: _Taps) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor, kv_cache: Any) -> Any:
        self.taps.begin()
        output = self.network(tokens, input_pos, kv_cache)
        self.taps.put(LOGITS, output["logits"])
        for block, entry in enumerate(output["kv_cache"].caches):
            self.taps.put(block_tap(block, "cache.k"), entry.k_cache)
            self.taps.put(block_tap(block, "cache.v"), entry.v_cache)
        return output, list(self.taps.found.values())


def _export(module: torch.nn.Module, arguments: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return torch.export.export(module.eval(), arguments, strict=False)


def _graph(program: Any, taps: _Taps, layer: str, prepared: Prepared) -> OpGraph:
    """The operators that the model's own outputs need: what the hooks computed for other ends is left out."""
    results = list(program.graph.output_node().args[0])
    own, marked = results[: -len(taps.found)], dict(zip(taps.found, results[-len(taps.found) :], strict=True))
    needed = _needed(own)
    constants = _constants(program)
    nodes = [node for node in program.graph.nodes if node in needed and node.name not in constants]
    ops = [_op(node, constants, layer) for node in nodes]
    kept, stands_for = bypassed(ops, [node.name for node in nodes if _is_transparent(node, constants)])
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
    return {spec.arg.name: str(spec.target).removeprefix(f"{_NETWORK}.") for spec in specs if spec.target is not None}


def _is_transparent(node: Any, constants: Mapping[str, str]) -> bool:
    label = _label(node)
    sources = [source for source in node.all_input_nodes if source.name not in constants]
    if not sources or label not in (_MARKS | _CONVERSIONS):
        return False
    before, after = sources[0].meta.get("val"), node.meta.get("val")
    same = getattr(before, "dtype", None) == getattr(after, "dtype", None)
    return same and sources[0] is node.all_input_nodes[0]


def _label(node: Any) -> str:
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(node.target, "__name__", str(node.target))


def _op(node: Any, constants: Mapping[str, str], layer: str) -> Op:
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
    label = _label(node).removeprefix("aten.").removeprefix("litert_torch.")
    return Op(node.name, label, _namespace(node, layer) or OUTSIDE, sources, attributes, shape, dtype)


def _namespace(node: Any, layer: str) -> str:
    """The modules that a node lies in, as the flatbuffer names them, without those that hold all the blocks."""
    parts = []
    for path, kind in (node.meta.get("nn_module_stack") or {}).values():
        if path and not layer.startswith(f"{path}."):
            name = kind if isinstance(kind, str) else kind.__name__
            parts.append(f"{name.rsplit('.', 1)[-1]}_{path.rsplit('.', 1)[-1]}")
    return "/".join(parts)


def _ordered(graph: OpGraph, prepared: Prepared) -> OpGraph:
    order = tap_order(prepared.dimensions.blocks, prepared.points)
    return OpGraph(graph.ops, {tap: graph.taps[tap] for tap in order if tap in graph.taps}, graph.places)
