"""GPT-2 by KerasHub and TensorFlow's converter: what is right passes on every hop, and what the published guide leads
to is named."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
from transformers import GPT2Config

from harness.audit.audit import audit_configs
from harness.bench.workbench import FEW, Bench
from harness.compare.generation import OwnWay, Steps
from harness.errors import UsageError
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.signatures import device_shape
from harness.names.codes import FindingCode
from harness.names.loops import LOOPS
from harness.names.stages import HF, ORACLE
from harness.record.record import Finding
from harness.spec.find import find_spec
from harness.spec.load import load_spec
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.keras.greedy import LoopSizes
from harness.weights.parameters import ParameterSource

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def model() -> Model:
    return load_spec(find_spec("gpt2"))


@pytest.fixture(scope="module")
def gpt2() -> Bench:
    return Bench("gpt2", inputs=FEW)


def test_every_tap_is_compared_on_every_hop_and_within_its_limits(gpt2: Bench) -> None:
    outcome = gpt2.unbroken
    assert outcome.verdicts == {"hf->keras": "pass", "keras->tflite-xnnpack": "pass", "keras->tflite-builtin": "pass"}
    assert {hop.coverage for hop in outcome.hops.values()} == {1.0}


def test_every_constant_of_the_file_is_a_variable_of_the_checkpoint(gpt2: Bench) -> None:
    from harness.audit.constants import audit_constants

    found = audit_constants(FlatbufferModel(gpt2.flatbuffer), gpt2.prepared.parameters, gpt2.checkpoint)
    assert [finding.what for finding in found.findings] == []
    assert found.matched >= len(gpt2.prepared.parameters)


def test_model_explorer_knows_the_operator_of_every_tap_in_the_file(gpt2: Bench) -> None:
    from harness.explore.flatbuffer_ops import flatbuffer_ops

    graph = flatbuffer_ops(FlatbufferModel(gpt2.flatbuffer), "prefill_32", gpt2.prepared)
    assert set(graph.taps) == set(gpt2.prepared.taps)


def audited(model: Model, **changes: Any) -> list[Finding]:
    return audit_configs(dataclasses.replace(model, published=lambda: GPT2Config(**changes)))


def test_its_own_config_is_right(model: Model) -> None:
    assert [found.what for found in audited(model)] == []


@pytest.mark.parametrize(
    ("field", "value", "acts"),
    [
        ("layer_norm_epsilon", 1e-6, "pre_attention.eps"),
        ("activation_function", "gelu", "activation"),
        ("n_inner", 2048, "intermediate_size"),
        ("scale_attn_by_inverse_layer_idx", True, "query_scale"),
    ],
)
def test_a_field_that_keras_hub_never_reads_is_named_with_what_it_changes(
    model: Model, field: str, value: object, acts: str
) -> None:
    found = audited(model, **{field: value})
    assert {entry.field for entry in found if entry.code == FindingCode.FIELD_IGNORED} == {field}
    assert acts in {entry.field for entry in found if entry.code == FindingCode.CONFIG_DIFFERS}
    assert all(entry.severity == "error" for entry in found)


def test_a_checkpoint_of_another_width_cannot_be_loaded_and_says_why(model: Model, gpt2: Bench) -> None:
    own = route_of(model).model(model, miniature=True)
    hidden = own.sizes()[0].hidden
    wider = _Wider(gpt2.prepared.parameters, hidden)
    (found,) = [one for one in own.account_for_published_keys(wider) if own.stops_loading(one)][:1]
    assert f"an MLP of {4 * hidden}" in found.what
    assert "n_inner" in found.what


class _Wider:
    """The published model's tensors with another width of the MLP."""

    def __init__(self, sources: list[ParameterSource], hidden: int) -> None:
        self.sources, self.hidden = sources, hidden

    def state_dict(self) -> dict[str, Any]:
        import torch

        keys = {key for source in self.sources for key in source.keys}
        wide = torch.empty(self.hidden, 300, device="meta")
        return {key: wide if "c_fc.weight" in key else torch.empty(1, device="meta") for key in keys}


