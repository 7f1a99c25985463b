"""Long inputs, most of whose taps are kept at some positions: right models pass, and far faults are found.

The limit is lowered for miniatures; one of 4,096 positions, as in a run, is for CI.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from outcomes import passes

from harness.bench.breaking import Change, unchanged
from harness.bench.outcome import Outcome
from harness.bench.workbench import BUILTIN, FIRST, STAGES, TORCH_STAGES, XNNPACK, Bench
from harness.inputs.sampling import sample_of
from harness.names.coverage import SAMPLED_POSITIONS
from harness.names.stages import HF, ORACLE, REAUTHORED
from harness.stages.litert_torch.faults.rewiring import attention_called
from harness.store.trace import Trace, local

_HIDDEN = -1.0  # masks hold 0 where a position is seen


def long_bench(
    model: str, length: int, limit: int, variant: str = "default", stages: tuple[str, ...] = STAGES
) -> Bench:
    made = Bench(
        model,
        inputs=(("far", length, 3), ("near", 45, 2)),
        variant=variant,
        stages=stages,
        device_local=stages == STAGES,
    )
    made.prepared.whole_up_to = limit
    return made


@pytest.fixture(scope="module")
def llama() -> Bench:
    return long_bench("tiny_llama", 230, 64, stages=TORCH_STAGES)


def rotated_otherwise_from(start: int) -> Callable[[Any], None]:
    """A rope whose table is wrong from a position on."""

    def change(network: Any) -> None:
        build = network.config.build_rope
        network.config.build_rope = lambda pos, *rest, **more: build(pos + (pos >= start).int(), *rest, **more)

    return change


def oldest_hidden_from(start: int) -> Callable[[], AbstractContextManager[None]]:
    """A mask that hides the oldest 16 positions from all those that have so many before them."""

    def change(q: Any, k: Any, v: Any, mask: Any) -> dict[str, Any]:
        far = (mask > _HIDDEN).sum(-1, keepdim=True) > start
        oldest = torch.arange(mask.shape[-1]) < 16
        return {"mask": torch.where(far & oldest, torch.full_like(mask, -torch.inf), mask)}

    return attention_called(change)


def broken(
    bench: Bench,
    folder: Path,
    change: Change = unchanged,
    around: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Outcome:
    bench.sound  # noqa: B018 - traced before the model is broken
    with around():
        bench.break_reauthored(folder, change)
    return bench.judge(folder)


def rows_of(outcome: Outcome, hop: str) -> Any:
    return outcome.frame[(outcome.frame["hop"] == hop) & (outcome.frame["input"] == "far")].set_index("tap")


pytestmark = pytest.mark.slow


def test_a_right_model_passes_and_says_where_it_was_looked_at(llama: Bench) -> None:
    assert passes(llama.unbroken), llama.unbroken.fault
    rows = rows_of(llama.unbroken, FIRST)
    assert set(rows["verdict"]) == {"pass"}
    assert rows.loc["block.1.attn.probs", "absence"] == SAMPLED_POSITIONS
    assert not isinstance(rows.loc["logits", "absence"], str)
    assert rows["local_excess"].notna().all()
    short = llama.unbroken.frame[llama.unbroken.frame["input"] == "near"]
    assert not short["absence"].astype(bool).where(short["absence"].notna(), False).any()


def test_every_stage_keeps_the_same_positions(llama: Bench) -> None:
    far = llama.prepared.inputs[0]
    sample = sample_of(far, llama.prepared)
    assert sample is not None
    for stage in (ORACLE, HF, REAUTHORED):
        trace = Trace.open(llama.sound / stage / "far")
        for tap in trace.taps:
            wanted = sample.positions if sample.holds(tap) else range(len(far.tokens))
            assert trace.positions(tap).tolist() == list(wanted), (stage, tap)
    for stage in (HF, REAUTHORED):
        trace = Trace.open(local(llama.sound / stage) / "far")
        assert {tuple(trace.positions(tap).tolist()) for tap in trace.taps} == {sample.positions}


def test_what_is_kept_is_what_a_trace_of_everything_has_there(llama: Bench, tmp_path: Path) -> None:
    """Whether the probabilities of other positions are kept changes none of those that are."""
    whole = long_bench("tiny_llama", 230, 1024, stages=TORCH_STAGES)
    for stage in (ORACLE, REAUTHORED):
        whole.trace(stage, tmp_path)
        one, other = Trace.open(llama.sound / stage / "far"), Trace.open(tmp_path / stage / "far")
        assert one.taps.keys() == other.taps.keys()
        for tap in one.taps:
            at = one.positions(tap)
            assert np.array_equal(one.load(tap)[:, at], other.load(tap)[:, at]), tap


def test_a_rope_that_is_wrong_far_from_the_start_is_found(llama: Bench, tmp_path: Path) -> None:
    fault = broken(llama, tmp_path, rotated_otherwise_from(150)).fault
    assert fault is not None
    assert (fault.hop, fault.tap, fault.input) == (FIRST, "block.0.attn.q_rope", "far")


def test_a_mask_that_hides_the_oldest_positions_far_from_the_start_is_found(llama: Bench, tmp_path: Path) -> None:
    fault = broken(llama, tmp_path, around=oldest_hidden_from(150)).fault
    assert fault is not None
    assert (fault.hop, fault.tap, fault.input) == (FIRST, "block.0.attn.probs", "far")


@pytest.fixture(scope="module")
def windowed() -> Bench:
    return long_bench("gemma2", 230, 64)


def test_a_right_model_with_a_window_passes_in_the_runtimes_too(windowed: Bench) -> None:
    assert windowed.unbroken.verdicts[FIRST] == "pass", windowed.unbroken.fault
    for hop in (XNNPACK, BUILTIN):
        rows = rows_of(windowed.unbroken, hop)
        sampled = rows[rows["absence"] == SAMPLED_POSITIONS]
        assert {"block.0.attn.context", "block.1.mlp.act"} <= set(sampled.index)
        assert set(sampled["verdict"]) == {"pass"}
        assert sampled["local_excess"].notna().any()


@pytest.fixture(scope="module")
def far() -> Bench:
    """4,090 positions, past the 2,048 that most tables end at, by the limit that ships."""
    return long_bench("smollm2", 4090, 1024, "kv-cache=4096", TORCH_STAGES)


@pytest.mark.further
@pytest.mark.parametrize("what", ["nothing", "rope", "mask"])
def test_a_fault_past_2048_positions_is_found_and_a_right_model_passes(far: Bench, what: str, tmp_path: Path) -> None:
    if what == "nothing":
        assert passes(far.unbroken), far.unbroken.fault
        return
    change = rotated_otherwise_from(2048) if what == "rope" else unchanged
    around = oldest_hidden_from(2048) if what == "mask" else nullcontext
    fault = broken(far, tmp_path, change, around).fault
    assert fault is not None
    point = {"rope": "q_rope", "mask": "probs"}[what]
    assert (fault.hop, fault.tap, fault.input) == (FIRST, f"block.0.attn.{point}", "far")
    assert fault.starts_at == 2048
