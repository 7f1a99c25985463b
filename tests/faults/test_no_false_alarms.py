"""A faithful model passes with the default limits, whatever its weights and its input are.

Each test prints the largest excess it met, so that `docs/tolerances.md` can be checked:
`python -m pytest tests/faults/test_no_false_alarms.py -s -q | grep clean:`
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from outcomes import passes, report

from harness.bench.outcome import Outcome
from harness.bench.reseed import positions_of
from harness.bench.workbench import BUILTIN, FEW, FIRST, XNNPACK, Bench, bench, drawn
from harness.store.trace import Trace

pytestmark = pytest.mark.slow

SEEDS = range(1, 21)
HOPS = (FIRST, XNNPACK, BUILTIN)
# Norms of 1 + weight and folded scales; fused biases; one more of each part that Llama lacks.
OTHERS = ("gemma2", "qwen2_5", "falcon")
# The lengths of a run that names no inputs, and the shortest ones.
EVERY_LENGTH = (
    ("one", 1, 1), ("two", 2, 1), ("three", 3, 1), ("prompt", 6, 1), ("padded", 22, 3),
    ("prefill-exact", 32, 0), ("chunked", 81, 1), ("long", 192, 1),
)  # fmt: skip


@functools.cache
def every_seed(name: str) -> list[Bench]:
    return [bench(name).reseeded(seed, EVERY_LENGTH) for seed in SEEDS]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_unbroken_miniature_passes_whatever_its_weights_and_tokens_are(seed: int, tmp_path: Path) -> None:
    """Through XNNPACK at every fifth seed; the slow test below takes all seeds through all stages."""
    other = bench("tiny_llama").reseeded(seed, FEW, flatbuffer=seed % 5 == 0)
    stages = ("oracle", "hf", "reauthored", "tflite-xnnpack")[: 4 if seed % 5 == 0 else 3]
    for stage in stages:
        other.trace(stage, tmp_path)
    assert passes(other.judge(tmp_path, stages))


@pytest.mark.sweep
def test_unbroken_miniatures_pass_on_every_hop_at_every_length() -> None:
    outcomes = [other.unbroken for other in every_seed("tiny_llama")]
    report("tiny_llama miniature, 20 seeds of weights and tokens, 8 lengths", outcomes)
    assert all(map(passes, outcomes)), [outcome.fault for outcome in outcomes if outcome.fault]


@pytest.mark.sweep
@pytest.mark.parametrize("length", ["one", "two", "three", "prompt"])
def test_a_short_input_passes_on_its_own(length: str) -> None:
    """Without longer inputs beside it there is no typical noise but its own."""
    outcomes = []
    for other in every_seed("tiny_llama"):
        (item,) = (item for item in other.prepared.inputs if item.id == length)
        outcomes.append(other.on_inputs([item]))
    report(f"tiny_llama miniature, 20 seeds, '{length}' alone", outcomes)
    assert all(map(passes, outcomes)), [outcome.fault for outcome in outcomes if outcome.fault]


def test_a_reseeded_flatbuffer_holds_the_new_weights_and_no_old_ones() -> None:
    base = bench("tiny_llama")
    other = base.reseeded(1, FEW)
    assert other.flatbuffer.stat().st_size == base.flatbuffer.stat().st_size
    for name in base.constants:
        assert positions_of(other.flatbuffer, other.constant(name)) == positions_of(
            base.flatbuffer, base.constant(name)
        )
        with pytest.raises(AssertionError, match="does not hold"):
            positions_of(other.flatbuffer, base.constant(name))


@pytest.mark.parametrize(
    "name",
    ["tiny_llama", *(pytest.param(n, marks=pytest.mark.sweep) for n in OTHERS)],
)
def test_a_reseeded_flatbuffer_is_what_a_conversion_of_those_weights_gives(name: str) -> None:
    """Else the tests of many seeds would prove nothing about conversions."""
    converted = Bench(name, seed=1, inputs=FEW)
    other = bench(name).reseeded(1, FEW)
    assert other.tensors.keys() == converted.tensors.keys()
    assert all(bool((other.tensors[name] == converted.tensors[name]).all()) for name in other.tensors)
    other.prepared.inputs = converted.prepared.inputs
    for stage in ("tflite-xnnpack", "tflite-builtin"):
        for run in (other, converted):
            run.trace(stage, run.folder / "own")
        for item in converted.prepared.inputs:
            one, twin = (Trace.open(run.folder / "own" / stage / item.id) for run in (converted, other))
            assert len(one.taps) > 30
            for tap in one.taps:
                assert np.array_equal(one.load(tap), twin.load(tap)), (stage, item.id, tap)


# Most of them short, where a single position weighs most.
RANDOM_LENGTHS = (1, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 12, 14, 17, 21, 27, 36, 60)


@functools.cache
def trained() -> Outcome:
    """SmolLM2 on 20 inputs of random tokens, which are unlike anything it was trained on."""
    real = Bench("smollm2", real=True)
    real.prepared.inputs = drawn(
        [(f"random-{n}-{i}", n, min(n, i % 3)) for i, n in enumerate(RANDOM_LENGTHS)], 7, 49152
    )
    report("smollm2, trained, 20 inputs of 1 to 60 random tokens", [real.unbroken])
    return real.unbroken


@pytest.mark.sweep
def test_trained_weights_pass_on_random_tokens_in_the_reauthored_model() -> None:
    assert trained().verdicts[FIRST] == "pass", trained().hops[FIRST].reasons


@pytest.mark.sweep
@pytest.mark.parametrize("hop", [XNNPACK, BUILTIN])
def test_trained_weights_pass_on_random_tokens_in_the_flatbuffer(hop: str) -> None:
    frame = trained().frame
    failing = frame[(frame["hop"] == hop) & (frame["verdict"] == "fail")]
    for item, rows in failing.groupby("input"):
        print(
            f"false alarm: {hop}, {item}: {len(rows)} taps, first {rows['tap'].iloc[0]}, "
            f"excess up to {rows['excess'].max():.2f}, position_excess up to {rows['position_excess'].max():.1f}"
        )
    assert trained().verdicts[hop] == "pass", trained().hops[hop].reasons
