"""Findings, reasons and failing taps carry codes: all are documented and used, and older records get theirs."""

from __future__ import annotations

import ast
import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from paths import ROOT
from record_factory import make_run
from sources import PACKAGE, nodes, text

from harness.names import codes
from harness.names.codes import FindingCode, ReasonCode, TapCode
from harness.record.faults import BrokenFloor
from harness.record.record import TAPS_FILE, Record, read_run, write_record

PAGE = (ROOT / "docs" / "record.md").read_text(encoding="utf-8")
HEADINGS = {FindingCode: "### `findings[].code`", ReasonCode: "### `hops[].reason_codes`", TapCode: "### `broken`"}


@pytest.mark.parametrize("kind", HEADINGS, ids=lambda kind: kind.__name__)
def test_the_page_lists_the_codes_of_the_code_with_their_meanings(kind: type[StrEnum]) -> None:
    section = PAGE.split(HEADINGS[kind])[1].split("\n#")[0]
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (.+) \|$", section, re.MULTILINE)
    source = Path(codes.__file__).read_text(encoding="utf-8").split(f"class {kind.__name__}(")[1].split("\nclass ")[0]
    meant = re.findall(r'= "([a-z0-9-]+)"  # (.+)$', source, re.MULTILINE)
    assert listed == meant
    assert [code for code, _ in meant] == [code.value for code in kind]


def test_every_finding_is_made_with_a_code() -> None:
    calls = [
        (file, node)
        for file in PACKAGE
        if "Finding(" in text(file)
        for node in nodes(file)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding"
    ]
    assert len(calls) > 20
    bare = [f"{file}:{node.lineno}" for file, node in calls if "code" not in {word.arg for word in node.keywords}]
    assert bare == []


@pytest.mark.parametrize("kind", HEADINGS, ids=lambda kind: kind.__name__)
def test_every_code_is_used_and_none_is_written_out(kind: type[StrEnum]) -> None:
    code = "\n".join(text(file) for file in PACKAGE if file.name != "codes.py")
    assert set(re.findall(rf"\b{kind.__name__}\.([A-Z_0-9]+)\b", code)) == {each.name for each in kind}
    written_out = "|".join(re.escape(each.value) for each in kind)
    assert re.findall(rf"""["']({written_out})["']""", code) == []


def test_a_hop_has_a_code_for_each_reason() -> None:
    for kind, expected in (("fail", ReasonCode.TAPS_FAIL), ("crash", ReasonCode.STAGE_LOST)):
        hop = next(hop for hop in make_run(kind)[0].hops if hop.verdict == "fail")
        assert hop.reason_codes == [expected]
        assert hop.reasons_of(expected) == hop.reasons
        assert bool(hop.blocked_by) == (kind == "crash")
        with pytest.raises(ValueError, match="1 reasons and 2 codes"):
            type(hop).model_validate({**hop.model_dump(by_alias=True), "reason_codes": [expected, expected]})


def as_before_codes(record: Record, frame: pd.DataFrame, folder: Path) -> None:
    """A run folder as versions without codes wrote it."""
    write_record(folder, record, frame.drop(columns=["broken", "noise_floor_limit"]))
    content: dict[str, Any] = json.loads((folder / "parity.json").read_text())
    for part in content["findings"]:
        part.pop("code"), part.pop("key"), part.pop("parameter")
    for part in content["hops"]:
        part.pop("reason_codes"), part.pop("blocked_by")
    for part in [*content["faults"], content["first_fault"]]:
        part.pop("broken"), part.pop("floor")
    for part in content["known_defects"]:
        part.pop("hop")
    (folder / "parity.json").write_text(json.dumps(content))


def test_an_older_run_is_read_with_what_its_sentences_say(tmp_path: Path) -> None:
    record, frame = make_run("fail")
    fault = record.faults[0]
    assert fault.broken
    as_before_codes(record, frame, tmp_path)
    read, rows = read_run(tmp_path)
    assert [other.broken for other in read.faults] == [other.broken for other in record.faults]
    assert {code for hop in read.hops for code in hop.reason_codes} == set()
    assert list(rows["broken"]) == list(frame["broken"].fillna(""))
    assert "broken" not in pd.read_parquet(tmp_path / TAPS_FILE)


@pytest.mark.parametrize(
    ("reason", "broken", "floor"),
    [
        ("noise_floor 0.2 > 0.001", ["noise_floor"], BrokenFloor(value=0.2, limit=0.001)),
        ("noise_floor inf > 1e-05", ["noise_floor"], BrokenFloor(value=float("inf"), limit=1e-5)),
        ("noise_floor 0.2 > 0.001; cosine 0.9 < 0.99", ["noise_floor", "cosine"], None),
        ("noise_floor 0.2 > 0.001; the moon is full", [], None),
        ("noise_floor 1.2.3 > 0.001", [], None),
        ("noise_floor nan > 0.001", ["noise_floor"], None),
        ("", [], None),
    ],
)
def test_an_older_fault_is_read_with_what_its_reason_says(reason: str, broken: list[str], floor: object) -> None:
    record = make_run("fail")[0]
    content = json.loads(record.to_json())
    fault = content.pop("faults")[0] | {"reason": reason}
    fault.pop("broken"), fault.pop("floor")
    (read,) = Record.model_validate(content | {"first_fault": fault}).faults
    assert (read.broken, read.floor) == (broken, floor)


def test_an_older_known_defect_is_read_with_its_hop() -> None:
    record = make_run("fail")[0]
    given = dict.fromkeys(("id", "title", "measured", "found", "cause", "command"), "x") | {"state": "seen"}
    places = {"hf->reauthored, first at logits": "hf->reauthored", "stage hf crashes": "", "config finding": ""}
    known = [{**given, "place": place} for place in places]
    read = Record.model_validate({**json.loads(record.to_json()), "known_defects": known}).known_defects
    assert [defect.hop for defect in read] == list(places.values())


def test_the_first_fault_is_the_first_of_the_faults_and_on_file_before_them() -> None:
    record = make_run("fail")[0]
    content = json.loads(record.to_json())
    assert record.first_fault is record.faults[0]
    assert content["first_fault"] == content["faults"][0]
    assert list(content).index("first_fault") + 1 == list(content).index("faults")
    assert json.loads(make_run("pass")[0].to_json())["first_fault"] is None
