"""What junit.xml promises: valid XML, one case per input and hop, and never green for a red run."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from record_factory import CRASHED, FAULTY_TAP, HOSTILE, KINDS, make_run

from harness.plain import one_line
from harness.record.record import Finding, Record
from harness.render.junit import write_junit


def written(tmp_path: Path, record: Record) -> ElementTree.Element:
    return ElementTree.parse(write_junit(tmp_path, record)).getroot()


@pytest.mark.parametrize("kind", KINDS)
def test_each_input_and_hop_is_one_case_and_the_totals_add_up(tmp_path: Path, kind: str) -> None:
    record, _ = make_run(kind)
    root = written(tmp_path, record)
    names = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    for case in record.cases:
        assert names.count((f"{one_line(record.model)}.{case.hop}", one_line(case.input))) == 1
    assert root.get("tests") == str(len(names))
    assert root.get("failures") == str(len(list(root.iter("failure"))))
    assert root.get("errors") == str(len(list(root.iter("error"))))
    assert (record.verdict == "pass") == (root.get("failures") == root.get("errors") == "0")


def test_a_failure_names_the_first_failing_tap(tmp_path: Path) -> None:
    failures = list(written(tmp_path, make_run("fail")[0]).iter("failure"))
    assert len(failures) == 6
    for failure in failures:
        assert FAULTY_TAP in (failure.get("message") or "")
        assert "worst excess: " in (failure.text or "")


def test_cases_of_a_crashed_stage_are_errors_and_not_passes(tmp_path: Path) -> None:
    root = written(tmp_path, make_run("crash")[0])
    cases = [case for case in root.iter("testcase") if (case.get("classname") or "").endswith(f"->{CRASHED}")]
    assert len(cases) == 6
    assert all(case.find("error") is not None for case in cases)


def test_control_characters_and_markup_in_names_leave_valid_xml(tmp_path: Path) -> None:
    root = written(tmp_path, make_run("hostile")[0])
    assert one_line(HOSTILE) in {case.get("name") for case in root.iter("testcase")}


def test_a_hop_that_fails_by_coverage_alone_is_a_failure(tmp_path: Path) -> None:
    record, _ = make_run("pass")
    hop = record.hops[1].model_copy(update={"verdict": "fail", "reasons": ["coverage 94.4 % is below 97 %"]})
    red = record.model_copy(update={"verdict": "fail", "hops": [record.hops[0], hop]})
    (failure,) = written(tmp_path, red).iter("failure")
    assert failure.get("message") == "coverage 94.4 % is below 97 %"


def test_an_error_finding_is_a_failure(tmp_path: Path) -> None:
    record, _ = make_run("pass")
    finding = Finding(kind="config", severity="error", what="rms_norm_eps is 1e-6, published 1e-5")
    red = record.model_copy(update={"verdict": "fail", "findings": [finding]})
    (failure,) = written(tmp_path, red).iter("failure")
    assert "rms_norm_eps" in (failure.get("message") or "")


def test_a_red_run_is_never_a_green_file(tmp_path: Path) -> None:
    record, _ = make_run("pass")
    with pytest.raises(ValueError, match="would not"):
        write_junit(tmp_path, record.model_copy(update={"verdict": "fail"}))
