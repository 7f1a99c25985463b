"""Known upstream defects: the file is checked, and a run is right only when it fails exactly as listed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from paths import ROOT
from record_factory import CRASHED, FAULTY_TAP, HOSTILE, make_run
from rich.console import Console

from harness.commands.batch import ModelOutcome
from harness.errors import UsageError
from harness.judge.known_defects import (
    Defect,
    FindingPattern,
    Place,
    Surprise,
    case_problem,
    load_defects,
    match,
    on_record,
    problems,
)
from harness.names.codes import FindingCode
from harness.record.record import Finding, Record
from harness.render.batch import print_outcomes
from harness.render.defects import defects_page
from harness.render.html import write_report
from harness.render.terminal import print_explain, print_summary

HOP = "hf->reauthored"


def defect(*places: Place, **more: object) -> Defect:
    given: dict[str, object] = {
        "id": "rounded-weight",
        "title": "A weight is rounded",
        "status": "run",
        "cause": "The example rounds the weight\nof one matrix.",
        "measured": "rel_l2 1e-3.",
        "versions": {"litert-torch": "0.10.0"},
        "command": "edge-parity run smollm2",
        "remedy": "Do not round.",
        "remedy_command": "edge-parity run smollm2 --checkpoint exact",
        "place": places or (hop(),),
    }
    return Defect.model_validate(given | more)


def hop(**more: object) -> Place:
    given: dict[str, object] = {"model": "smollm2", "hop": HOP, "tap": FAULTY_TAP, "measured": "excess 338"}
    return Place.model_validate(given | more)


def run(kind: str) -> Record:
    return make_run(kind)[0].model_copy(deep=True)


def state_of(record: Record, *defects: Defect) -> list[str]:
    return [expected.state for expected in match(record, defects).expected]


def test_a_run_that_fails_where_it_is_listed_fails_exactly_so() -> None:
    record = run("fail")
    found = match(record, [defect()])
    assert state_of(record, defect()) == ["seen"]
    assert found.is_exact
    assert problems(record, found) == []
    expected = found.by_hop.get(HOP)
    assert expected is not None
    cases = [case for case in record.cases if case.hop == HOP]
    assert cases
    assert [case_problem(case, expected) for case in cases] == [""] * len(cases)


def test_a_defect_that_no_longer_shows_is_said_of_each_input() -> None:
    record = run("pass")
    found = match(record, [defect()])
    assert state_of(record, defect()) == ["gone"]
    assert not found.is_exact
    expected = found.by_hop.get(HOP)
    assert expected is not None
    said = [case_problem(case, expected) for case in record.cases if case.hop == HOP]
    assert all("rounded-weight no longer shows" in text and "known_defects.toml" in text for text in said)


def test_a_failure_at_another_tap_is_not_the_known_one() -> None:
    listed = defect(hop(tap="block.1.mlp.out"))
    record = run("fail")
    found = match(record, [listed])
    assert state_of(record, listed) == ["elsewhere"]
    assert not found.is_exact
    expected = found.by_hop.get(HOP)
    assert expected is not None
    said = [case_problem(case, expected) for case in record.cases if case.hop == HOP]
    assert all("shows at block.1.mlp.out, but" in text and FAULTY_TAP in text for text in said)


def test_another_hop_that_fails_is_unexpected() -> None:
    listed = defect(hop(hop="reauthored->tflite-xnnpack"))
    record = run("fail")
    found = match(record, [listed])
    assert [surprise.hop for surprise in found.unexpected] == [HOP]
    assert problems(record, found) == []  # the cases of that hop say it, and no other case has to


def test_an_input_that_the_defect_leaves_alone_has_to_pass() -> None:
    record = run("fail")
    expected = match(record, [defect(hop(unaffected=("prompt",)))]).by_hop.get(HOP)
    assert expected is not None
    (case,) = (case for case in record.cases if (case.hop, case.input) == (HOP, "prompt"))
    assert "leaves this input alone, but" in case_problem(case, expected)
    (passing,) = (case for case in run("pass").cases if (case.hop, case.input) == (HOP, "prompt"))
    assert case_problem(passing, expected) == ""


def test_an_input_may_show_it_first_at_a_tap_of_its_own() -> None:
    record = run("fail")
    listed = defect(hop(taps={"prompt": "block.2.residual"}))
    expected = match(record, [listed]).by_hop.get(HOP)
    assert expected is not None
    said = {case.input: case_problem(case, expected) for case in record.cases if case.hop == HOP}
    assert "shows at block.2.residual" in said.pop("prompt")
    assert set(said.values()) == {""}


def test_a_known_failing_tap_explains_no_lack_of_coverage() -> None:
    record = run("fail")
    record.hop(HOP).reasons.append("coverage 0.9 is below the 0.95 that the model declares")
    found = match(record, [defect()])
    assert not found.is_exact
    assert "coverage 0.9" in problems(record, found)[0]


def test_a_missing_case_is_never_the_known_failure() -> None:
    record = run("crash")
    listed = defect(hop(hop="reauthored->tflite-xnnpack"))
    found = match(record, [listed])
    assert state_of(record, listed) == ["elsewhere"]
    expected = found.by_hop.get("reauthored->tflite-xnnpack")
    assert expected is not None
    assert all(case_problem(c, expected) for c in record.cases if c.hop == "reauthored->tflite-xnnpack")
    assert any("SIGSEGV" in text for text in problems(record, found))


def test_other_models_variants_and_hops_that_did_not_run_are_not_expected() -> None:
    record = run("fail")
    places = (hop(model="gemma1"), hop(variant="no-hlfb"), hop(hop="tflite-xnnpack->tflite-xnnpack[dynamic_int8]"))
    found = match(record, [defect(*places)])
    assert found.expected == ()
    assert found.unexpected


def test_a_crash_that_is_listed_is_known_and_its_hops_with_it() -> None:
    place = Place(model="smollm2", stage=CRASHED, says=("SIGSEGV",), measured="always")
    record = run("crash")
    found = match(record, [defect(place)])
    assert found.is_exact
    lost = [case for case in record.cases if case.hop == f"reauthored->{CRASHED}"]
    assert lost
    assert [case_problem(case, found.by_hop[case.hop]) for case in lost] == [""] * len(lost)
    assert state_of(run("pass"), defect(place)) == ["gone"]
    other = place.model_copy(update={"says": ("KeyError",)})
    assert state_of(record, defect(other)) == ["elsewhere"]
    assert "shows otherwise" in problems(record, match(record, [defect(other)]))[0]


def test_a_finding_that_is_listed_is_known_and_another_is_not() -> None:
    record = run("pass")
    lost = {"kind": "weights", "severity": "error", "code": FindingCode.KEY_NOT_LOADED, "what": "in words"}
    record.findings = [Finding.model_validate({**lost, "key": "lm_head.weight"})]
    shown = FindingPattern(code=FindingCode.KEY_NOT_LOADED, key="lm_head.weight")
    place = Place(model="smollm2", finding="weights", shows=(shown,), measured="always")
    assert match(record, [defect(place)]).is_exact
    assert state_of(run("pass"), defect(place)) == ["gone"]
    assert "no longer shows" in problems(run("pass"), match(run("pass"), [defect(place)]))[0]
    record.findings.append(Finding(kind="config", severity="error", what="another"))
    assert match(record, [defect(place)]).unexpected == (Surprise("config finding: another"),)
    record.findings[-1] = Finding.model_validate({**lost, "key": "model.norm.weight"})
    assert match(record, [defect(place)]).unexpected == (Surprise("weights finding: in words"),)


SILENT = FindingPattern(code=FindingCode.BUILDER_GIVES_NONE)


def warned(code: FindingCode = SILENT.code, model: str = "smollm2") -> Record:
    found = Finding(kind="weights", code=code, severity="warning", what="in words")
    return run("pass").model_copy(update={"findings": [found], "model": model, "variant": "no-hlfb"})


def test_a_warning_that_is_listed_is_known_in_a_run_that_passes() -> None:
    given = {"finding": "weights", "shows": (SILENT,), "measured": "always"}
    place = Place(model="smollm2", variant="*", severity="warning", **given)  # type: ignore[arg-type]
    assert match(warned(), [defect(place)]).is_exact
    assert problems(warned(), match(warned(), [defect(place)])) == []
    assert state_of(warned(FindingCode.KEYS_LEFT_OUT), defect(place)) == ["gone"]
    error = Place(model="smollm2", variant="*", **given)  # type: ignore[arg-type]
    assert state_of(warned(), defect(error)) == ["gone"]
    assert state_of(warned(), defect(Place(model="smollm2", severity="warning", **given))) == []  # type: ignore[arg-type]


def test_a_model_that_only_a_pattern_means_may_show_a_finding_and_need_not() -> None:
    given = {"finding": "weights", "severity": "warning", "shows": (SILENT,), "measured": "always"}
    wide, named = (Place(model=model, variant="*hlfb", **given) for model in ("*", "smollm2"))  # type: ignore[arg-type]
    assert state_of(warned(model="other"), defect(wide)) == ["seen"]
    assert state_of(warned(FindingCode.KEYS_LEFT_OUT, model="other"), defect(wide)) == []
    assert state_of(warned(FindingCode.KEYS_LEFT_OUT), defect(wide, named)) == ["gone"]
    assert state_of(warned(), defect(wide, named)) == ["seen"]


def test_a_finding_is_expected_only_of_a_run_with_a_stage_that_makes_it() -> None:
    given = {
        "model": "smollm2",
        "finding": "runtime",
        "shows": (FindingPattern(code=FindingCode.CACHE_OVERWRITTEN),),
        "measured": "always",
    }
    record = run("crash")
    for stages, state in (((CRASHED, "hf"), ["gone"]), ((CRASHED,), []), (("absent",), [])):
        assert state_of(record, defect(Place(made_by=stages, **given))) == state  # type: ignore[arg-type]


def test_other_versions_change_no_expectation_and_are_said() -> None:
    record = run("fail")
    (same,) = on_record(record, match(record, [defect()]))
    (other,) = on_record(record, match(record, [defect(versions={"litert-torch": "0.9.0", "torch": "2.13.0+cpu"})]))
    assert same.versions_differ == ""
    assert (other.state, other.versions_differ) == ("seen", "measured with litert-torch 0.9.0, here 0.10.0")


def test_what_is_known_is_in_every_view_with_cause_and_remedy(tmp_path: Path) -> None:
    record, frame = make_run("fail")
    record = record.model_copy(deep=True)
    record.known_defects = on_record(record, match(record, [defect()]))
    record = Record.model_validate_json(record.to_json())
    console = Console(file=io.StringIO(), width=100)
    print_summary(record, frame, tmp_path, console)
    print_explain(record, frame, console)
    shown = " ".join(console.file.getvalue().split())
    page = " ".join(write_report(tmp_path, record, frame).read_text().split())
    for text in (shown, page):
        for said in ("rounded-weight", "shows here as listed", "rounds the weight of one matrix.", "Do not round.",
                     "edge-parity run smollm2 --checkpoint exact"):  # fmt: skip
            assert said in text
    assert shown.count("known upstream defect rounded-weight") == 2
    table = Console(file=io.StringIO(), width=80)
    print_outcomes([ModelOutcome("smollm2", 1.0, record, tmp_path)], tmp_path, 0, table)
    assert "rounded-weight" in table.file.getvalue()


def test_hostile_texts_of_a_record_stay_texts_in_the_report(tmp_path: Path) -> None:
    record, frame = make_run("fail", 8)
    record = record.model_copy(deep=True)
    record.known_defects = on_record(record, match(record, [defect(id=HOSTILE, title=HOSTILE, cause=HOSTILE)]))
    page = write_report(tmp_path, record, frame).read_text()
    assert page.count("</script>") == 2
    assert "\x1b" not in page


GOOD = """
[[defect]]
id = "a"
title = "t"
status = "run"
cause = "c"
measured = "m"
versions = {}
command = "edge-parity run smollm2"

