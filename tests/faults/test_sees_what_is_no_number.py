"""What is not a number never passes, and neither does what a reference alone has wrong: nothing can be judged there."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import assert_first_fault
from places import DOWN

from harness.bench.breaking import jiggled, set_weight
from harness.bench.reseed import patch
from harness.bench.workbench import FIRST, STAGES, XNNPACK, Bench, bench
from harness.stages.litert_torch.faults.rewiring import block
from harness.stages.litert_torch.faults.weights import stored
from harness.store.trace import VALUES_FILE, Trace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def llama() -> Bench:
    """A miniature with an lm_head of its own."""
    return bench("tiny_llama")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("stages", [("oracle",), ("hf",), ("oracle", "hf")], ids="+".join)
def test_a_weight_that_is_no_number_in_the_checkpoint_fails_every_hop(
    llama: Bench, stages: tuple[str, ...], value: float
) -> None:
    """Without a noise floor nothing can be judged, so nothing may pass: not the hops after it either."""
    outcome = llama.with_checkpoint(stored(value).change, stages=stages)
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
    mapped = np.memmap(folder / VALUES_FILE, stored.dtype, "r+", offset=stored.offset, shape=stored.shape)
    mapped[at] = value
    mapped.flush()


@pytest.mark.parametrize("stages", [("hf",), ("oracle",)], ids="+".join)
def test_a_noise_floor_that_is_no_noise_passes_nothing(llama: Bench, stages: tuple[str, ...]) -> None:
    """Where `hf` is not what `oracle` is, the "noise" between them is an error, and would excuse every other error."""
    outcome = llama.with_checkpoint(
        lambda tensors: tensors.update({DOWN.format(0): jiggled(tensors[DOWN.format(0)], 1e-2)}), stages=stages
    )
    assert_first_fault(f"{'+'.join(stages)} alone, {DOWN.format(0)} by 1e-2", outcome, FIRST, "block.0.mlp.out", "fff")
