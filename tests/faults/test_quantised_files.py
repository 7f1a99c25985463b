"""A quantised file that is not what its recipe says is found by code and layer, and nothing else is.

And where a runtime does something else with a right file, its own hop says so, and not that of the recipe's price.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcomes import show
from quantised_files import QuantisedBench, Weight, aligned, audited, broken, model, quantised, rules_of

from harness.bench.outcome import Outcome
from harness.commands.progress import PlainProgress
from harness.flatbuffer.quantise import quantise
from harness.names.recipes import Recipe, Rules
from harness.pipeline.options import Options
from harness.pipeline.run import run
from harness.record.record import Finding
from harness.stages.litert_torch import fakequant
from harness.stages.torch.fake_quantised import LayerNumbers, RowGrid, rows_from_least

pytestmark = pytest.mark.slow
MODES = ("fp16", "weight_only_int8", "dynamic_int8", "dynamic_int4_block32")
INT8, INT4 = "dynamic_int8", "dynamic_int4_block32"
LAYER = "block.1.mlp.up"
SCALE, WEIGHT, LACKING, DIFFERS = "recipe-scale-wrong", "recipe-weight-wrong", "recipe-not-applied", "recipe-differs"
Change = Callable[[Weight], Any]


def errors(found: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.code, finding.key) for finding in found]


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_holds_what_its_recipe_says_has_no_finding(mode: str) -> None:
    assert audited(quantised(mode).file, mode) == []


def test_a_run_of_sound_recipes_passes_on_every_hop_and_finds_nothing(tmp_path: Path) -> None:
    wanted = Options(model="tiny_llama", miniature=True, quantize=tuple(map(Recipe, MODES)), out=tmp_path)
    with PlainProgress() as progress:
        _, record = run(wanted, progress)
    assert {stage.status for stage in record.stages} == {"ok"}
    assert {hop.verdict for hop in record.hops} == {"pass"}
    assert len(record.hops) == 3 + 4 * len(MODES)
    assert [finding.what for finding in record.findings if finding.code.startswith("recipe")] == []
    assert [(recipe.name, recipe.rules) for recipe in record.recipes] == [(mode, rules_of(mode)) for mode in MODES]
    assert all(len(recipe.layers) == 12 for recipe in record.recipes)
    for recipe in record.recipes:
        assert recipe.mb is not None
        assert recipe.float32_mb is not None
        assert recipe.mb < recipe.float32_mb


def scale_by(factor: float, signatures: slice = slice(None)) -> Change:
    def change(scales: np.ndarray) -> None:
        scales.reshape(-1)[5] *= factor

    return lambda weight: weight.scales(change, signatures)


def scale_is(value: float) -> Change:
    def change(scales: np.ndarray) -> None:
        scales.reshape(-1)[5] = value

    return lambda weight: weight.scales(change)


def swap_two(scales: np.ndarray) -> None:
    flat = scales.reshape(-1)
    flat[[2, 9]] = flat[[9, 2]]


def one_zero_point(points: np.ndarray) -> None:
    points[7] = 1


def swap_nibbles(packed: np.ndarray) -> np.ndarray:
    return (packed >> 4) | (packed << 4)


def misread_blocks(weight: Weight) -> None:
    """The file says 64 where its scales are those of 32, of which every other is left."""

    def halve(scales: np.ndarray) -> None:
        flat = scales.reshape(-1)
        flat[: flat.size // 2] = flat[::2].copy()

    weight.scales(halve)
    for (graph, _), tensor in zip(weight.places, weight.tensors, strict=True):
        details = tensor.quantization.details
        details.blockSize = 64
        holder = weight.work.model.subgraphs[graph].tensors[details.scales]
        holder.shape = [*holder.shape[:-1], holder.shape[-1] // 2]
        number = weight.work.model.buffers[holder.buffer]
        number.data = number.data[: len(number.data) // 2]


def saturate(weight: Weight) -> None:
    """A channel's scale is a quarter of what it needs, and its numbers are cut off there."""
    scale_by(0.25)(weight)

    def change(packed: np.ndarray) -> np.ndarray:
        whole = packed.view(np.int8).reshape(weight.held.whole.shape).astype(np.int32)
        whole[5] = np.clip(whole[5] * 4, -128, 127)
        return whole.astype(np.int8).view(np.uint8).reshape(-1)

    weight.numbers(change)


