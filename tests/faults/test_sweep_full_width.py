"""No model that is right fails at full width: widths to 4,096, MLP widths to 16,384, and 8,192 positions.

Each test prints the largest excess it met on each hop: `make sweep | grep clean:`
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from litert_torch.generative.layers import attention_utils
from miniatures import EXAMPLES, called, lengthened, right
from outcomes import passes, report
from wide import VARIANTS, wide_spec

from harness.bench.workbench import Bench

SEEDS = (1, 2, 3)
# The lengths of a run that names no inputs.
SIX = (
    ("one", 1, 1), ("prompt", 5, 1), ("padded", 22, 3), ("exact", 32, 0), ("chunked", 81, 1), ("long", 192, 1),
)  # fmt: skip

pytestmark = pytest.mark.sweep


@pytest.fixture(autouse=True)
def whatever_a_spec_replaces_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_utils, "build_alibi_bias", attention_utils.build_alibi_bias)


@pytest.mark.parametrize("name", [*sorted(EXAMPLES), "llama3_2_3b"])
def test_random_weights_of_full_width_pass_on_every_hop(name: str, tmp_path: Path) -> None:
    spec, variant = wide_spec(name, tmp_path), VARIANTS.get(name, "default")
    first, outcomes = Bench(spec, inputs=SIX, variant=variant, layers=2, device_local=True), []
    for seed in SEEDS:
        other = first.reseeded(seed, SIX)
        outcomes.append(other.unbroken)
        shutil.rmtree(other.folder)
    report(f"{name}, 2 layers at full width, {len(SEEDS)} seeds, 6 inputs", outcomes)
    assert all(map(passes, outcomes)), [outcome.fault for outcome in outcomes if outcome.fault]


def test_trained_weights_of_full_width_pass_on_every_hop() -> None:
    outcomes = []
    for seed in SEEDS:
        first = Bench("smollm2", real=True, layers=2, inputs=SIX, token_seed=seed, device_local=True)
        outcomes.append(first.unbroken)
        shutil.rmtree(first.folder)
    report(f"smollm2, trained, its first 2 layers, {len(SEEDS)} draws of 6 inputs", outcomes)
    assert all(map(passes, outcomes)), [outcome.fault for outcome in outcomes if outcome.fault]


def test_8192_positions_pass_on_every_hop() -> None:
    """Attention then adds over as many terms. Four heads: their probabilities alone take 1 GB a block and stage."""
    bench = lengthened(right("qwen3"), 8192, 2048)
    outcome = bench.unbroken
    shutil.rmtree(bench.folder)
    report(f"{called(bench)} miniature, 8192 positions", [outcome])
    assert passes(outcome), outcome.fault
