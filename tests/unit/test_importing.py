"""Traces from outside as a stage of a run: judged as any other, refused in one line where they are of another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from record_factory import make_run

from harness.errors import UsageError
from harness.pairs.importing import import_traces
from harness.pairs.trace_folder import TraceFolder
from harness.record.record import read_run, write_record
from harness.render.numbers import tap_figure
from harness.render.sentences import fault_words
from harness.render.worst import worst_per_tap
from harness.store.trace import TraceWriter, export_npy

TOKENS = list(range(6))  # of the input "prompt"
TAPS = list(make_run()[0].taps)
Taps = dict[str, np.ndarray[Any, Any]]


def values(noise: int) -> Taps:
    """A float32 run of the made-up model: each has the float64 values, and its own rounding."""
    found = {}
    for number, tap in enumerate(TAPS):
        exact = np.random.default_rng(number).standard_normal((6, 8))
        own = np.random.default_rng([number, noise]).standard_normal((6, 8)) * 1e-7 if noise else 0
        found[tap] = (exact * (1 + own)).astype(np.float32 if noise else np.float64)
    return found


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that kept its traces."""
    folder = tmp_path / "reports" / "smollm2" / "20261114-093012-a1b2"
    for noise, stage in enumerate(("oracle", "hf", "hf.order1", "hf.order2", "reauthored")):
        with TraceWriter(folder / "traces" / stage / "prompt", 6) as trace:
            for tap, array in values(noise).items():
                trace.put(tap, array[None])
    export_npy(folder / "traces")
    write_record(folder, *make_run())
    return folder


def given(folder: Path, arrays: Taps | None = None, tokens: list[int] = TOKENS, **more: Any) -> Path:
    folder.mkdir()
    np.savez(folder / "prompt.npz", **(values(9) if arrays is None else arrays))  # type: ignore[arg-type]
    inputs = [{"id": "prompt", "tokens": tokens, "file": "prompt.npz"}]
    (folder / "manifest.json").write_text(json.dumps({"format": "edge-parity-traces/1", "inputs": inputs, **more}))
    return folder


def some(*taps: str) -> Taps:
    return {tap: values(9)[tap] for tap in taps}


def test_what_agrees_is_a_passing_stage_of_a_new_run(run: Path, tmp_path: Path) -> None:
    written, record = import_traces([TraceFolder(given(tmp_path / "phone", stage="phone"))], run)
    hop = record.hops[-1]
    assert (hop.name, hop.verdict, hop.coverage, record.verdict) == ("reauthored->phone", "pass", 1.0, "pass")
    assert record.hops[:-1] == make_run()[0].hops
    assert written.parent == run.parent
    assert written.name > run.name
    assert read_run(written)[0].stages[-1].name == "phone"
    suites = ElementTree.parse(written / "junit.xml").getroot()
    assert [suite.get("tests") for suite in suites if "phone" in str(suite.get("name"))] == ["1"]
    assert (written / "report.html").is_file()
    assert [found.code for found in record.findings][-1:] == ["inputs-not-imported"]


def test_a_shifted_tap_is_the_first_fault_and_the_device_s(run: Path, tmp_path: Path) -> None:
    taps = values(9)
    for tap in ("block.1.mlp.out", "block.2.out"):
        taps[tap] = taps[tap] + np.float32(0.01)
    _, record = import_traces([TraceFolder(given(tmp_path / "phone", taps))], run)
    assert record.first_fault is not None
    assert (record.first_fault.tap, record.first_fault.owner) == ("block.1.mlp.out", "device")
    assert (record.verdict, record.exit_code) == ("fail", 1)


def test_taps_that_are_not_given_are_missing_for_a_listed_reason(run: Path, tmp_path: Path) -> None:
    _, record = import_traces([TraceFolder(given(tmp_path / "phone", some("block.1.cache.k", "logits")))], run)
    hop = record.hops[-1]
    assert (hop.verdict, hop.taps_compared) == ("pass", 2)
    assert {missing.reason for missing in hop.missing} == {"not-given"}
    taps = some("block.1.cache.k", "logits")
    taps["block.1.cache.k"] = taps["block.1.cache.k"] * 2
    _, record = import_traces([TraceFolder(given(tmp_path / "faulty", taps))], run)
    assert record.first_fault is not None
    assert "block.1.attn.k_rope, which it is computed from, was not compared" in record.first_fault.evidence[-1]


def test_a_tap_that_is_declared_and_lacking_fails(run: Path, tmp_path: Path) -> None:
    folder = given(tmp_path / "phone", some("logits"), taps=["block.1.cache.k", "logits"])
    _, record = import_traces([TraceFolder(folder)], run)
    assert record.hops[-1].verdict == "fail"
    assert "taps-missing" in record.hops[-1].reason_codes