def of_another_layer(weight: Weight) -> None:
    other = Weight(weight.work, INT8, "block.0.mlp.up")
    weight.numbers(lambda _: other.held.whole.view(np.uint8).reshape(-1))
    weight.scales(lambda scales: np.copyto(scales, other.held.scale.reshape(-1)))


def one_number(weight: Weight) -> None:
    def change(packed: np.ndarray) -> np.ndarray:
        packed[1000] = np.uint8((int(packed[1000]) + 1) % 256)
        return packed

    weight.numbers(change)


def turn(weight: Weight) -> None:
    for tensor in weight.tensors:
        tensor.quantization.quantizedDimension = 1


def no_scales(weight: Weight) -> None:
    for tensor in weight.tensors:
        tensor.quantization = None


FAULTS: dict[str, tuple[str, Change, str]] = {
    "one scale of 256 times 1.01": (INT8, scale_by(1.01), SCALE),
    "one scale times 0.99": (INT8, scale_by(0.99), SCALE),
    "one scale times 1.01 in one signature": (INT8, scale_by(1.01, slice(1, 2)), SCALE),
    "one scale times 1.02 in 4 bits": (INT4, scale_by(1.02), SCALE),
    "two scales swapped": (INT8, lambda weight: weight.scales(swap_two), SCALE),
    "two scales of blocks swapped": (INT4, lambda weight: weight.scales(swap_two), SCALE),
    "a zero point off by one": (INT8, lambda weight: weight.zero_points(one_zero_point), WEIGHT),
    "block size misread": (INT4, misread_blocks, DIFFERS),
    "nibbles in the other order": (INT4, lambda weight: weight.numbers(swap_nibbles), WEIGHT),
    "weights of another layer": (INT8, of_another_layer, WEIGHT),
    "a saturated scale": (INT8, saturate, SCALE),
    "a scale that is NaN": (INT8, scale_is(np.nan), SCALE),
    "a scale that is infinite": (INT8, scale_is(np.inf), SCALE),
    "a scale that is zero": (INT8, scale_is(0.0), SCALE),
    "a scale of a block that is zero": (INT4, scale_is(0.0), SCALE),
    "a scale with another sign": ("weight_only_int8", scale_by(-1), SCALE),
    "one number one step off": (INT8, one_number, WEIGHT),
    "a channel axis that the shape does not have": (INT8, turn, WEIGHT),
    "scales that a file has not": (INT8, no_scales, WEIGHT),
    "one scale of a weight-only recipe times 1.01": ("weight_only_int8", scale_by(1.01), SCALE),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_of_a_file_is_found_by_code_and_layer_and_nothing_else_is(what: str, tmp_path: Path) -> None:
    mode, change, code = FAULTS[what]
    found = audited(broken(mode, LAYER, change, tmp_path / "broken.tflite"), mode)
    print(f"fault: {what}: {[finding.what for finding in found]}")
    assert errors(found)[:1] == [(code, LAYER)]
    assert {finding.key for finding in found} == {LAYER}
    assert {finding.owner for finding in found} <= {f"recipe {mode}", ""}


def left_out(kind: str, regex: str = ".*") -> Rules:
    """A rule after all others that leaves operators as they are."""
    return [{"regex": regex, "operation": kind, "algorithm_key": "no_quantize", "op_config": {}}]


@pytest.mark.parametrize("mode", [INT8, INT4])
@pytest.mark.parametrize(
    ("layer", "kind", "regex"),
    [("embed", "EMBEDDING_LOOKUP", ".*"), ("block.1.mlp.out", "FULLY_CONNECTED", "TransformerBlock_1.*Linear_w2")],
)
def test_a_layer_that_was_left_in_float_is_found(mode: str, layer: str, kind: str, regex: str, tmp_path: Path) -> None:
    file = tmp_path / "left.tflite"
    quantise(model().flatbuffer, [*rules_of(mode), *left_out(kind, regex)], file, mode)
    found = audited(file, mode, aligned(file))
    assert errors(found) == [(LACKING, layer)]
    assert "is float32, and the recipe asks for int" in found[0].what


def test_a_recipe_that_asks_for_blocks_and_gives_channels_is_found_at_every_layer(tmp_path: Path) -> None:
    found = audited(quantised(INT8).file, INT8, quantised(INT8), rules_of(INT4))
    assert {code for code, _ in errors(found)} == {DIFFERS}
    assert "is int8 channelwise, and the recipe asks for int4 blockwise 32" in found[0].what
    assert len(found) == 9, "eight by name, and how many more"


def test_a_layer_that_a_recipe_leaves_in_float_is_no_fault(tmp_path: Path) -> None:
    file, rules = tmp_path / "left.tflite", [*rules_of(INT8), *left_out("EMBEDDING_LOOKUP")]
    quantise(model().flatbuffer, rules, file, INT8)
    assert audited(file, INT8, aligned(file), rules) == []


RUNTIMES = [
    ("weight_only_int8", "tflite-xnnpack"),
    pytest.param("weight_only_int8", "tflite-builtin", marks=pytest.mark.further),
    (INT8, "tflite-xnnpack"),
    (INT8, "tflite-builtin"),
    pytest.param(INT4, "tflite-xnnpack", marks=pytest.mark.further),
]


def assert_found_in_the_runtime(outcome: Outcome, tap: str) -> None:
    price, runtime = outcome.hops.values()
    assert (price.verdict, runtime.verdict) == ("pass", "fail")
    assert outcome.fault is not None
    assert (outcome.fault.hop, outcome.fault.tap) == (runtime.name, tap)


@pytest.mark.parametrize(("mode", "kernels"), RUNTIMES)
def test_a_runtime_that_reads_another_number_fails_its_own_hop_at_its_tap(
    mode: str, kernels: str, tmp_path: Path
) -> None:
    """One number of one weight is one step off in what the kernels read."""
    stages = QuantisedBench(mode, kernels, tmp_path)
    clean = stages.run(quantised(mode))
    assert set(clean.verdicts.values()) == {"pass"}
    assert clean.fault is None
    file = broken(mode, LAYER, one_number, tmp_path / "broken.tflite")
    outcome = stages.run(aligned(file))
    show(f"{mode} on {kernels}: one number one step off", outcome)
    assert_found_in_the_runtime(outcome, LAYER)


def adding_in_int16(x: torch.Tensor, numbers: LayerNumbers, bias: torch.Tensor | None, rows: RowGrid) -> torch.Tensor:
    """As `linear`, by a kernel whose sums wrap around at 2^15."""
    whole, step = rows_from_least(x)
    total = numbers.times(whole)
    assert numbers.scale is not None
    wrapped = (total + 2**15) % 2**16 - 2**15
    return (wrapped * step.to(torch.float64) * numbers.scale).to(torch.float32)


def test_a_kernel_that_adds_in_int16_is_found_where_it_does_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = QuantisedBench(INT8, "tflite-xnnpack", tmp_path)
    monkeypatch.setattr(fakequant, "linear", adding_in_int16)
    for local in (False, True):
        stages.trace(stages.fake, quantised(INT8), named_as=stages.runtime, local=local)
    outcome = stages.judge()
    show("dynamic_int8: a kernel that adds in int16", outcome)
    assert_found_in_the_runtime(outcome, "block.0.attn.q")
