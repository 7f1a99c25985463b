"""Files that generate by themselves: the whole loop stands in the graph, so an app calls it once.

In: a loaded network and sizes. Out: a `.tflite` with one signature, `generate`: ids in, ids out, on builtin operators
alone. What `prefill` and `decode` of the other file give is what it computes on the way. The one that takes and gives
text (`text.py`) has the same loop in it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.jobs.job import Dimensions
from harness.names.taps import LOGITS
from harness.stages.keras.convert import converted, converter_of
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import CACHE, blocks_apart, run_step

GENERATE = "generate"
TOKENS, LENGTH, GENERATED = "tokens", "length", "generated"


@dataclass(frozen=True)
class LoopSizes:
    """Of a file that generates by itself.

    prompt: tokens that a prompt has at most. tokens: how many are generated. cache: positions of its KV cache, at
    whose end it stops too.
    """

    prompt: int
    tokens: int
    cache: int


def write_greedy(model: KerasModel, network: Any, dims: Dimensions, file: Path, sizes: LoopSizes) -> None:
    """Write a file that continues a prompt by the most likely token each time.

    It takes `tokens` `[1, prompt]`, of which the first `length` `[1]` count, and gives `generated` `[1, tokens]`, with
    0 where the KV cache has no more room. Raises UsageError for operators that TFLite lacks: `keras.ops.argmax` comes
    to one, `tf.argmax` does not.
    """
    import tensorflow as tf

    def generate(tokens: Any, length: Any) -> Any:
        return {GENERATED: continued(model, network, dims, tokens, length[0], sizes)}

    holder = held(network)
    with blocks_apart(network):
        holder.function = tf.function(generate).get_concrete_function(
            tokens=tf.TensorSpec([1, sizes.prompt], tf.int32, name=TOKENS),
            length=tf.TensorSpec([1], tf.int32, name=LENGTH),
        )
    write_saved(holder, file, lambda converter: converted(converter, model.name))


def held(network: Any) -> Any:
    """What owns the variables in the eyes of the converter, see `convert.py`."""
    import tensorflow as tf

    holder = tf.Module()
    holder.held = [variable.value for variable in network.variables]
    return holder


def write_saved(holder: Any, file: Path, convert: Callable[[Any], bytes]) -> None:
    """Convert the `function` of what holds the variables. convert: what a converter is told, and what it makes."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="edge-parity-loop-") as folder:
        tf.saved_model.save(holder, folder, signatures={GENERATE: holder.function})
        file.write_bytes(convert(converter_of(Path(folder), [GENERATE])))


def continued(model: KerasModel, network: Any, dims: Dimensions, prompt: Any, length: Any, sizes: LoopSizes) -> Any:
    """The tokens after a prompt, as operators: `[1, tokens]`.

    prompt: `[1, sizes.prompt]`, padded. length: how many of it count. What stands in the cache past them is never
    attended to: each step writes its own position first.
    """
    import tensorflow as tf

    names = [f"{CACHE}{side}_{block}" for block in range(dims.blocks) for side in ("k", "v")]
    shape = [1, sizes.cache, dims.kv_heads, dims.head_dim]

    def after(step: Mapping[str, Any], at: Any) -> Any:
        return tf.argmax(tf.gather(step[LOGITS], at, axis=1), axis=-1, output_type=tf.int32)

    def placed(at: Any, token: Any) -> Any:
        return tf.one_hot(at, sizes.tokens, on_value=token[0], off_value=0, dtype=tf.int32)[None]

    made = run_step(model, network, prompt, tf.range(sizes.prompt), {name: tf.zeros(shape) for name in names})
    first = after(made, length - 1)

    def goes_on(at: Any, *_: Any) -> Any:
        return tf.logical_and(at < sizes.tokens, length - 1 + at < sizes.cache)

    def step(at: Any, last: Any, written: Any, *caches: Any) -> Any:
        position = (length - 1 + at)[None]
        told = run_step(model, network, last[:, None], position, dict(zip(names, caches, strict=True)))
        token = after(told, 0)
        return (at + 1, token, written + placed(at, token), *(told[name] for name in names))

    start = (tf.constant(1), first, placed(0, first), *(made[name] for name in names))
    return tf.while_loop(goes_on, step, start)[2]
