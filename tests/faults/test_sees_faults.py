"""A model that is broken on purpose fails at the hop that broke it and at the tensor that is wrong.

The faults are the ones people make: a wrong number in a config, a weight in the wrong place, a matrix a little off.
Wherever it says "1e-4", every number of a matrix is multiplied by 1 + 1e-4 or 1 - 1e-4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from marks import further_but
from mistakes import (
    PUBLISHED,
    config,
    gate_and_up_exchanged,
    gelu_for_silu,
    network,
    output_projection_of_another_block,
)
from outcomes import assert_first_fault, show
from places import DOWN, LAYER, MODULES, jiggle

from harness.bench.breaking import Change, jiggled
from harness.bench.outcome import figures
from harness.bench.workbench import BUILTIN, FIRST, TORCH_STAGES, XNNPACK, Bench, bench
from harness.stages.litert_torch.faults.config import model as model_config
from harness.stages.litert_torch.faults.declarations import other_config
from harness.stages.litert_torch.faults.rewiring import block

pytestmark = pytest.mark.slow

HOPS = (FIRST, XNNPACK, BUILTIN)


@pytest.fixture(scope="module")
def llama() -> Bench:
    """A miniature with an lm_head of its own."""
    return bench("tiny_llama")


def test_an_unbroken_miniature_passes(llama: Bench) -> None:
    """The bench itself breaks nothing: what the tests below see is the fault."""
    assert llama.unbroken.fault is None
    assert llama.unbroken.verdicts == dict.fromkeys(HOPS, "pass")
    assert all(llama.unbroken.hops[hop].coverage >= 0.9 for hop in HOPS)


# --- the checkpoint that Hugging Face runs -----------------------------------------------------------------------


@pytest.mark.parametrize("what", PUBLISHED)
def test_a_wrong_number_in_the_config_is_seen_where_it_first_acts(llama: Bench, what: str) -> None:
    change, tap, _ = PUBLISHED[what]
    outcome = llama.with_checkpoint(config=change)
    assert_first_fault(f"checkpoint config, {what}", outcome, FIRST, tap, "fpp")


@pytest.mark.parametrize(
    ("weight", "tap"),
    [
        ("model.embed_tokens.weight", "embed"),
        (LAYER.format(0) + "self_attn.k_proj.weight", "block.0.attn.k"),
        (LAYER.format(1) + "post_attention_layernorm.weight", "block.1.mlp.norm"),
        (DOWN.format(1), "block.1.mlp.out"),
    ],
)
def test_a_matrix_that_only_the_checkpoint_has_is_seen(llama: Bench, weight: str, tap: str) -> None:
    outcome = llama.with_checkpoint(lambda tensors: tensors.update({weight: jiggled(tensors[weight])}))
    assert_first_fault(f"checkpoint, {weight} by 1e-4", outcome, FIRST, tap, "fpp")


# --- the re-authored model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_any_matrix_of_the_reauthored_model_that_is_off_by_1e_4_is_seen_at_its_own_output(
    llama: Bench, module: str
) -> None:
    find, tap = MODULES[module]
    outcome = llama.with_reauthored(jiggle(find))
    assert_first_fault(f"re-authored, {module} of block 1 by 1e-4", outcome, FIRST, tap, "fff")
    assert figures(outcome, FIRST, tap)["excess"] > 30


# Mistake -> what is done to the network, and the tap that shows it.
MISTAKES: dict[str, tuple[Change, str]] = {
    "gate and up exchanged": (gate_and_up_exchanged, "block.1.mlp.gate"),
    "GELU for SiLU": (gelu_for_silu, "block.0.mlp.act"),
    "output projection of another block": (output_projection_of_another_block, "block.1.attn.out"),
    "key heads exchanged": (network("weights/key-heads"), "block.1.attn.k"),
    "final norm left at ones": (network("weights/final-norm-ones"), "final_norm"),
}


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.parametrize("name", further_but(["tiny_llama"], ["tiny_llama", "smollm2"]))
def test_a_mistake_in_the_reauthored_model_is_seen_where_it_was_made(name: str, what: str) -> None:
    change, tap = MISTAKES[what]
    outcome = bench(name).with_reauthored(change)
    # The flatbuffer was converted before the mistake, so it differs from the model as well.
    assert_first_fault(f"{name}: re-authored, {what}", outcome, FIRST, tap, "fff")


def wrong_rope_base(config: Any) -> None:
    config.block_config(0).attn_config.rotary_base *= 5


NUMBERS: dict[str, tuple[Change, str]] = {
    "rope base times 5 in block 0": (wrong_rope_base, "block.0.attn.q_rope"),
    "embedding scale 1.001": (model_config(embedding_scale=1.001), "embed"),
    "norm eps 1e-5 -> 1e-6": (config("re-authored-config/norm-eps"), "block.0.attn.norm"),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_a_wrong_number_in_the_reauthored_config_is_seen_where_it_first_acts(llama: Bench, what: str) -> None:
    change, tap = NUMBERS[what]
    outcome = llama.with_reauthored(model=other_config(llama.model, change))
    assert_first_fault(f"re-authored config, {what}", outcome, FIRST, tap, "fff")


def test_a_matrix_off_by_a_hundred_thousandth_stands_out_where_it_is(llama: Bench) -> None:
    """One of 1e-7, which is float32's own rounding, does not."""
    for module in ("qkv_projection", "output_projection", "w2"):
        find, tap = MODULES[module]
        outcome = llama.with_reauthored(jiggle(find, 1e-5))
        assert_first_fault(f"re-authored, {module} of block 1 by 1e-5", outcome, FIRST, tap)
        assert outcome.fault is not None
        assert outcome.fault.local_excess is not None
        assert outcome.fault.local_excess > 16
        assert llama.with_reauthored(jiggle(find, 1e-7)).verdicts[FIRST] == "pass"


def test_a_broken_model_is_not_converted_into_the_cache_that_others_use(llama: Bench, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="a cache of its own"):
        Bench("tiny_llama", change=gelu_for_silu)


def test_a_mistake_that_is_converted_faithfully_is_charged_to_the_reauthored_model_alone(tmp_path: Path) -> None:
    """Broken, then converted: what ships is what the re-authored model computes, so both TFLite hops pass."""
    from harness.store.cache import Cache

    inputs = (("short", 6, 1), ("chunked", 45, 2))
    broken = Bench("tiny_llama", inputs=inputs, cache=Cache.temporary(tmp_path), change=gelu_for_silu)
    assert broken.flatbuffer.is_relative_to(tmp_path)
    outcome = broken.unbroken
    assert_first_fault("re-authored, gelu_for_silu, and converted from that", outcome, FIRST, "block.0.mlp.act", "fpp")


# --- trained weights -----------------------------------------------------------------------------------------------


@pytest.mark.further
def test_in_trained_weights_one_matrix_off_by_1e_4_is_seen_in_its_block() -> None:
    real = Bench("smollm2", real=True, inputs=(("random", 45, 2),), stages=TORCH_STAGES)
    outcome = real.with_reauthored(jiggle(lambda network: block(network, 7).ff.w2))
    show("smollm2, trained: re-authored, w2 of block 7 by 1e-4", outcome)
    assert outcome.fault is not None
    assert (outcome.fault.hop, outcome.fault.tap) == (FIRST, "block.7.mlp.out")