def test_an_operator_that_needs_flex_is_named_with_what_to_call_instead(tmp_path: Path) -> None:
    from harness.stages.keras.convert import converted, converter_of
    from harness.stages.keras.imports import import_keras_hub

    import_keras_hub()
    import keras
    import tensorflow as tf

    for name, function in (("keras", keras.ops.argmax), ("tf", tf.argmax)):
        holder = tf.Module()
        traced = tf.function(functools.partial(function, axis=-1))
        holder.f = traced.get_concrete_function(tf.TensorSpec([1, 8, 16], tf.float32, name="x"))
        tf.saved_model.save(holder, str(tmp_path / name), signatures={"decode": holder.f})
    with pytest.raises(UsageError, match=r"no operator for BitwiseAnd.*call tf\.argmax"):
        converted(converter_of(tmp_path / "keras", ["decode"]), "mine")
    holder = tf.Module()
    lower = tf.function(lambda text: tf.strings.regex_replace(text, "[A-Z]", "a"))
    holder.f = lower.get_concrete_function(tf.TensorSpec([1], tf.string, name="text"))
    tf.saved_model.save(holder, str(tmp_path / "text"), signatures={"decode": holder.f})
    with pytest.raises(UsageError, match=r"a tokenizer is in the graph: leave the preprocessor out"):
        converted(converter_of(tmp_path / "text", ["decode"]), "mine")
    assert converted(converter_of(tmp_path / "tf", ["decode"]), "mine")


def test_a_file_without_its_variables_is_told_so(gpt2: Bench, tmp_path: Path) -> None:
    """As the published guide hands the model to the converter."""
    from harness.stages.keras.imports import import_keras_hub

    import_keras_hub()
    import keras
    import tensorflow as tf

    layer = keras.layers.Dense(4)
    layer.build((1, 4))
    traced = tf.function(lambda x: layer(x)).get_concrete_function(tf.TensorSpec([1, 4], tf.float32))
    file = tmp_path / "guide.tflite"
    file.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], trackable_obj=layer).convert())
    with pytest.raises(UsageError, match=r"has no weights: it reads 2 variables .*tf\.Module"):
        device_shape(FlatbufferModel(file), 2, 2, 64, 512, "gpt2")


PROMPT = [5, 17, 300, 41, 8, 77]
SIZES = LoopSizes(prompt=8, tokens=12, cache=32)


def published_way(checkpoint: Path, dtype: Any) -> tuple[list[int], Any]:
    """What the published model says after the prompt, greedily, and its logits on the way, `[12, vocabulary]`."""
    import torch

    from harness.stages.huggingface.stage import load

    published, tokens = load(checkpoint, dtype), list(PROMPT)
    with torch.inference_mode():
        for _ in range(SIZES.tokens):
            logits = published(torch.tensor([tokens])).logits[0]
            tokens.append(int(logits[-1].argmax()))
    return tokens[len(PROMPT) :], logits[len(PROMPT) - 1 :].numpy()


def generated_by(model: Any, gpt2: Bench, file: Path) -> list[int]:
    from harness.stages.keras.greedy import write_greedy
    from harness.stages.keras.loop_job import run_ids
    from harness.stages.keras.network import load_keras

    write_greedy(model, load_keras(model, gpt2.checkpoint), gpt2.prepared.dimensions, file, SIZES)
    return list(run_ids(file, {"prompt": PROMPT})["tokens"]["prompt"])


def test_a_file_that_generates_by_itself_says_the_tokens_of_the_published_model(gpt2: Bench, tmp_path: Path) -> None:
    import torch

    wanted, _ = published_way(gpt2.checkpoint, torch.float32)
    assert generated_by(gpt2.model, gpt2, tmp_path / "greedy.tflite") == wanted


def test_a_loop_that_writes_its_cache_in_the_wrong_place_is_a_fault_at_its_first_other_token(
    gpt2: Bench, tmp_path: Path
) -> None:
    import torch

    def one_too_early(network: Any, tokens: Any, cache: Any, at: Any) -> tuple[Any, Any]:
        decodes = tokens.shape[1] == 1
        logits, _, after = network.call_with_cache(tokens, cache, at - 1 if decodes else at)
        return logits, after

    broken: Any = dataclasses.replace(gpt2.model, step=one_too_early)  # type: ignore[arg-type]
    own = generated_by(broken, gpt2, tmp_path / "broken.tflite")
    tokens, logits = published_way(gpt2.checkpoint, torch.float32)
    exact = published_way(gpt2.checkpoint, torch.float64)[1]
    found = Steps(tokens, len(PROMPT), {HF: logits, ORACLE: exact}).loop(LOOPS[0], OwnWay(own, "length"), "litert")
    (fault,) = found.faults
    assert (fault.kind, fault.step, fault.against) == ("fault", found.same, HF)
    assert found.same >= 1, "the first token is of the prefill, which is right"
    assert fault.margin is not None
    assert fault.margin > 100 * fault.noise  # type: ignore[operator]
