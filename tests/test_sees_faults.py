"""A model that is broken on purpose fails at the hop that broke it and at the tensor that is wrong.

The faults are the ones people make: a wrong number in a config, a weight in the wrong place, a matrix a little off,
a bit that fell over. Wherever it says "1e-4", every number of a matrix is multiplied by 1 + 1e-4 or 1 - 1e-4.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from marks import further_but

from harness.bench.breaking import (
    Tensors,
    flipped,
    jiggled,
    other_config,
    set_weight,
    swap,
    typical_element,
    with_flip,
)
from harness.bench.reseed import patch
from harness.bench.workbench import (
    BUILTIN,
    FILE_STAGES,
    FIRST,
    STAGES,
    TORCH_STAGES,
    XNNPACK,
    Bench,
    Outcome,
    bench,
    figures,
)
from harness.store.trace import TAPS_FILE, Trace

pytestmark = pytest.mark.slow

LAYER = "model.layers.{}."
GATE, UP, DOWN = (LAYER + f"mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
HOPS = (FIRST, XNNPACK, BUILTIN)


@pytest.fixture(scope="module")
def llama() -> Bench:
    """A miniature with an lm_head of its own."""
    return bench("tiny_llama")


def show(what: str, outcome: Outcome) -> None:
    """For the table of faults: `python -m pytest tests/test_sees_faults.py -s -q | grep fault:`"""
    fault = outcome.fault
    where = f"{fault.hop} at {fault.tap}, excess {fault.excess:.3g}" if fault else "not seen"
    print(f"fault: {what}: {where}")


def assert_first_fault(what: str, outcome: Outcome, hop: str, tap: str, verdicts: str | None = None) -> None:
    """verdicts: of the three hops in the order of the pipeline, e.g. "pff"."""
    show(what, outcome)
    assert outcome.fault is not None, f"{what} was not seen"
    assert (outcome.fault.hop, outcome.fault.tap) == (hop, tap)
    if verdicts:
        assert "".join(verdict[0] for verdict in outcome.verdicts.values()) == verdicts


def test_an_unbroken_miniature_passes(llama: Bench) -> None:
    """The bench itself breaks nothing: what the tests below see is the fault."""
    assert llama.unbroken.fault is None
    assert llama.unbroken.verdicts == dict.fromkeys(HOPS, "pass")
    assert all(llama.unbroken.hops[hop].coverage >= 0.9 for hop in HOPS)


# --- the checkpoint that Hugging Face runs -----------------------------------------------------------------------


def other_rope(factor: float) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        config["rope_parameters"]["rope_theta"] *= factor

    return change


@pytest.mark.parametrize(
    ("what", "change", "tap"),
    [
        ("rope base 10000 -> 500000", other_rope(50), "block.0.attn.q_rope"),
        ("rope base 10000 -> 10010", other_rope(1.001), "block.0.attn.q_rope"),
        ("norm eps 1e-5 -> 1e-6", lambda config: config.update(rms_norm_eps=1e-6), "block.0.attn.norm"),
        ("activation silu -> gelu", lambda config: config.update(hidden_act="gelu"), "block.0.mlp.act"),
    ],
)
def test_a_wrong_number_in_the_config_is_seen_where_it_first_acts(
    llama: Bench, what: str, change: Callable[[dict[str, Any]], None], tap: str
) -> None:
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


def block(network: Any, number: int) -> Any:
    return network.transformer_blocks[number]


MODULES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pre_atten_norm": (lambda n: block(n, 1).pre_atten_norm, "block.1.attn.norm"),
    "qkv_projection": (lambda n: block(n, 1).atten_func.qkv_projection, "block.1.attn.q"),
    "output_projection": (lambda n: block(n, 1).atten_func.output_projection, "block.1.attn.out"),
    "post_atten_norm": (lambda n: block(n, 1).post_atten_norm, "block.1.mlp.norm"),
    "w1": (lambda n: block(n, 1).ff.w1, "block.1.mlp.gate"),
    "w3": (lambda n: block(n, 1).ff.w3, "block.1.mlp.up"),
    "w2": (lambda n: block(n, 1).ff.w2, "block.1.mlp.out"),
    "final_norm": (lambda n: n.final_norm, "final_norm"),
    "lm_head": (lambda n: n.lm_head, "logits"),
}


def jiggle(find: Callable[[Any], Any], relative: float = 1e-4, seed: int = 0) -> Callable[[Any], None]:
    return lambda network: set_weight(find(network), jiggled(find(network).weight, relative, seed))


@pytest.mark.parametrize("module", MODULES)
def test_any_matrix_of_the_reauthored_model_that_is_off_by_1e_4_is_seen_at_its_own_output(
    llama: Bench, module: str
) -> None:
    find, tap = MODULES[module]
    outcome = llama.with_reauthored(jiggle(find))
    assert_first_fault(f"re-authored, {module} of block 1 by 1e-4", outcome, FIRST, tap, "fff")
    assert figures(outcome, FIRST, tap)["excess"] > 30


def swap_gate_and_up(network: Any) -> None:
    feed_forward = block(network, 1).ff
    feed_forward.w1, feed_forward.w3 = feed_forward.w3, feed_forward.w1


def gelu_for_silu(network: Any) -> None:
    block(network, 0).ff.act = torch.nn.functional.gelu


def output_projection_of_another_block(network: Any) -> None:
    set_weight(block(network, 1).atten_func.output_projection, block(network, 0).atten_func.output_projection.weight)


def exchange_key_heads(network: Any) -> None:
    projection = block(network, 1).atten_func.qkv_projection
    config = projection_config(network)
    groups = projection.weight.clone().view(config.num_query_groups, -1, config.head_dim, projection.in_features)
    groups[:, -2] = groups[:, -2].flip(0)  # [Q ... Q K V] per KV group
    set_weight(projection, groups.view_as(projection.weight))


def projection_config(network: Any) -> Any:
    return network.config.block_config(1).attn_config


def final_norm_left_at_ones(network: Any) -> None:
    set_weight(network.final_norm, torch.ones_like(network.final_norm.weight))


@pytest.mark.parametrize(
    ("change", "tap"),
    [
        (swap_gate_and_up, "block.1.mlp.gate"),
        (gelu_for_silu, "block.0.mlp.act"),
        (output_projection_of_another_block, "block.1.attn.out"),
        (exchange_key_heads, "block.1.attn.k"),
        (final_norm_left_at_ones, "final_norm"),
    ],
)
@pytest.mark.parametrize("name", further_but(["tiny_llama"], ["tiny_llama", "smollm2"]))
def test_a_mistake_in_the_reauthored_model_is_seen_where_it_was_made(
    name: str, change: Callable[[Any], None], tap: str
) -> None:
    outcome = bench(name).with_reauthored(change)
    # The flatbuffer was converted before the mistake, so it differs from the model as well.
    assert_first_fault(f"{name}: re-authored, {change.__name__}", outcome, FIRST, tap, "fff")


def wrong_rope_base(config: Any) -> None:
    attention = config.block_config(0).attn_config
    attention.rotary_base *= 5


def scaled_embedding(config: Any) -> None:
    config.embedding_scale = 1.001


def wrong_norm_eps(config: Any) -> None:
    config.block_config(0).pre_attention_norm_config.epsilon = 1e-6


@pytest.mark.parametrize(
    ("change", "tap"),
    [
        (wrong_rope_base, "block.0.attn.q_rope"),
        (scaled_embedding, "embed"),
        (wrong_norm_eps, "block.0.attn.norm"),
    ],
)
def test_a_wrong_number_in_the_reauthored_config_is_seen_where_it_first_acts(
    llama: Bench, change: Callable[[Any], None], tap: str
) -> None:
    outcome = llama.with_reauthored(model=other_config(llama.model, change))
    assert_first_fault(f"re-authored config, {change.__name__}", outcome, FIRST, tap, "fff")


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


# --- the flatbuffer ------------------------------------------------------------------------------------------------

CONSTANTS = {
    "qkv.1": "block.1.attn.q",
    LAYER.format(1) + "self_attn.o_proj.weight": "block.1.attn.out",
    GATE.format(0): "block.0.mlp.gate",
    UP.format(1): "block.1.mlp.up",
    DOWN.format(1): "block.1.mlp.out",
    LAYER.format(1) + "input_layernorm.weight": "block.1.attn.norm",
    "model.norm.weight": "final_norm",
    "lm_head.weight": "logits",
}


def flip_one_bit(llama: Bench, weight: str, stages: Sequence[str], retap: bool = False) -> Outcome:
    """In the weight that is nearest to its matrix's root mean square, which the bit doubles or halves."""
    values = llama.constant(weight)
    broken = with_flip(values, typical_element(values))
    assert np.count_nonzero(broken != values) == 1
    return llama.with_flatbuffer(lambda file: patch(file, values, broken), stages, retap)


