"""The catalogue of faults is whole, its faults are what they say, and the page of results is of this catalogue."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from marks import further_but
from paths import ROOT

from harness.bench.catalogue import CLEAN, QUANTISED_CLEAN, all_faults, selected
from harness.bench.clean import run_clean, run_clean_quantised
from harness.bench.job import BenchRequest, bench_model
from harness.bench.mistake import KINDS, QUANTISED_KINDS, Mistake
from harness.bench.page import detection_page
from harness.bench.quantised import MODES
from harness.bench.result import QUANTISED_OTHERS, Clean, Report, Result
from harness.bench.run import run_fault
from harness.bench.summary import false_alarms, summary
from harness.bench.workbench import FEW, FIRST, XNNPACK, Bench
from harness.explain.hypotheses import all_hypotheses
from harness.jobs.reporter import Silent
from harness.names.codes import FindingCode
from harness.spec.find import registered

pytestmark = pytest.mark.slow

PAGE = ROOT / "docs" / "detection.md"
FAULTS = {fault.id: fault for fault in all_faults()}
FAST = ("weights/number-1e-5",)
# One of each kind, and of each way to make one.
SOME = (
    *FAST,
    "re-authored-config/norm-eps",
    "flatbuffer-constants/bit-of-down",
    "re-authored-code/kv-heads-tiled",
    "re-authored-code/rope-interleaved",
    "re-authored-code/cache-off-by-one",
    "weight-mapping/blocks-off-by-one",
    "weights/key-heads",
    "weights/matrix-1e-5",
    "flatbuffer-constants/gate-up",
    "flatbuffer-ops/rope-subtracted",
    "flatbuffer-ops/norm-of-block-0",
    "runtime/scale-of-delegate",
    "runtime/softmax-sharper",
    "runtime/one-weight-builtin",
)


@pytest.fixture(scope="module")
def llama() -> Bench:
    return Bench("tiny_llama", inputs=FEW, device_local=True)


def test_the_catalogue_has_eighty_faults_of_every_kind_over_eight_models() -> None:
    assert len(FAULTS) == len(all_faults()) >= 80
    assert {fault.kind for fault in all_faults()} == set(KINDS)
    assert len({fault.model for fault in all_faults()}) >= 8
    assert {fault.model for fault in all_faults()} | set(CLEAN) | set(QUANTISED_CLEAN) <= set(registered())


def test_the_catalogue_has_the_faults_of_quantised_files_by_every_recipe() -> None:
    quantised = [fault for fault in all_faults() if fault.kind in QUANTISED_KINDS]
    assert len(quantised) >= 25
    assert {fault.site.recipe for fault in quantised} == set(MODES)  # type: ignore[union-attr]
    assert len({fault.model for fault in quantised}) >= 5
    points = {tap.split(".", 2)[-1] for fault in quantised for tap in fault.taps}
    assert points >= {"embed", "logits", "attn.q", "attn.out", "mlp.gate", "mlp.up", "mlp.out"}


def test_every_cause_is_a_hypothesis_or_of_a_quantised_file_a_finding() -> None:
    known = {hypothesis.name for hypothesis in all_hypotheses()}
    codes = {str(code) for code in FindingCode}
    for fault in all_faults():
        assert set(fault.causes) <= (codes if fault.kind in QUANTISED_KINDS else known), fault.id


def test_faults_are_chosen_by_id_by_name_and_by_model() -> None:
    assert [fault.id for fault in selected(pattern="weights/number-1e-5")] == ["weights/number-1e-5"]
    assert {fault.kind for fault in selected(pattern="runtime/*")} == {"runtime"}
    assert {fault.model for fault in selected(["gemma2"])} == {"gemma2"}
    assert selected(["gemma2"], "weights/number-1e-5") == []


@pytest.mark.parametrize("name", further_but(FAST, SOME))
def test_a_fault_of_the_catalogue_is_seen_where_it_is_and_for_what_it_is(llama: Bench, name: str) -> None:
    fault = FAULTS[name]
    result = run_fault(llama, fault)
    assert not result.error
    assert result.detected
    if result.seen:
        assert result.tap_right, (result.hop, result.tap)
        assert result.cause_rank == 1, result.diagnosis
    else:
        assert result.below_noise
        assert result.audits == ["weights by value"]
    assert set(result.others) == {"verifier", "allclose", "top1"}


def test_a_catalogue_entry_that_breaks_nothing_counts_as_missed(llama: Bench) -> None:
    """Neither the bench's own mistake nor a fault that is none may pass for a detection."""
    import dataclasses

    from harness.bench.breaking import unchanged
    from harness.bench.mistake import Constant, Network

    fault = FAULTS["weights/number-1e-5"]
    nothing = run_fault(llama, dataclasses.replace(fault, site=Network(unchanged)))
    assert not nothing.detected
    assert nothing.below_noise
    assert nothing.effect == 0
    same = run_fault(llama, dataclasses.replace(fault, site=Constant("lm_head.weight", lambda values: values)))
    assert "nothing was broken" in same.error
    assert not same.detected


@pytest.mark.slow
def test_a_clean_model_gives_no_alarm(llama: Bench) -> None:
    clean = run_clean(llama, 3, (("one", 1, 1), ("padded", 22, 2)))
    assert clean.alarms == []
    assert clean.comparisons == 6
    assert clean.taps > 200
    assert not clean.others["top1"]


