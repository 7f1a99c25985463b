"""What is broken on purpose in the Keras model or in its file is found at its tap, and its owner is right."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from harness.audit.constants import audit_constants
from harness.bench.breaking import typical_element, with_flip
from harness.bench.reseed import positions_of
from harness.bench.workbench import FEW, Bench
from harness.flatbuffer.reader import FlatbufferModel
from harness.locate.owners import Ownership, ownership
from harness.record.record import Fault

pytestmark = pytest.mark.extras
Array = np.ndarray[Any, Any]
FIRST = "hf->keras"
MASK = "_compute_self_attention_mask"


@functools.cache
def gpt2() -> Bench:
    return Bench("gpt2", inputs=FEW)


def layer(network: Any, path: str) -> Any:
    from harness.stages.keras.capture import layers_of

    return layers_of(network)[path]


class Broken(NamedTuple):
    """name: of the fault. change: gets the loaded network. tap: where it shows first."""

    name: str
    change: Callable[[Any], Any]
    tap: str
    owner: str


def kernel(path: str, change: Callable[[Array], Array]) -> Callable[[Any], None]:
    def broken(network: Any) -> None:
        held = layer(network, path).kernel
        held.assign(change(held.numpy()))

    return broken


def turned(values: Array) -> Array:
    """A square matrix, heads apart, the other way round."""
    heads, width, out = values.shape
    return values.reshape(heads * width, out).T.reshape(values.shape)


def of_another_block(network: Any) -> None:
    path = "transformer_layer_{}/feedforward_output_dense"
    layer(network, path.format(1)).kernel.assign(layer(network, path.format(0)).kernel.numpy())


def queries_for_keys(network: Any) -> None:
    query, key = (layer(network, f"transformer_layer_1/self_attention/{name}") for name in ("query", "key"))
    one, other = query.kernel.numpy(), key.kernel.numpy()
    query.kernel.assign(other)
    key.kernel.assign(one)


def without_bias(network: Any) -> None:
    bias = layer(network, "transformer_layer_1/feedforward_output_dense").bias
    bias.assign(np.zeros_like(bias.numpy()))


def exact_gelu(network: Any) -> None:
    import keras

    dense = layer(network, "transformer_layer_1/feedforward_intermediate_dense")
    dense.activation = lambda values: keras.activations.gelu(values, approximate=False)


def positions_off_by_one(network: Any) -> None:
    table = layer(network, "position_embedding")
    own = table.call
    object.__setattr__(table, "call", lambda x, start_index=0, **rest: own(x, start_index=start_index + 1, **rest))


def mask_off_by_one(network: Any) -> None:
    import tensorflow as tf

    block = layer(network, "transformer_layer_0")
    own = getattr(block, MASK)

    def shifted(**given: Any) -> Any:
        mask = own(**given)
        return tf.concat([tf.ones_like(mask[:, :, :1]), mask[:, :, :-1]], axis=-1)

    object.__setattr__(block, MASK, shifted)


def setting(path: str, attribute: str, value: float) -> Callable[[Any], None]:
    return lambda network: setattr(layer(network, path), attribute, value)


def louder_mlp(network: Any) -> None:
    dropout = getattr(layer(network, "transformer_layer_0"), "_feedforward_dropout")  # noqa: B009 - Keras hides it
    own = dropout.call
    object.__setattr__(dropout, "call", lambda values, **rest: own(values, **rest) * 1.01)


OUT, VALUE = "transformer_layer_0/self_attention/attention_output", "transformer_layer_0/self_attention/value"
FAULTS = (
    Broken("another-block", of_another_block, "block.1.mlp.out", "weights"),
    Broken("square-weight-turned", kernel(OUT, turned), "block.0.attn.out", "weights"),
    Broken("queries-for-keys", queries_for_keys, "block.1.attn.q", "weights"),
    Broken("heads-in-disorder", kernel(VALUE, lambda v: v[:, ::-1]), "block.0.attn.v", "weights"),
    Broken("bias-lost", without_bias, "block.1.mlp.out", "weights"),
    Broken(
        "epsilon", setting("transformer_layer_0/feedforward_layer_norm", "epsilon", 1e-3), "block.0.mlp.norm",
        "re-authoring",
    ),
    Broken(
        "small-epsilon", setting("transformer_layer_0/self_attention_layer_norm", "epsilon", 1e-6), "block.0.attn.norm",
        "re-authoring",
    ),
    Broken("exact-gelu", exact_gelu, "block.1.mlp.act", "re-authoring"),
    Broken("positions-off-by-one", positions_off_by_one, "embed", "re-authoring"),
    Broken("mask-off-by-one", mask_off_by_one, "block.0.attn.probs", "re-authoring"),
    Broken(
        "scale", setting("transformer_layer_1/self_attention", "_inverse_sqrt_key_dim", 0.2), "block.1.attn.probs",
        "re-authoring",
    ),
    Broken("louder-mlp", louder_mlp, "block.0.out", "re-authoring"),
)  # fmt: skip


def owned(bench: Bench, folder: Path, findings: list[Any]) -> tuple[Fault, Ownership]:
    outcome = bench.judge(folder)
    assert outcome.fault is not None, "the fault was not seen"
    observers = {"tflite-xnnpack": (), "tflite-builtin": ()}
    return outcome.fault, ownership(outcome.fault, outcome.faults, [*bench.prepared.findings, *findings], observers)


@pytest.mark.parametrize("broken", FAULTS, ids=lambda broken: broken.name)
def test_a_fault_of_the_keras_model_is_found_where_it_is(broken: Broken) -> None:
    bench = gpt2()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        findings = bench.break_reauthored(Path(folder), broken.change)
        fault, whose = owned(bench, Path(folder), findings)
    assert (fault.hop, fault.tap, whose.owner) == (FIRST, broken.tap, broken.owner), whose.evidence


def checkpoint(name: str) -> Array:
    return gpt2().tensors[name].numpy()


def replaced(file: Path, one: Array, other: Array) -> None:
    """Put other numbers in place of a constant, wherever the file holds it."""
    for at in positions_of(file, one):
        with file.open("r+b") as stream:
            stream.seek(at)
            stream.write(np.ascontiguousarray(other, np.float32).tobytes())


def bit_of_a_number(file: Path) -> None:
    held = np.ascontiguousarray(checkpoint("transformer.h.1.mlp.c_proj.weight").T)
    replaced(file, held, with_flip(held, typical_element(held)))


def queries_turned(file: Path) -> None:
    width = checkpoint("transformer.h.0.attn.c_attn.weight").shape[0]
    dims = gpt2().prepared.dimensions
    scaled = checkpoint("transformer.h.0.attn.c_attn.weight")[:, :width] * np.float32(dims.head_dim**-0.5)
    replaced(file, np.ascontiguousarray(scaled.T), np.ascontiguousarray(scaled))


def table_off_by_one(file: Path) -> None:
    held = checkpoint("transformer.wpe.weight")
    replaced(file, held, np.roll(held, -1, axis=0))


def final_gain(file: Path) -> None:
    held = checkpoint("transformer.ln_f.weight")
    replaced(file, held, held * np.float32(1.01))


def file_mask_off_by_one(file: Path) -> None:
    positions = np.arange(gpt2().prepared.kv_cache_len, dtype=np.float32)
    replaced(file, positions, positions - 1)


@pytest.mark.parametrize(
    ("change", "tap", "owner"),
    [
        (bit_of_a_number, "block.1.mlp.out", "weights"),
        (queries_turned, "block.0.attn.q", "converter"),  # whose numbers are all there
        (table_off_by_one, "embed", "weights"),
        (final_gain, "final_norm", "weights"),
        (file_mask_off_by_one, "block.0.attn.probs", "converter"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_fault_of_the_file_is_found_where_it_is(change: Callable[[Path], None], tap: str, owner: str) -> None:
    bench = gpt2()
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        file = bench.break_flatbuffer(Path(folder), change)
        findings = audit_constants(FlatbufferModel(file), bench.prepared.parameters, bench.checkpoint).findings
        fault, whose = owned(bench, Path(folder), findings)
    assert (fault.hop.split("->")[0], fault.tap, whose.owner) == ("keras", tap, owner), whose.evidence
