"""`--quantize`: which stages a recipe brings, and that kernels which disagree on one quantised file are found."""

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
from harness.names.recipes import check_widths, parse_recipes, unjudged
from harness.names.stages import Hop, hops_of, split
from harness.pipeline.conversions import check_quantised
from harness.pipeline.options import Options, check, stages_of
from harness.pipeline.run import run
from harness.record.tap_row import taps_frame
from harness.render.sentences import snr_words
from harness.store.trace import TraceWriter

INT4, INT8 = "dynamic_int4_block32", "dynamic_int8"
ALL = ("reauthored", "tflite-xnnpack", "tflite-builtin", "tflite-reference")
AGREEING, DIFFERING = (
    (f"tflite-builtin[{INT8}]", f"tflite-xnnpack[{INT8}]"),
    (
        f"tflite-builtin[{INT8}]",
        f"tflite-reference[{INT8}]",
    ),
)
KERNEL_HOPS = (Hop.between(*AGREEING), Hop.between(*DIFFERING))


def test_a_recipe_brings_a_stage_for_each_kernels_and_hops_from_the_builtin_ones() -> None:
    stages = stages_of(Options(model="tiny_llama", quantize=(INT8, "fp16")))
    quantised = [stage for stage in stages if split(stage)[1] != "none"]
    assert quantised == [
        f"{base}[{recipe}]" for recipe in (INT8, "fp16") for base in ("tflite-xnnpack", "tflite-builtin")
    ]
    assert kernels_of(stages) == [f"tflite-builtin[{r}]->tflite-xnnpack[{r}]" for r in (INT8, "fp16")]
    more = stages_of(Options(model="tiny_llama", quantize=(INT8,), stages=ALL))
    assert kernels_of(more) == ["->".join(AGREEING), "->".join(DIFFERING)]
    assert "tflite-reference" not in more
    assert kernels_of(("hf", "tflite-builtin", "tflite-xnnpack")) == []


def kernels_of(stages: tuple[str, ...]) -> list[str]:
    return [hop.name for hop in hops_of(stages) if hop.on_kernels]


def test_only_two_kernels_on_the_same_file_are_a_hop_between_kernels() -> None:
    assert Hop.between(*AGREEING).on_kernels
    for other in ("tflite-xnnpack", "reauthored", "tflite-xnnpack[fp16]"):
        assert not Hop.between(other, AGREEING[1]).on_kernels
    assert not Hop.between("tflite-builtin", "tflite-xnnpack").on_kernels


def test_what_is_not_judged_is_said_of_quantised_runs_alone() -> None:
    assert unjudged(("hf", "tflite-xnnpack")) == ""
    assert unjudged(("hf", *AGREEING)).startswith(f"of {INT8} only that the kernels agree")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dynamic_int5", "did you mean 'dynamic_int8'"),
        ("", "--quantize is empty; give some of dynamic_int8"),
        ("fp16,", "no recipe ''"),
        ("x y", "dynamic"),
    ],
)
def test_a_recipe_that_is_none_is_refused_with_those_there_are(text: str, says: str) -> None:
    with pytest.raises(UsageError, match="--quantize") as caught:
        parse_recipes(text)
    assert says in str(caught.value)
    assert parse_recipes(" fp16, dynamic_int8,fp16") == ("fp16", INT8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"quantize": (INT8,), "stages": ("reauthored",)}, "--stages needs tflite-builtin, and tflite-xnnpack or"),
        ({"quantize": (INT8,), "stages": ("reauthored", "tflite-builtin")}, "--stages needs tflite-builtin, and"),
        ({"stages": ("reauthored", "tflite-reference")}, "add --quantize RECIPE"),
        ({"quantize": (INT8,), "tflite": Path("some.tflite")}, "--quantize says how to convert"),
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
    traces = {"oracle": clean, "hf": off, AGREEING[0]: clean, AGREEING[1]: rough, DIFFERING[1]: wrong}
    for stage, taps in traces.items():
        with TraceWriter(tmp_path / stage / "a", LENGTH) as trace:
            for tap, values in taps.items():
                trace.put(tap, values.astype(np.float64) if stage == "oracle" else values)
    found = compare_traces(
        tmp_path, set(traces), ["a"], TAPS, "m", load_rules(), lambda stage, tap: Absence(""), KERNEL_HOPS
    )
    assert {row.rule for row in found.rows} == {"kernels"}
    assert all(math.isnan(row.excess) and math.isnan(row.position_excess) for row in found.rows)
    assert all(math.isnan(row.total_excess) for row in found.rows)
    frame = taps_frame(found.rows)
    hops = [summarise_hop(hop, frame, TAPS, None, 1.0) for hop in KERNEL_HOPS]
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
    assert (fault.hop, fault.tap, fault.op) == ("->".join(DIFFERING), "block.0.attn.q", "FULLY_CONNECTED")
    assert ownership(fault, [fault], [], {"tflite-builtin": ()}).owner == f"kernels of {DIFFERING[1]}"


@pytest.mark.slow
def test_a_file_that_a_recipe_left_as_it_was_is_refused(shipped: Path) -> None:
    with pytest.raises(ValueError, match="nothing is quantised"):
        check_quantised(shipped, INT8)


@pytest.mark.sweep  # the gate has int4, which is wrong
def test_reference_kernels_are_found_wrong_for_int4_blocks_and_right_for_int8(tmp_path: Path) -> None:
    wanted = Options(model="tiny_llama", miniature=True, quantize=(INT8, INT4), stages=ALL, out=tmp_path)
    with PlainProgress() as progress:
        _, record = run(wanted, progress)
    assert {stage.status for stage in record.stages} == {"ok"}
    failing = f"tflite-builtin[{INT4}]->tflite-reference[{INT4}]"
    assert [hop.name for hop in record.hops if hop.verdict == "fail"] == [failing]
    assert record.first_fault is not None
    assert (record.first_fault.tap, record.first_fault.op) == ("block.0.attn.q", "FULLY_CONNECTED")
    assert all(hop.coverage >= 0.94 for hop in record.hops)
    assert any("only that the kernels agree" in finding.what for finding in record.findings)
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