@pytest.mark.parametrize("weight", CONSTANTS)
def test_one_exponent_bit_of_one_typical_weight_of_the_flatbuffer_is_seen(llama: Bench, weight: str) -> None:
    outcome = flip_one_bit(llama, weight, ("tflite-xnnpack",))
    assert_first_fault(f"flatbuffer, an exponent bit of {weight}", outcome, XNNPACK, CONSTANTS[weight], "pfp")


@pytest.mark.parametrize("weight", CONSTANTS)
def test_both_runtimes_show_a_fault_of_the_file_at_the_same_tap(llama: Bench, weight: str) -> None:
    """What both TFLite stages share is the file's fault, and not that of a kernel."""
    outcome = flip_one_bit(llama, weight, FILE_STAGES, retap=True)
    assert_first_fault(f"flatbuffer, an exponent bit of {weight}", outcome, XNNPACK, CONSTANTS[weight], "pff")
    assert outcome.hops[BUILTIN].first_failing_tap == CONSTANTS[weight]


def test_an_exponent_bit_of_the_embedding_is_seen_when_its_token_occurs(llama: Bench) -> None:
    values = llama.constant("model.embed_tokens.weight")
    token = llama.prepared.inputs[0].tokens[3]
    at = (token, *typical_element(values[token]))
    outcome = llama.with_flatbuffer(lambda file: patch(file, values, with_flip(values, at)), ("tflite-xnnpack",))
    assert_first_fault("flatbuffer, an exponent bit of the embedding", outcome, XNNPACK, "embed", "pfp")

    absent = next(n for n in range(3, 512) if all(n not in item.tokens for item in llama.prepared.inputs))
    at = (absent, *typical_element(values[absent]))
    unseen = llama.with_flatbuffer(lambda file: patch(file, values, with_flip(values, at)), ("tflite-xnnpack",))
    assert unseen.verdicts[XNNPACK] == "pass", "nobody can see a weight that was not used"