def test_several_folders_are_stages_of_one_run_and_each_owns_its_own_fault(run: Path, tmp_path: Path) -> None:
    off = values(9)
    off["block.1.mlp.out"] = off["block.1.mlp.out"] + np.float32(0.01)
    folders = [TraceFolder(given(tmp_path / "a"), "phone"), TraceFolder(given(tmp_path / "b", off), "board")]
    folders.append(TraceFolder(given(tmp_path / "c", off, stage="watch")))
    written, record = import_traces(folders, run)
    assert [(hop.to, hop.verdict) for hop in record.hops[-3:]] == [
        ("phone", "pass"),
        ("board", "fail"),
        ("watch", "fail"),
    ]
    assert [fault.owner for fault in record.faults[-2:]] == ["board", "watch"]
    assert [stage.facts["imported_into"] for stage in record.stages[-3:]] == [run.name] * 3
    assert len(list(run.parent.iterdir())) == 2
    frame = read_run(written)[1]
    assert set(frame["hop"]) >= {"reauthored->phone", "reauthored->board", "reauthored->watch"}


def test_two_folders_of_one_name_are_refused_and_nothing_is_left(run: Path, tmp_path: Path) -> None:
    twice = [TraceFolder(given(tmp_path / name)) for name in "ab"]
    with pytest.raises(UsageError, match="NAME=FOLDER"):
        import_traces(twice, run)
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert TraceFolder.parse(f"phone={tmp_path / 'a'}") == TraceFolder(tmp_path / "a", "phone")
    (tmp_path / "x=y").mkdir()
    assert TraceFolder.parse(str(tmp_path / "x=y")) == TraceFolder(tmp_path / "x=y")
    with pytest.raises(UsageError, match="names no folder"):
        TraceFolder.parse("phone=")


def test_what_is_not_finite_is_a_fault(run: Path, tmp_path: Path) -> None:
    taps = values(9)
    taps["logits"][2, 3] = np.nan
    written, record = import_traces([TraceFolder(given(tmp_path / "phone", taps))], run)
    assert record.hops[-1].first_failing_tap == "logits"
    assert "1 value is NaN (nan_count 1 > 0); excess has no value" in record.hops[-1].reasons[0]
    row = worst_per_tap(read_run(written)[1], record.hops[-1].name)["logits"]
    assert fault_words(record, row).endswith("cannot be compared with reauthored: 1 value is NaN.")
    assert tap_figure(row, "excess") == "not finite"


def test_traces_that_were_rounded_to_float16_say_so(run: Path, tmp_path: Path) -> None:
    half = {tap: array.astype(np.float16).astype(np.float32) for tap, array in values(9).items()}
    _, record = import_traces([TraceFolder(given(tmp_path / "half", half))], run)
    assert record.findings[-1].code == "imported-in-narrow"
    assert "one that float16 holds" in record.findings[-1].what
    assert record.first_fault is not None
    assert "one that float16 holds" in record.first_fault.evidence[-1]
    one = {**half, "logits": values(9)["logits"]}  # another tap is rounded by itself
    _, record = import_traces([TraceFolder(given(tmp_path / "one", one))], run)
    assert record.findings[-1].code != "imported-in-narrow"


def test_the_new_run_goes_where_it_is_said(run: Path, tmp_path: Path) -> None:
    written, record = import_traces([TraceFolder(given(tmp_path / "phone"))], run, tmp_path / "elsewhere")
    assert written.parent == tmp_path / "elsewhere" / record.model
    assert read_run(written)[0].stages[-1].name == "device"
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_tap_that_one_input_lacks_is_counted_in_words(run: Path, tmp_path: Path) -> None:
    taps = some("logits")
    _, record = import_traces([TraceFolder(given(tmp_path / "phone", taps, taps=["embed", "logits"]))], run)
    assert record.hops[-1].reasons[-1].startswith(f"1 of {len(TAPS)} taps are compared, and 2 have to be")


@pytest.mark.parametrize(
    ("taps", "tokens", "more", "said"),
    [
        (some("embed"), TOKENS, {}, "gives no logits"),
        ({**some("logits"), "block.9.out": np.ones((6, 8), np.float32)}, TOKENS, {}, "no tap of that name"),
        ({"logits": np.ones((6, 9), np.float32)}, TOKENS, {}, r"is \[6, 9\], and reauthored has \[6, 8\]"),
        ({"logits": np.ones((6, 8), np.int32)}, TOKENS, {}, "give float32"),
        (some("logits"), [0, 1, 2, 3, 4, 9], {}, "other 'tokens'"),
        (some("logits"), TOKENS, {"stage": "hf"}, "there is already"),
        (some("logits"), TOKENS, {"stage": "../x"}, "give a name"),
        (some("logits"), TOKENS, {"reference": "keras"}, "the run has oracle, hf, reauthored"),
        (some("logits"), TOKENS, {"taps": ["nothing"]}, "no tap of that name"),
    ],
)
def test_what_is_of_another_run_is_refused(
    run: Path, tmp_path: Path, taps: Taps, tokens: list[int], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as refused:
        import_traces([TraceFolder(given(tmp_path / "phone", taps, tokens, **more))], run)
    assert "\n" not in str(refused.value)
    assert [path.name for path in run.parent.iterdir()] == [run.name]


def test_a_run_that_kept_no_traces_is_told_to_keep_them(run: Path, tmp_path: Path) -> None:
    (run / "traces").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="--keep-traces"):
        import_traces([TraceFolder(given(tmp_path / "phone"))], run)
