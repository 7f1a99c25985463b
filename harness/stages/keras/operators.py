"""The operators of the Keras model as TensorFlow traces them, and the taps that they make.

In: a prepared model and its declaration. Out: an `OpGraph`. The taps are found with the hooks that the stage traces
with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.align.op_graph import INPUTS, Op, OpGraph
from harness.jobs.prepared import Prepared
from harness.names.taps import LOGITS, block_tap
from harness.stages.keras.capture import Capture, layer_taps
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import CACHE, load_keras, run_step
from harness.stages.keras.points import keras_modules

_CONSTANTS = ("Const", "ReadVariableOp")


def keras_ops(model: KerasModel, prepared: Prepared, length: int) -> OpGraph:
    """The Keras model on `length` tokens and an empty KV cache, as it is converted."""
    network, dims = load_keras(model, Path(prepared.checkpoint)), prepared.dimensions
    import tensorflow as tf

    makers: dict[str, str] = {}
    capture = Capture(makers=makers)
    shape = [1, prepared.kv_cache_len, dims.kv_heads, dims.head_dim]
    names = [f"{CACHE}{side}_{block}" for block in range(dims.blocks) for side in ("k", "v")]

    def step(tokens: Any, input_pos: Any, **caches: Any) -> Any:
        made = run_step(model, network, tokens, input_pos, caches)
        makers[LOGITS] = made[LOGITS].op.name
        for name in names:
            side, _, block = name.removeprefix(CACHE).partition("_")
            makers[block_tap(int(block), f"cache.{side}")] = made[name].op.name
        return made

    with layer_taps(network, keras_modules(), dims.blocks, capture):
        graph = (
            tf.function(step)
            .get_concrete_function(
                tokens=tf.TensorSpec([1, length], tf.int32, name="tokens"),
                input_pos=tf.TensorSpec([length], tf.int32, name="input_pos"),
                **{name: tf.TensorSpec(shape, tf.float32, name=name) for name in names},
            )
            .graph
        )
    return graph_of(graph, {tap: makers[tap] for tap in prepared.taps if tap in makers})


def graph_of(graph: Any, makers: dict[str, str]) -> OpGraph:
    """graph: TensorFlow's. makers: tap -> operator, in execution order."""
    chosen = [op for op in graph.get_operations() if not _is_variable(op)]
    known = {op.name for op in chosen}
    ops = []
    for op in chosen:
        sources = tuple(dict.fromkeys(value.op.name for value in op.inputs if value.op.name in known))
        place = INPUTS if op.type == "Placeholder" else op.name.rpartition("/")[0]
        first = op.outputs[0] if op.outputs else None
        shape = "x".join(map(str, first.shape)) if first is not None and first.shape.rank is not None else ""
        ops.append(Op(op.name, op.type, place, sources, {}, shape, first.dtype.name if first is not None else ""))
    return OpGraph(tuple(ops), {tap: op for tap, op in makers.items() if op in known})


def _is_variable(op: Any) -> bool:
    """Constants too: a graph of operators shows what is computed."""
    return op.type in _CONSTANTS or (op.type == "Placeholder" and op.outputs[0].dtype.name == "resource")