def test_a_tied_embedding_is_seen_at_both_its_ends() -> None:
    smollm = bench("smollm2")
    values = smollm.constant("model.embed_tokens.weight")
    outcome = smollm.with_flatbuffer(lambda file: patch(file, values, jiggled(torch.tensor(values)).numpy()))
    assert_first_fault("smollm2: flatbuffer, the tied embedding by 1e-4", outcome, XNNPACK, "embed", "pff")
    assert figures(outcome, XNNPACK, "logits")["excess"] > 30


@pytest.mark.parametrize("weight", ["qkv.1", DOWN.format(1)])
def test_a_matrix_of_the_flatbuffer_that_is_off_by_1e_4_is_seen(llama: Bench, weight: str) -> None:
    values = llama.constant(weight)
    outcome = llama.with_flatbuffer(lambda file: patch(file, values, jiggled(torch.tensor(values)).numpy()))
    assert_first_fault(f"flatbuffer, {weight} by 1e-4", outcome, XNNPACK, CONSTANTS[weight], "pff")


def test_gate_and_up_exchanged_in_the_flatbuffer_are_seen(llama: Bench) -> None:
    gate, up = llama.constant(GATE.format(1)), llama.constant(UP.format(1))
    outcome = llama.with_flatbuffer(lambda file: swap(file, gate, up))
    assert_first_fault("flatbuffer, w1 and w3 of block 1 exchanged", outcome, XNNPACK, "block.1.mlp.gate", "pff")