[[defect.place]]
model = "smollm2"
hop = "hf->reauthored"
tap = "logits"
measured = "excess 9"
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[[defect]]", "[[defect", "cannot be read"),
        ('status = "run"', 'status = "odd"', "defect 'a', status: "),
        ('tap = "logits"', "", "defect 'a', place 1: "),
        ('hop = "hf->reauthored"', 'hop = "hf->reauthored"\nstage = "hf"', "one of hop, stage and finding"),
        ('model = "smollm2"', 'model = "smollm*"', "defect 'a', place 1: "),
        ('measured = "excess 9"', 'measured = "excess 9"\nmade_by = ["hf"]', "defect 'a', place 1: "),
        ('title = "t"', 'title = "t"\ntitel = "t"', "defect 'a', titel: "),
        ('status = "run"', 'status = "unseen"', "defect 'a': "),
        ('cause = "c"', 'cause = "c"\nremedy_command = "r"', "needs a remedy"),
    ],
)
def test_a_broken_file_is_one_line_that_names_the_defect(tmp_path: Path, old: str, new: str, says: str) -> None:
    file = tmp_path / "defects.toml"
    file.write_text(GOOD)
    assert load_defects(file)[0].place[0].tap == "logits"
    file.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as error:
        load_defects(file)
    assert says in str(error.value)
    assert str(file) in str(error.value)


def test_a_hop_that_is_bound_to_fail_in_two_ways_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "defects.toml"
    file.write_text(GOOD + GOOD.replace('id = "a"', 'id = "b"'))
    with pytest.raises(UsageError, match=r"hf->reauthored of smollm2 \(default\)' stands there twice"):
        load_defects(file)


def test_the_page_is_made_of_the_file() -> None:
    kept = (ROOT / "docs" / "upstream-defects.md").read_text(encoding="utf-8")
    assert kept == defects_page(load_defects()), "python -m harness.render.defects > docs/upstream-defects.md"
