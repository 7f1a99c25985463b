"""What is special in a family of models, on the way to a flatbuffer: found by wiring, and wrong where known to be.

Each case is a conversion of its own, so these are few: one for every way in which a graph differs from Llama's.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from harness.bench.workbench import BUILTIN, FIRST, XNNPACK, Bench, bench
from harness.names.coverage import FOLDED_NORM
from harness.stages.litert.stage import Runner
from harness.store.trace import Trace

pytestmark = pytest.mark.slow


def missing(model: Bench, signature: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(model.tapped[1].read_text())["missing"][signature]
    return found


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("gemma2", "default"),  # post norms, both softcaps, two masks
        pytest.param("gemma1", "kv=transposed", marks=pytest.mark.further),  # one KV head
        pytest.param(
            "phi2", "default", marks=pytest.mark.further
        ),  # parallel residual, one norm for both, no gate, partial rotary, layer norms, biases
        pytest.param("phi3", "default", marks=pytest.mark.further),  # gate and up in one projection
    ],
    ids=str,
)
def test_every_tap_is_found_and_a_model_without_a_fault_passes(name: str, variant: str) -> None:
    model = bench(name, variant=variant)
    assert missing(model, "prefill_32") == missing(model, "decode") == {}
    assert set(model.unbroken.verdicts.values()) == {"pass"}
    assert model.unbroken.hops[BUILTIN].coverage == 1.0
    for hop in (XNNPACK, BUILTIN):
        assert model.unbroken.worst(hop) < 3, "the same tensors on both sides"


def test_a_transpose_that_became_a_reshape_shows_on_builtin_kernels_at_the_attention_of_the_first_block() -> None:
    gemma = bench("gemma1")
    assert gemma.unbroken.verdicts == {FIRST: "pass", XNNPACK: "pass", BUILTIN: "fail"}
    assert gemma.unbroken.fault is not None
    assert gemma.unbroken.fault.tap == "block.0.attn.probs"
    read, right = (probabilities_of_the_last_token(gemma, stage) for stage in ("tflite-builtin", "reauthored"))
    transposed, reshaped = (attention_over(gemma, reshape) for reshape in (False, True))
    assert np.abs(right - transposed).max() < 1e-5
    assert np.abs(read - reshaped).max() < 1e-5, "the numbers are those of K reshaped, so the tap is what it says"
    assert np.abs(read - transposed).max() > 0.1


def probabilities_of_the_last_token(model: Bench, stage: str) -> np.ndarray[Any, Any]:
    return Trace.open(model.sound / stage / "short").load("block.0.attn.probs")[0, -1]


def attention_over(model: Bench, reshape: bool) -> np.ndarray[Any, Any]:
    """What the last token attends to, `[heads, source]`, from the file's own queries and cache, in float64.

    reshape: read K, `[source, head_dim]`, as `[head_dim, source]` where it lies, in place of transposing it.
    """
    short = next(item for item in model.prepared.inputs if item.id == "short")
    trace = Trace.open(model.sound / "tflite-builtin" / short.id)
    queries = trace.load("block.0.attn.q_rope")[0, -1].astype(np.float64)
    job = model.job("tflite-builtin", model.folder)
    *_, (_, outputs) = Runner(job, model.flatbuffer, preserve=False).drive(short)
    keys = outputs["kv_cache_k_0"][0, :, 0].astype(np.float64)  # padding after the last position and all
    turned = keys.reshape(keys.shape[::-1]) if reshape else keys.T
    scores = queries @ turned / np.sqrt(queries.shape[-1])
    seen = len(short.tokens)
    weights = np.exp(scores[:, :seen] - scores[:, :seen].max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.further
def test_a_window_that_is_lost_with_the_mask_as_an_input_is_charged_to_the_flatbuffer() -> None:
    gemma = bench("gemma2", variant="mask-as-input")
    assert gemma.unbroken.verdicts == {FIRST: "pass", XNNPACK: "fail", BUILTIN: "fail"}
    fault = gemma.unbroken.fault
    assert fault is not None
    assert (fault.hop, fault.tap) == (XNNPACK, "block.0.attn.context")  # block 0 has the window
    assert gemma.unbroken.hops[BUILTIN].first_failing_tap == "block.0.attn.probs"


def test_a_norm_that_was_folded_into_a_linear_layer_is_missing_with_the_reason_and_never_misread() -> None:
    phi = bench("phi2", variant="no-hlfb")
    folded = {tap for tap, (_, why) in missing(phi, "prefill_32").items() if why == FOLDED_NORM}
    assert folded == set(missing(phi, "prefill_32")) == {"block.0.attn.norm", "block.1.attn.norm", "final_norm"}
    assert set(phi.unbroken.verdicts.values()) == {"pass"}
    assert phi.unbroken.worst(BUILTIN) < 3