def random_flip(llama: Bench, seed: int) -> tuple[str, tuple[int, ...]]:
    """A weight drawn from all those of the blocks and the head, each as likely as any other."""
    random = np.random.default_rng(seed)
    names = [name for name in llama.constants if name != "model.embed_tokens.weight"]
    sizes = np.array([llama.constant(name).size for name in names])
    name = names[random.choice(len(names), p=sizes / sizes.sum())]
    values = llama.constant(name)
    return name, tuple(int(i) for i in np.unravel_index(random.integers(values.size), values.shape))


def seen_flips(llama: Bench, seeds: range) -> list[tuple[float, bool]]:
    """(size of the change over the root mean square of its matrix, whether it was seen) for each seed."""
    found = []
    for seed in seeds:
        name, at = random_flip(llama, seed)
        values = llama.constant(name)
        broken = with_flip(values, at)
        outcome = llama.with_flatbuffer(lambda file, v=values, b=broken: patch(file, v, b), ("tflite-xnnpack",))
        rms = float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
        assert outcome.verdicts[FIRST] == outcome.verdicts[BUILTIN] == "pass"
        found.append((abs(float(broken[at]) - float(values[at])) / rms, outcome.verdicts[XNNPACK] == "fail"))
    return found


@pytest.mark.further
def test_the_lowest_exponent_bit_of_any_weight_at_all_is_seen_nearly_always(llama: Bench) -> None:
    """Of 30 weights drawn at random, small ones too; one that is missed changed by next to nothing."""
    found = seen_flips(llama, range(30))
    missed = [size for size, seen in found if not seen]
    smallest = min(size for size, seen in found if seen)
    print(
        f"fault: flatbuffer, exponent bit of a random weight: {30 - len(missed)} of 30 seen, down to {smallest:.2g} rms"
    )
    assert len(missed) <= 1
    assert all(size < 0.01 for size in missed)


# --- what is not a number ------------------------------------------------------------------------------------------


def spoiled(tensors: Tensors, value: float = math.nan) -> None:
    tensors[DOWN.format(1)][1, 2] = value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stages", [("oracle",), ("hf",), ("oracle", "hf")], ids="+".join)
def test_a_weight_that_is_no_number_in_the_checkpoint_fails_every_hop(
    llama: Bench, stages: tuple[str, ...], value: float
) -> None:
    """Without a noise floor nothing can be judged, so nothing may pass: not the hops after it either."""
    outcome = llama.with_checkpoint(lambda tensors: spoiled(tensors, value), stages=stages)
    assert_first_fault(f"{'+'.join(stages)}, {value} in a weight", outcome, FIRST, "block.1.mlp.out", "fff")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_in_the_reauthored_model_is_seen(llama: Bench, value: float) -> None:
    def spoil(network: Any) -> None:
        weight = block(network, 1).ff.w2.weight.clone()
        weight[1, 2] = value
        set_weight(block(network, 1).ff.w2, weight)

    outcome = llama.with_reauthored(spoil)
    assert_first_fault(f"re-authored, {value} in a weight", outcome, FIRST, "block.1.mlp.out", "fff")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_weight_that_is_no_number_in_the_flatbuffer_is_seen(llama: Bench, value: float) -> None:
    values = llama.constant(DOWN.format(1))
    broken = values.copy()
    broken[1, 2] = value
    outcome = llama.with_flatbuffer(lambda file: patch(file, values, broken))
    assert_first_fault(f"flatbuffer, {value} in a weight", outcome, XNNPACK, "block.1.mlp.out", "pff")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("tap", ["block.0.mlp.up", "logits"])
