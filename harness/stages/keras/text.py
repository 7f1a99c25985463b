"""A file that takes text and gives text: tokenizer, loop and the way back stand in one graph.

In: a loaded network, a tokenizer of KerasHub and sizes. Out: a `.tflite` with one signature, `generate`. Its tokenizer
is made of TensorFlow's operators and tensorflow-text's (Flex), which the runtimes that ship do not have: see
`harness/store/flex.py`. Beside the text it gives the ids on both sides of the loop, by which a difference is told to
be the tokenizer's or the loop's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.jobs.job import Dimensions
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.greedy import GENERATED, LoopSizes, continued, held, write_saved
from harness.stages.keras.imports import import_keras_hub
from harness.stages.keras.network import blocks_apart

PROMPT, PROMPT_TOKENS, TEXT = "prompt", "prompt_tokens", "text"


def tokenizer_of(model: KerasModel, vocabulary: Mapping[str, int], merges: Sequence[str]) -> Any:
    """KerasHub's own tokenizer of a task. Raises UsageError where that is not of byte pairs."""
    hub = import_keras_hub()
    preprocessor = getattr(getattr(hub.models, model.task, None), "preprocessor_cls", None)
    kind = getattr(preprocessor, "tokenizer_cls", None)
    if kind is None or not issubclass(kind, hub.tokenizers.BytePairTokenizer):
        raise UsageError(
            f"{model.name}: the tokenizer of {model.task} is not one of byte pairs; give 'tokenizer' in the spec"
        )
    return kind(vocabulary=dict(vocabulary), merges=list(merges))


def write_text(
    model: KerasModel,
    network: Any,
    tokenizer: Any,
    dims: Dimensions,
    file: Path,
    sizes: LoopSizes,
    stops: Sequence[int],
) -> None:
    """Write a file that takes `prompt` `[1]`, text as bytes, and gives `text` `[1]`, what comes after it up to a stop
    token. A prompt of no tokens is one that begins a text, as for Hugging Face's `generate`.

    `prompt_tokens` `[n]`: the prompt's. `generated` `[1, tokens]`: as in the file that takes ids.
    """
    import tensorflow as tf

    def generate(prompt: Any) -> Any:
        said = tokenizer(prompt[0])
        own = tf.cond(tf.size(said) > 0, lambda: said, lambda: tf.constant([tokenizer.start_token_id], tf.int32))
        room = own[: sizes.prompt]
        padded = tf.pad(room, [[0, sizes.prompt - tf.size(room)]])
        tokens = continued(model, network, dims, tf.reshape(padded, [1, sizes.prompt]), tf.size(room), sizes)
        count = tf.minimum(sizes.tokens, sizes.cache - tf.size(room) + 1)
        text = tokenizer.detokenize(before_stop(tokens[0, :count], stops))
        return {TEXT: tf.reshape(text, [1]), PROMPT_TOKENS: own, GENERATED: tokens}

    holder = held(network)
    holder.tokenizer = tokenizer  # which owns the tables
    with blocks_apart(network):  # the runtime that has Flex cuts nothing off a tensor of six axes
        holder.function = tf.function(generate).get_concrete_function(prompt=tf.TensorSpec([1], tf.string, name=PROMPT))
    write_saved(holder, file, _with_tensorflow)


def before_stop(tokens: Any, stops: Sequence[int]) -> Any:
    """Those before the first stop token, as operators. tokens: `[n]`."""
    import tensorflow as tf

    if not stops:
        return tokens
    ends = tf.reduce_any(tokens[:, None] == tf.constant(list(stops), tf.int32)[None], axis=1)
    return tf.boolean_mask(tokens, tf.cumsum(tf.cast(ends, tf.int32)) == 0)


def _with_tensorflow(converter: Any) -> bytes:
    import tensorflow as tf

    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
    converter.allow_custom_ops = True
    return bytes(converter.convert())