def test_a_clean_model_by_every_recipe_gives_no_alarm(llama: Bench) -> None:
    found = run_clean_quantised(llama, 3, (("padded", 22, 2),), ("tflite-xnnpack",))
    assert [clean.recipe for clean in found] == list(MODES)
    assert [alarm for clean in found for alarm in clean.alarms] == []
    assert all(clean.comparisons == 2 for clean in found)
    assert all(clean.taps > 70 for clean in found)
    assert all(set(clean.others) == set(QUANTISED_OTHERS) for clean in found)
    assert not any(found[0].others.values()), "float16 costs too little for any check"


def result_of(fault: Mistake, **found: object) -> Result:
    expected = {
        "expected_hop": fault.hop,
        "expected_taps": list(fault.taps),
        "expected_causes": list(fault.causes),
        "expected_owners": ["weights"],
    }
    given = {"id": fault.id, "kind": fault.kind, "model": fault.model, "what": fault.what, **expected, **found}
    return Result.model_validate(given)


def test_the_summary_counts_what_is_below_noise_apart_and_a_wrong_hop_as_a_wrong_tap() -> None:
    fault = FAULTS["weights/number-1e-5"]
    tap, cause = fault.taps[0], fault.causes[0]
    results = [
        result_of(fault, hop=FIRST, tap=tap, diagnosis=[cause]),
        result_of(fault, hop=XNNPACK, tap=tap, diagnosis=["mask", cause]),
        result_of(fault, hop=FIRST, tap="embed"),
        result_of(fault, audits=["config"], effect=0.5),
        result_of(fault, effect=0.5),
        result_of(fault, effect=1.5),
    ]
    found = summary(results)
    assert str(found.detected) == "3 of 4"
    assert str(found.below_noise) == "1 of 2"
    assert (str(found.hop), str(found.tap)) == ("2 of 3", "1 of 3")
    assert (str(found.cause_first), str(found.cause_named)) == ("1 of 3", "2 of 3")


def test_a_fault_of_a_file_that_a_runtime_is_charged_with_as_well_is_in_the_wrong_hop() -> None:
    fault = next(fault for fault in all_faults() if fault.kind == "quantised file")
    found = {"hop": fault.hop, "tap": fault.taps[0], "owner": "weights", "diagnosis": list(fault.causes)}
    assert result_of(fault, **found).tap_right
    wrong = result_of(fault, **found, accused=["kernels of tflite-xnnpack[fp16]"])
    assert not wrong.hop_right
    assert not wrong.tap_right
    assert "kernels of tflite-xnnpack[fp16] charged with it as well" in detection_page(Report(results=[wrong]))


def test_a_check_counts_for_the_faults_that_it_was_asked_about() -> None:
    fault = FAULTS["weights/number-1e-5"]
    results = [result_of(fault, others={"top1": True}), result_of(fault, others={"top1": False, "snr": True})]
    others = summary(results).others
    assert {name: str(share) for name, share in others.items() if share.of} == {"top1": "1 of 2", "snr": "1 of 1"}


def test_a_false_alarm_is_counted_and_fails() -> None:
    report = Report(clean=[Clean(model="m", seed=1, comparisons=12, taps=99, alarms=["hop on input at tap"])])
    assert str(false_alarms(report)[0]) == "1 of 12"
    assert report.alarms


def test_the_page_says_what_is_missed() -> None:
    fault = FAULTS["weights/number-1e-5"]
    page = detection_page(Report(results=[result_of(fault, effect=1.5)]))
    assert f"`{fault.id}` (tiny_llama) is not detected; its effect in float64: 1.5 of the noise floor" in page


def test_the_page_in_the_documents_is_of_this_catalogue() -> None:
    """Run `make detection` when this fails."""
    text = PAGE.read_text(encoding="utf-8")
    listed = set()
    for kind, table in re.findall(r"^## Faults: (.*?)$\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL):
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("|")]
        listed |= {(kind, *row[:3]) for row in rows[2:]}
    assert listed == {(fault.kind, fault.name, fault.model, fault.what) for fault in all_faults()}


@pytest.mark.slow
def test_the_work_of_a_process_is_a_report() -> None:
    request = BenchRequest(model="tiny_llama", faults=["weights/bfloat16"], seeds=[1])
    report = Report.model_validate(bench_model(request.model_dump(), Silent()))
    assert [result.id for result in report.results] == ["weights/bfloat16"]
    assert report.missed == report.alarms == []


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "harness.commands.main", "bench", *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.slow
def test_the_command_prints_a_report_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "detection.md"
    done = command("--model", "tiny_llama", "--faults", "weights/*-1e-5", "--seeds", "0", "--json", "--out", str(page))
    assert done.returncode == 0, done.stderr
    report = Report.model_validate(json.loads(done.stdout))
    assert {result.id for result in report.results} == {"weights/number-1e-5", "weights/matrix-1e-5"}
    assert page.read_text(encoding="utf-8") == detection_page(report)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "nothing"), "nothing"),
        (("--faults", "nothing"), "--faults nothing fits no fault"),
        (("--seeds", "-1"), "--seeds -1 is negative"),
        (("--model", "llama3_2_3b", "--seeds", "0"), "no fault is made in llama3_2_3b"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