def test_the_same_infinity_or_nan_on_every_side_never_passes(
    llama: Bench, tmp_path: Path, tap: str, value: float
) -> None:
    """Equal is not enough: the error of two infinities is not a number."""
    broken = tmp_path / "traces"
    shutil.copytree(llama.sound, broken)
    for stage in STAGES:
        write_element(broken / stage / "short", tap, (0, 2, 1), value)
    outcome = llama.judge(broken)
    assert_first_fault(f"{value} on every side at {tap}", outcome, FIRST, tap, "fff")
    assert all(hop.first_failing_tap == tap for hop in outcome.hops.values())


def write_element(folder: Path, tap: str, at: tuple[int, ...], value: float) -> None:
    """Overwrite one number of a trace."""
    stored = Trace.open(folder).taps[tap]
    mapped = np.memmap(folder / TAPS_FILE, stored.dtype, "r+", offset=stored.offset, shape=stored.shape)
    mapped[at] = value
    mapped.flush()


@pytest.mark.parametrize("stages", [("hf",), ("oracle",)], ids="+".join)
def test_a_noise_floor_that_is_no_noise_passes_nothing(llama: Bench, stages: tuple[str, ...]) -> None:
    """Where `hf` is not what `oracle` is, the "noise" between them is an error, and would excuse every other error."""
    outcome = llama.with_checkpoint(
        lambda tensors: tensors.update({DOWN.format(0): jiggled(tensors[DOWN.format(0)], 1e-2)}), stages=stages
    )
    assert_first_fault(f"{'+'.join(stages)} alone, {DOWN.format(0)} by 1e-2", outcome, FIRST, "block.0.mlp.out", "fff")


# --- trained weights -----------------------------------------------------------------------------------------------


@pytest.mark.further
def test_in_trained_weights_one_matrix_off_by_1e_4_is_seen_in_its_block() -> None:
    real = Bench("smollm2", real=True, inputs=(("random", 45, 2),), stages=TORCH_STAGES)
    outcome = real.with_reauthored(jiggle(lambda network: block(network, 7).ff.w2))
    show("smollm2, trained: re-authored, w2 of block 7 by 1e-4", outcome)
    assert outcome.fault is not None
    assert (outcome.fault.hop, outcome.fault.tap) == (FIRST, "block.7.mlp.out")


@pytest.mark.sweep
def test_in_trained_weights_one_exponent_bit_of_the_file_fails_the_command(tmp_path: Path) -> None:
    """`edge-parity run smollm2 --tflite FILE` exits with 1 and names the hop and the tap."""
    real = Bench("smollm2", real=True)
    file = tmp_path / "broken.tflite"
    shutil.copyfile(real.flatbuffer, file)
    values = real.constant(DOWN.format(7))
    at = typical_element(values)
    assert abs(flipped(float(values[at]))) in (abs(values[at]) * 2, abs(values[at]) / 2)
    patch(file, values, with_flip(values, at))
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text('{"text": "The capital of France is"}\n')
    command = [
        sys.executable,
        "-m",
        "harness.commands.main",
        "run",
        "smollm2",
        "--tflite",
        str(file),
        "--inputs",
        str(inputs),
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "runs"), "--json"], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 1, done.stderr
    record = json.loads(done.stdout)
    fault = record["first_fault"]
    print(f"fault: smollm2, trained: flatbuffer, an exponent bit of w2 of block 7: {fault['hop']} at {fault['tap']}")
    assert (fault["hop"], fault["tap"], fault["block"]) == (XNNPACK, "block.7.mlp.out", 7)
    assert [hop["verdict"] for hop in record["hops"]] == ["pass", "fail", "fail"]
