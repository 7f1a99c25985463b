"""A flatbuffer that generates by itself: ids in, ids out, on builtin operators alone.

In: a loaded network and sizes. Out: a `.tflite` with one signature, `generate`. The loop stands in the graph, so an app
calls it once; what `prefill` and `decode` of the other file give is what it computes on the way.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from harness.jobs.job import Dimensions
from harness.names.taps import LOGITS
from harness.stages.keras.convert import converted, converter_of
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.network import CACHE, run_step

GENERATE = "generate"


def write_greedy(model: KerasModel, network: Any, dims: Dimensions, file: Path, prompt: int, tokens: int) -> None:
    """Write a file that continues a prompt of `prompt` tokens by `tokens` more, the most likely one each time.

    It takes `tokens` `[1, prompt]` and gives `generated` `[1, tokens]`. Raises UsageError for operators that TFLite
    lacks: `keras.ops.argmax` comes to one, `tf.argmax` does not.
    """
    import tensorflow as tf

    names = [f"{CACHE}{side}_{block}" for block in range(dims.blocks) for side in ("k", "v")]
    shape = [1, prompt + tokens, dims.kv_heads, dims.head_dim]

    def chosen(logits: Any) -> Any:
        return tf.argmax(logits[:, -1], axis=-1, output_type=tf.int32)

    def generate(tokens_in: Any) -> Any:
        caches = {name: tf.zeros(shape) for name in names}
        made = run_step(model, network, tokens_in, tf.range(prompt), caches)
        first = chosen(made[LOGITS])
        written = tf.one_hot(0, tokens, on_value=first[0], off_value=0, dtype=tf.int32)[None]

        def step(at: Any, last: Any, written: Any, *held: Any) -> Any:
            after = run_step(
                model, network, last[:, None], (prompt - 1 + at)[None], dict(zip(names, held, strict=True))
            )
            following = chosen(after[LOGITS])
            place = tf.one_hot(at, tokens, on_value=following[0], off_value=0, dtype=tf.int32)[None]
            return (at + 1, following, written + place, *(after[name] for name in names))

        start = (tf.constant(1), first, written, *(made[name] for name in names))
        return {"generated": tf.while_loop(lambda at, *_: at < tokens, step, start)[2]}

    holder = tf.Module()
    holder.held = [variable.value for variable in network.variables]
    holder.function = tf.function(generate).get_concrete_function(tf.TensorSpec([1, prompt], tf.int32, name="tokens"))
    with tempfile.TemporaryDirectory(prefix="edge-parity-greedy-") as folder:
        tf.saved_model.save(holder, folder, signatures={GENERATE: holder.function})
        file.write_bytes(converted(converter_of(Path(folder), [GENERATE]), model.name))
