"""Models that are right, as they are and quantised: whatever fails is a false alarm.

In: a bench. Out: a `Clean`, or one for each recipe, with the weights and tokens of another seed.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd

from harness.bench.others import logits_complain, verifier_complains
from harness.bench.others_quantised import peers_complain
from harness.bench.outcome import Outcome
from harness.bench.quantised import MODES, QuantisedBench
from harness.bench.result import Clean
from harness.bench.workbench import FILE_STAGES, Bench
from harness.names.recipes import block_size
from harness.names.stages import REAUTHORED

Inputs = Sequence[tuple[str, int, int]]


def run_clean(bench: Bench, seed: int, inputs: Inputs) -> Clean:
    """The unbroken model with another seed's weights and tokens."""
    began = time.monotonic()
    with _reseeded(bench, seed, inputs) as other:
        outcome = other.unbroken
        return Clean(
            model=_name(bench),
            seed=seed,
            comparisons=len(inputs) * len(outcome.hops),
            taps=_compared(outcome),
            alarms=_alarms(outcome),
            others={
                "verifier": verifier_complains(other),
                **logits_complain(other, other.sound, (REAUTHORED, *FILE_STAGES)),
            },
            seconds=round(time.monotonic() - began, 2),
        )


def run_clean_quantised(bench: Bench, seed: int, inputs: Inputs, kernels: Sequence[str]) -> list[Clean]:
    """The same by every recipe whose blocks divide its rows. An error of the recipe's audit is an alarm too."""
    with _reseeded(bench, seed, inputs) as other:
        widths = bench.own().row_widths().values()
        fitting = [recipe for recipe in MODES if not any(width % block_size(recipe) for width in widths)]
        return [_quantised(other, seed, recipe, kernels) for recipe in fitting]


def _quantised(bench: Bench, seed: int, recipe: str, kernels: Sequence[str]) -> Clean:
    began = time.monotonic()
    stages = QuantisedBench(bench, recipe, kernels)
    outcome = stages.judge()
    return Clean(
        model=_name(bench),
        recipe=recipe,
        seed=seed,
        comparisons=len(bench.prepared.inputs) * len(outcome.hops),
        taps=_compared(outcome),
        alarms=[*_alarms(outcome), *(finding.what for finding in stages.audit(stages.sound_file))],
        others=peers_complain(stages, stages.sound_file.file),
        seconds=round(time.monotonic() - began, 2),
    )


def _name(bench: Bench) -> str:
    prepared = bench.prepared
    return bench.ref.name + ("" if prepared.miniature else f", {prepared.layers} layers at full width")


def _compared(outcome: Outcome) -> int:
    return int((outcome.frame["verdict"] != "missing").sum())


def _alarms(outcome: Outcome) -> list[str]:
    """The first failing tap of each comparison; where no tap fails, why a hop does."""
    failing = outcome.frame[outcome.frame["verdict"] == "fail"]
    alarms = [f"{row['hop']} on {row['input']} at {row['tap']}: {row['why']}" for row in _first_of_each(failing)]
    return alarms + [f"{name}: {hop.reasons[0]}" for name, hop in outcome.hops.items() if hop.reasons and failing.empty]


def _first_of_each(failing: pd.DataFrame) -> list[Any]:
    """The first failing row of each comparison."""
    return [row for _, row in failing.sort_values("order").drop_duplicates(["input", "hop"]).iterrows()]


@contextmanager
def _reseeded(bench: Bench, seed: int, inputs: Inputs) -> Iterator[Bench]:
    other = bench.reseeded(seed, inputs)
    try:
        yield other
    finally:
        shutil.rmtree(other.folder, ignore_errors=True)
