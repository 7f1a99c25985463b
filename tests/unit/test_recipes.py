"""`--quantize`: which stages and hops a recipe brings, and that kernels which disagree on one file are found."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from harness.commands.progress import PlainProgress
from harness.compare.traces import compare_traces
from harness.errors import UsageError
from harness.judge.rules import load_rules
from harness.locate.faults import cases, locate, summarise_hop
from harness.locate.owners import ownership
from harness.names.coverage import Absence
from harness.names.recipes import Recipe, check_widths
from harness.names.stages import Hop, hops_of, split
from harness.pipeline.conversions import check_quantised
from harness.pipeline.options import Options, check, stages_of
from harness.pipeline.run import run
from harness.record.tap_row import taps_frame
from harness.render.sentences import snr_words
from harness.store.trace import TraceWriter

INT4, INT8 = "dynamic_int4_block32", "dynamic_int8"
ALL = ("reauthored", "tflite-xnnpack", "tflite-builtin", "tflite-reference")
BUILTIN, REFERENCE = f"tflite-builtin[{INT8}]", f"tflite-reference[{INT8}]"


def asked(*recipes: str) -> tuple[Recipe, ...]:
    return tuple(map(Recipe, recipes))


def hops_named(stages: tuple[str, ...]) -> list[str]:
    """Of quantised files alone."""
    return [hop.name for hop in hops_of(stages) if split(hop.candidate)[1] != "none"]


def test_a_recipe_brings_its_kernels_and_what_each_of_them_is_compared_with() -> None:
    stages = stages_of(Options(model="tiny_llama", quantize=asked(INT8, "fp16")))
    quantised = [stage for stage in stages if split(stage)[1] != "none"]
    bases = ("fakequant", "fakequant-builtin", "tflite-xnnpack", "tflite-builtin")
    assert quantised == [f"{base}[{recipe}]" for recipe in (INT8, "fp16") for base in bases]
    assert hops_named(stages) == [
        name
        for recipe in (INT8, "fp16")
        for name in (
            f"reauthored->fakequant[{recipe}]",
            f"reauthored->fakequant-builtin[{recipe}]",
            f"fakequant[{recipe}]->tflite-xnnpack[{recipe}]",
            f"fakequant-builtin[{recipe}]->tflite-builtin[{recipe}]",
        )
    ]


def test_kernels_that_nobody_asked_for_bring_no_stage() -> None:
    wanted = ("reauthored", "tflite-xnnpack")
    stages = stages_of(Options(model="tiny_llama", quantize=asked(INT8), stages=wanted))
    assert hops_named(stages) == [
        f"reauthored->fakequant[{INT8}]",
        f"fakequant[{INT8}]->tflite-xnnpack[{INT8}]",
    ]
    more = stages_of(Options(model="tiny_llama", quantize=asked(INT8), stages=ALL))
    assert [hop.name for hop in hops_of(more) if hop.on_kernels] == [f"{BUILTIN}->{REFERENCE}"]
    assert "tflite-reference" not in more


def test_only_two_kernels_on_the_same_file_are_a_hop_between_kernels() -> None:
    assert Hop.between(BUILTIN, REFERENCE).on_kernels
    for other in ("tflite-xnnpack", "reauthored", "tflite-xnnpack[fp16]", f"fakequant[{INT8}]"):
        assert not Hop.between(other, REFERENCE).on_kernels
    assert not Hop.between("tflite-builtin", "tflite-xnnpack").on_kernels


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantize": asked(INT8), "stages": ("reauthored",)}, "--stages needs tflite-xnnpack or tflite-builtin"),
        ({"quantize": asked(INT8), "stages": ("reauthored", "tflite-reference")}, "tflite-reference both"),
        ({"stages": ("reauthored", "tflite-reference")}, "add --quantize RECIPE"),
        ({"quantize": asked(INT8), "tflite": Path("some.tflite")}, "--quantize says how to convert"),
    ],
)
def test_options_that_compare_nothing_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        check(Options(model="tiny_llama", **options))  # type: ignore[arg-type]


TAPS, LENGTH = ["embed", "block.0.attn.q", "logits"], 12


def test_kernels_are_judged_by_their_snr_and_carry_no_excess(tmp_path: Path) -> None:
    """The error of int8 is a million times that of float32: it passes. A kernel that computes zeros does not."""
    rng = np.random.default_rng(7)
    clean = {tap: rng.standard_normal((1, LENGTH, 64)).astype(np.float32) for tap in TAPS}
    rough = {tap: values + 0.1 * rng.standard_normal(values.shape).astype(np.float32) for tap, values in clean.items()}
    wrong = rough | {"block.0.attn.q": np.zeros_like(clean["block.0.attn.q"])}
    off = {tap: values * np.float32(1 + 1e-6) for tap, values in clean.items()}
    other = f"tflite-reference[{INT4}]"
    traces = {
        "oracle": clean,
        "hf": off,
        BUILTIN: clean,
        REFERENCE: rough,
        f"tflite-builtin[{INT4}]": clean,
        other: wrong,
    }
    kernels = (Hop.between(BUILTIN, REFERENCE), Hop.between(f"tflite-builtin[{INT4}]", other))
    for stage, taps in traces.items():
        with TraceWriter(tmp_path / stage / "a", LENGTH) as trace:
            for tap, values in taps.items():
                trace.put(tap, values.astype(np.float64) if stage == "oracle" else values)
    found = compare_traces(
        tmp_path, set(traces), ["a"], TAPS, "m", load_rules(), lambda stage, tap: Absence(""), kernels
    )
    assert {row.rule for row in found.rows} == {"kernels"}
    assert all(math.isnan(row.excess) and math.isnan(row.position_excess) for row in found.rows)
    assert all(math.isnan(row.total_excess) for row in found.rows)
    frame = taps_frame(found.rows)
    hops = [summarise_hop(hop, frame, TAPS, None, 1.0) for hop in kernels]
    assert [hop.verdict for hop in hops] == ["pass", "fail"]
    assert hops[1].first_failing_tap == "block.0.attn.q"
    assert [(hop.worst, hop.worst_position) for hop in hops] == [(None, None)] * 2
    lowest = [hop.lowest_snr for hop in hops]
    assert lowest[0] is not None
    assert lowest[1] is not None
    assert lowest[0].snr_db == pytest.approx(20, abs=1)
    assert (lowest[1].tap, lowest[1].snr_db) == ("block.0.attn.q", pytest.approx(0))
    assert snr_words(hops[1]) == "lowest SNR 0.0 dB (block.0.attn.q, input a)"
    assert next((case.verdict, case.excess) for case in cases(hops, frame, ["a"])) == ("pass", None)
    (fault,) = locate(hops, frame, {}, {"block.0.attn.q": "FULLY_CONNECTED"})
    assert (fault.hop, fault.tap, fault.op) == (kernels[1].name, "block.0.attn.q", "FULLY_CONNECTED")
    assert ownership(fault, [fault], [], {"tflite-builtin": ()}).owner == f"kernels of {other}"


@pytest.mark.slow
def test_a_file_that_a_recipe_left_as_it_was_is_refused(shipped: Path) -> None:
    with pytest.raises(UsageError, match="left every weight in float32"):
        check_quantised(shipped, INT8)


@pytest.mark.sweep  # the gate has int4, which is wrong
def test_reference_kernels_are_found_wrong_for_int4_blocks_and_right_for_int8(tmp_path: Path) -> None:
    wanted = Options(model="tiny_llama", miniature=True, quantize=asked(INT8, INT4), stages=ALL, out=tmp_path)
    with PlainProgress() as progress:
        _, record = run(wanted, progress)
    assert {stage.status for stage in record.stages} == {"ok"}
    failing = f"tflite-builtin[{INT4}]->tflite-reference[{INT4}]"
    assert [hop.name for hop in record.hops if hop.verdict == "fail"] == [failing]
    assert record.first_fault is not None
    assert (record.first_fault.tap, record.first_fault.op) == ("block.0.attn.q", "FULLY_CONNECTED")
    assert all(hop.coverage >= 0.94 for hop in record.hops)
    assert [(known.id, known.state) for known in record.known_defects] == [("reference-kernels-int4", "seen")]


def test_blocks_that_do_not_divide_a_width_are_refused_with_those_that_fit() -> None:
    widths = {"the hidden size": 192, "the MLP's size in block 0": 512}
    check_widths((INT8, INT4, "fp16"), widths, "m")
    with pytest.raises(UsageError, match=r"blocks of 128 numbers, and the hidden size of m is 192.*block32\)"):
        check_widths(("dynamic_int4_block128",), widths, "m")
    with pytest.raises(UsageError, match=r"in block 0 of m is 500.*fit: dynamic_int8, weight_only_int8, fp16\)"):
        check_widths((INT8, INT4), {**widths, "the MLP's size in block 0": 500}, "m")
    check_widths(("dynamic_int4_block128",), {"the hidden size": 256}, "m")


@pytest.mark.slow
def test_a_recipe_that_no_width_of_the_model_allows_is_refused_from_its_config() -> None:
    """SmolLM2's hidden size is 576, four and a half times 128; that of TinyLlama's miniature is 128."""
    from harness.spec.find import find_spec
    from harness.spec.load import load_spec
    from harness.stages.litert_torch.config import reauthored_config
    from harness.stages.litert_torch.sizes import row_widths

    model = load_spec(find_spec("smollm2"))
    with pytest.raises(UsageError, match="the hidden size of smollm2 is 576"):
        check_widths(("dynamic_int4_block128",), row_widths(reauthored_config(model, miniature=False)), "smollm2")
    small = reauthored_config(load_spec(find_spec("tiny_llama")), miniature=True)
    check_widths(("dynamic_int4_block128",), row_widths(small), "tiny_llama")
