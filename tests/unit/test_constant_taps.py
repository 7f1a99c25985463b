"""Zeros agree with zeros: a tap that is constant in the oracle compares nothing, and is not a pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.compare.traces import Comparison, compare_traces
from harness.judge.rules import load_rules
from harness.locate.faults import cases, summarise_hop
from harness.names.coverage import Absence
from harness.names.stages import Hop
from harness.names.taps import LOCAL_SUFFIX
from harness.pipeline.comparison import with_local_errors
from harness.record.record import HopResult
from harness.record.tap_row import taps_frame
from harness.store.trace import TraceWriter

HOP = "hf->reauthored"
STAGES = ("oracle", "hf", "reauthored")
DRAW = np.random.default_rng(3)


def alive(length: int, *shape: int) -> np.ndarray:
    return DRAW.standard_normal((1, length, *(shape or (8,))))


def compared(folder: Path, inputs: dict[str, dict[str, np.ndarray]], **candidate: np.ndarray) -> Comparison:
    """inputs: id -> tap -> values, the same in all stages but for `candidate`, which the re-authored model gives."""
    taps = list(next(iter(inputs.values())))
    for stage in STAGES:
        for item, of_taps in inputs.items():
            with TraceWriter(folder / stage / item, next(iter(of_taps.values())).shape[1]) as trace:
                for tap, values in of_taps.items():
                    own = candidate.get(tap, values) if stage == "reauthored" else values
                    trace.put(tap, own if stage == "oracle" else own.astype(np.float32))
    return compare_traces(
        folder,
        set(STAGES),
        list(inputs),
        taps,
        "m",
        load_rules(),
        lambda stage, tap: Absence("?"),
        (Hop("hf", "reauthored"),),
    )


def with_local_passes(
    folder: Path, found: Comparison, values: dict[str, np.ndarray], **local: np.ndarray
) -> Comparison:
    """The comparison on input `a`, judged again as a run does it once the local passes have ended.

    local: tap -> what the re-authored model's local pass gives, where that is not the oracle's.
    """
    for stage in ("hf", "reauthored"):
        with TraceWriter(folder / (stage + LOCAL_SUFFIX) / "a", next(iter(values.values())).shape[1]) as trace:
            for tap, array in values.items():
                own = local.get(tap, array) if stage == "reauthored" else array
                trace.put(tap, own.astype(np.float32))
    prepared: Any = SimpleNamespace(inputs=[SimpleNamespace(id="a")], taps=list(values))
    return with_local_errors(found, prepared, folder, load_rules())


def summed_up(found: Comparison, taps: list[str]) -> HopResult:
    return summarise_hop(Hop.parse(HOP), taps_frame(found.rows), taps, None, 0.0)


def verdicts(found: Comparison) -> dict[tuple[str, str], str]:
    return {(row.input, row.tap): row.verdict for row in found.rows}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((1, 6, 8)), "it is 0 throughout in the oracle, on every input"),
        (-np.zeros((1, 6, 8)), "it is 0 throughout"),
        (np.full((1, 6, 8), 0.02), "it is the same number throughout, 0.02, in the oracle"),
        (0.02 * (1 + 1e-13 * alive(6)), "it is the same number throughout, 0.02, in the oracle"),
        (np.zeros((1, 6, 1)), "it is 0 throughout"),
    ],
    ids=["zeros", "negative zeros", "one number", "one number but for float64", "a single zero per position"],
)
def test_a_tap_that_is_constant_in_the_oracle_is_missing_and_fails_its_hop(
    tmp_path: Path, values: np.ndarray, says: str
) -> None:
    found = compared(tmp_path, {"a": {"embed": alive(6), "logits": values}})
    assert verdicts(found) == {("a", "embed"): "pass", ("a", "logits"): "missing"}
    hop = summarise_hop(Hop.parse(HOP), taps_frame(found.rows), ["embed", "logits"], None, 0.0)
    assert hop.verdict == "fail"
    assert f"first logits: {says}" in hop.reasons[0]


@pytest.mark.parametrize("number", [0.0, 0.02])
def test_a_local_pass_that_agrees_makes_no_pass_of_a_constant_tap(tmp_path: Path, number: float) -> None:
    values = {"embed": alive(6), "logits": np.full((1, 6, 8), number)}
    found = with_local_passes(tmp_path, compared(tmp_path, {"a": values}), values)
    assert all(row.local_excess < 1 for row in found.rows), "the local pass is what is tested"
    assert verdicts(found) == {("a", "embed"): "pass", ("a", "logits"): "missing"}
    hop = summed_up(found, list(values))
    assert (hop.verdict, hop.taps_compared, hop.taps_missing, hop.coverage) == ("fail", 1, 1, 0.5)
    assert "so nothing is compared" in hop.reasons[0]
    (case,) = cases([hop], taps_frame(found.rows), ["a"])
    assert case.verdict == "fail"


def test_a_constant_tap_that_a_local_pass_gives_otherwise_fails_by_its_local_limit(tmp_path: Path) -> None:
    values = {"embed": alive(6), "logits": np.full((1, 6, 8), 0.02)}
    found = with_local_passes(tmp_path, compared(tmp_path, {"a": values}), values, logits=alive(6))
    (row,) = (row for row in found.rows if row.tap == "logits")
    assert (row.verdict, row.rule) == ("fail", "float32-logits")
    assert row.why.startswith("local_excess")
    assert summed_up(found, list(values)).first_failing_tap == "logits"


def test_what_was_compared_in_part_is_no_pass_by_a_local_pass(tmp_path: Path) -> None:
    values = {"embed": alive(6), "logits": alive(6)}
    found = compared(tmp_path, {"a": values})
    partly = [replace(row, verdict="missing", why="partly") if row.tap == "logits" else row for row in found.rows]
    found = with_local_passes(tmp_path, replace(found, rows=partly), values)
    assert verdicts(found) == {("a", "embed"): "pass", ("a", "logits"): "missing"}
    assert summed_up(found, list(values)).taps_compared == 1


def test_a_model_of_zeros_compares_nothing(tmp_path: Path) -> None:
    taps = ["embed", "block.0.attn.q", "block.0.mlp.act", "block.0.out", "final_norm"]
    found = compared(tmp_path, {item: {tap: np.zeros((1, n, 8)) for tap in taps} for item, n in (("a", 1), ("b", 9))})
    assert set(verdicts(found).values()) == {"missing"}


def test_a_tap_that_varies_on_one_input_counts_on_all(tmp_path: Path) -> None:
    inputs = {"one": {"block.0.mlp.act": np.zeros((1, 1, 8))}, "long": {"block.0.mlp.act": alive(9)}}
    assert set(verdicts(compared(tmp_path, inputs)).values()) == {"pass"}


def test_a_candidate_that_gives_something_where_the_oracle_gives_zeros_fails(tmp_path: Path) -> None:
    found = compared(tmp_path, {"a": {"block.0.out": np.zeros((1, 6, 8))}}, **{"block.0.out": alive(6)})
    assert verdicts(found) == {("a", "block.0.out"): "fail"}


@pytest.mark.parametrize(
    ("tap", "values"),
    [
        ("block.0.attn.probs", np.ones((1, 1, 4, 1))),  # one token looks at itself alone
        ("block.0.attn.q", np.full((1, 1, 1, 1), 0.3)),  # a single number that is not zero
        ("block.0.mlp.act", np.maximum(alive(2, 16), 0) * (np.arange(2) > 0)[None, :, None]),  # relu, off at a position
        ("block.0.attn.q", 1.0 + 1e-6 * alive(6)),  # differences that float32 holds
        ("logits", np.arange(48.0).reshape(1, 6, 8)),
    ],
    ids=["probabilities of one token", "one number", "relu", "small differences", "usual"],
)
def test_what_is_rightly_flat_is_compared(tmp_path: Path, tap: str, values: np.ndarray) -> None:
    assert verdicts(compared(tmp_path, {"a": {tap: values}})) == {("a", tap): "pass"}
