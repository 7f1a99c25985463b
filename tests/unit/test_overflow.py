"""What float16 could not hold is said once, where it is, and only where it is true."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from harness.audit.values import differing_parameters
from harness.compare.overflow import overflow_findings
from harness.compare.traces import compare_traces
from harness.judge.rules import load_rules
from harness.names.coverage import Absence
from harness.record.record import Finding
from harness.record.tap_row import TAP_COLUMNS, TapRow, taps_frame
from harness.store.trace import TraceWriter
from harness.weights.parameters import ParameterSource

BLOCKS = 12


def findings(reach: dict[str, float], rms_norms: bool = True, least: float = -1.0) -> list[Finding]:
    """Of a model of which these taps reach that far on input `long`, and half as far on input `short`."""
    rows = [
        TapRow(model="m", input=item, hop=hop, tap=tap, block=0, order=0, value_min=least, value_max=value * share)
        for tap, value in reach.items()
        for item, share in (("short", 0.5), ("long", 1.0))
        for hop in ("hf->reauthored", "reauthored->tflite-builtin")
    ]
    return overflow_findings(rows, rms_norms)


def test_a_tap_beyond_float16_is_named_with_its_value_and_input_once_for_all_blocks_and_hops():
    (found,) = findings({f"block.{block}.mlp.out": 1e5 + 1e3 * block for block in range(BLOCKS)})
    assert (found.kind, found.severity) == ("numeric", "warning")
    assert "block.11.mlp.out reaches 1.11e5 (input long): float16 arithmetic overflows here" in found.what
    assert found.what.endswith("; also mlp.out (blocks 0 to 10)")
    assert found.blocks == list(range(BLOCKS))


def test_many_kinds_of_taps_stay_one_line():
    points = ("mlp.act", "mlp.out", "mlp.up", "mlp.gate", "attn.out", "attn.q")
    (found,) = findings({f"block.{block}.{point}": 7e4 for block in (0, 3, 4) for point in points} | {"logits": 9e4})
    assert found.what.startswith("logits reaches 9e4")
    assert "; also mlp.act (blocks 0, 3, 4), mlp.out (blocks 0, 3, 4), " in found.what
    assert found.what.endswith("and 2 more kinds of taps")


@pytest.mark.parametrize(("value", "warned"), [(65_504.0, 0), (65_519.9, 0), (65_520.0, 1), (7e4, 1)])
def test_what_rounds_to_the_largest_float16_does_not_overflow(value, warned):
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(value)) == bool(warned)
    assert len(findings({"block.0.mlp.up": value})) == warned
    assert len(findings({"block.0.mlp.up": 1.0}, least=-value)) == warned


def test_the_square_of_what_an_rms_norm_reads_is_named_where_the_value_itself_fits():
    (found,) = findings(
        {"block.3.out": 916.5, "block.4.residual": 300.0, "block.4.mlp.act": 900.0, "block.5.out": 255.0}
    )
    assert "block.3.out, the input of an RMS norm, reaches 916 " in found.what
    assert "its square, 8.4e5, overflows float16 unless the norm is computed in float32" in found.what
    assert found.blocks == [3, 4]
    assert findings({"block.3.out": 916.5}, rms_norms=False) == []
    assert len(findings({"block.3.out": 1e5})) == 2


def small(tap: str, share: float) -> TapRow:
    return TapRow(model="m", input="long", hop="h", tap=tap, block=0, order=0, subnormal_share=share)


def test_taps_most_of_whose_values_are_subnormal_in_float16_are_named():
    rows = [small("block.1.mlp.act", 0.5), small("block.0.mlp.act", 0.8), small("block.2.mlp.act", 0.49)]
    (found,) = overflow_findings(rows, True)
    assert (found.code, found.severity, found.blocks) == ("value-subnormal-float16", "warning", [0, 1])
    assert "80 % of the values of block.0.mlp.act (input long) are below 6.1e-5 and not 0" in found.what
    assert found.what.endswith("; also mlp.act (block 1)")


def test_probabilities_near_0_and_shares_that_are_not_known_are_no_finding():
    assert overflow_findings([small("block.0.attn.probs", 0.9), small("embed", math.nan)], True) == []


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_fails_elsewhere_and_hides_nothing_here(value):
    assert findings({"block.0.mlp.out": value}) == []
    (found,) = findings({"block.0.mlp.out": value, "block.1.mlp.out": 7e4})
    assert "block.1.mlp.out" in found.what
    assert (
        overflow_findings([TapRow(model="m", input="a", hop="b", tap="embed", block=-1, order=0)], True) == []
    )  # rows of an older version


def test_every_tap_has_the_range_of_the_oracle_also_where_it_is_missing(tmp_path: Path):
    taps = ["embed", "block.0.mlp.out", "logits"]
    rng = np.random.default_rng(0)
    made = {tap: rng.standard_normal((1, 6, 40)) for tap in taps}
    made["block.0.mlp.out"][0, 4, 7], made["block.0.mlp.out"][0, 1, :4] = -1.15e5, 3e-6
    for number, stage in enumerate(("oracle", "hf", "reauthored")):
        with TraceWriter(tmp_path / stage / "a", 6) as trace:
            for tap, values in made.items():
                error = 1 + 1e-7 * np.random.default_rng(number).standard_normal(values.shape)
                if not (stage == "reauthored" and tap == "embed"):
                    trace.put(tap, values if stage == "oracle" else (values * error).astype(np.float32))
    found = compare_traces(
        tmp_path, {"oracle", "hf", "reauthored"}, ["a"], taps, "m", load_rules(), lambda *_: Absence("gone")
    )
    rows = {row.tap: row for row in found.rows}
    assert [rows[tap].verdict for tap in taps] == ["missing", "pass", "pass"]
    for tap in taps:
        assert (rows[tap].value_min, rows[tap].value_max) == (made[tap].min(), made[tap].max())
    far = rows["block.0.mlp.out"]
    assert far.overflow_share == 1 / 240
    assert far.subnormal_share == (np.abs(made["block.0.mlp.out"]) < 2**-14).mean() >= 4 / 240
    assert {"value_min", "value_max", "overflow_share", "subnormal_share"} < set(TAP_COLUMNS)
    assert taps_frame(found.rows)["value_max"].notna().all()


def test_a_weight_that_a_float16_file_cannot_hold_is_named_by_key_and_index(tmp_path: Path):
    keys = {"a.weight": (3, 5), "model.layers.3.mlp.down_proj.weight": (6, 9), "norm.weight": (4,)}
    weights = {key: np.ones(shape, np.float32) for key, shape in keys.items()}
    sources = [ParameterSource(parameter=f"own.{key}", keys=[key]) for key in keys]

    def found() -> list[Finding]:
        save_file(weights, tmp_path / "model.safetensors")
        return differing_parameters({f"own.{key}": value for key, value in weights.items()}, sources, tmp_path)

    assert found() == []
    weights["a.weight"][1, 1] = 65_519.0  # rounds to the largest float16
    assert found() == []
    weights["model.layers.3.mlp.down_proj.weight"][5, 7] = -7.1e4
    (only,) = found()
    assert (only.kind, only.severity) == ("weights", "warning")
    assert only.what == ("model.layers.3.mlp.down_proj.weight[5,7] is -7.1e4: a float16 file would hold infinity there")
    weights["norm.weight"][:2] = 6.6e4
    weights["norm.weight"][3] = np.nan  # somebody else's finding, and it hides nothing
    weights["a.weight"][0, 0] = np.inf
    assert found()[-1].what.endswith(
        "down_proj.weight[5,7] is -7.1e4: a float16 file would hold infinity there; "
        "3 numbers of 2 tensors are that large"
    )
