"""The gate for a CI server. In: the record. Out: `junit.xml`, one case per input and hop, and one per law and stage.

A case that fails is a failure, one that could not be compared an error: neither is ever a pass.
What fails a run without failing any case (coverage, a config finding, a stage outside every hop)
becomes a case of its own, so that a red run is never a green file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from harness.plain import clean, one_line
from harness.record.record import Case, HopResult, Record, write_text
from harness.render.numbers import number
from harness.render.sentences import headline, looser_words

JUNIT_FILE = "junit.xml"


def write_junit(folder: Path, record: Record) -> Path:
    """Write `junit.xml` into the run folder and return its path."""
    root = ElementTree.Element("testsuites", name=clean(f"edge-parity {record.model}"))
    seconds = {stage.name: stage.seconds for stage in record.stages}
    for hop in record.hops:
        cases = [case for case in record.cases if case.hop == hop.name]
        # A stage runs all its inputs at once: its time belongs to the suite, and to no single case.
        _suite(root, record, hop.name, _hop_cases(record, hop, cases), seconds.get(hop.to))
    _suite(root, record, "laws", list(_law_cases(record)))
    known = {hop.name for hop in record.hops}
    others = [_case_element(record, case) for case in record.cases if case.hop not in known]
    _suite(root, record, "run", [*others, *_run_cases(record)])
    for attribute in ("tests", "failures", "errors"):
        root.set(attribute, str(sum(int(suite.get(attribute, "0")) for suite in root)))
    if root.get("failures") == root.get("errors") == "0" and record.verdict == "fail":
        raise ValueError(f"run {record.run_id} fails and its junit.xml would not")
    ElementTree.indent(root)
    path = folder / JUNIT_FILE
    write_text(path, '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n")
    return path


def _suite(
    root: ElementTree.Element,
    record: Record,
    name: str,
    cases: list[ElementTree.Element],
    seconds: float | None = None,
) -> None:
    if not cases:
        return
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
    }
    suite = ElementTree.SubElement(root, "testsuite", name=clean(f"{record.model} {name}"))
    for key, count in counts.items():
        suite.set(key, str(count))
    if record.created:
        suite.set("timestamp", clean(record.created))
    if seconds is not None:
        suite.set("time", f"{seconds:.3f}")
    suite.extend(cases)


def _hop_cases(record: Record, hop: HopResult, cases: list[Case]) -> list[ElementTree.Element]:
    elements = [_case_element(record, case) for case in cases]
    if hop.verdict == "fail" and all(case.verdict == "pass" for case in cases):
        elements.append(_problem(record, hop.name, "all inputs", "failure", "; ".join(hop.reasons)))
    return elements


def _case_element(record: Record, case: Case) -> ElementTree.Element:
    if case.verdict == "pass":
        return _element(record, case.hop, case.input)
    if case.verdict == "missing":
        return _problem(record, case.hop, case.input, "error", case.message or "not compared")
    said = case.message or f"{case.first_failing_tap or 'a tap'} fails"
    detail = [f"first failing tap: {case.first_failing_tap or '-'}"]
    if not any(hop.name == case.hop and hop.hop.by_snr for hop in record.hops):  # else there is none
        detail.append(f"worst excess: {number(case.excess)}")
        detail.append(f"worst position excess: {number(case.position_excess)}")
    owner = next((fault.owner for fault in record.faults if fault.hop == case.hop), "")
    detail += [f"owner: {owner}"] if owner else []
    return _problem(record, case.hop, case.input, "failure", said, detail)


def _law_cases(record: Record) -> Iterable[ElementTree.Element]:
    """A law that does not apply to a stage is not a case: nothing was to be seen."""
    for found in record.laws:
        where = f"laws of {found.stage}"
        if found.verdict == "holds":
            yield _element(record, where, found.law)
        elif found.verdict == "broken":
            inherited = f"; {found.inherited} breaks it first" if found.inherited else ""
            yield _problem(record, where, found.law, "failure", found.why + inherited)
        elif found.verdict == "not run":
            yield _problem(record, where, found.law, "error", f"not run: {found.why}")


def _run_cases(record: Record) -> Iterable[ElementTree.Element]:
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            said = f"stage {stage.name} {stage.status}: {stage.detail or 'see run.log'}"
            yield _problem(record, "run", f"stage {stage.name}", "error", said)
    for i, finding in enumerate(f for f in record.findings if f.severity == "error"):
        yield _problem(record, "run", f"{finding.kind} finding {i + 1}", "failure", finding.what)
    if record.looser_rules:  # no failure, but a green file must say what it was judged by
        case = _element(record, "run", looser_words(record))
        ElementTree.SubElement(case, "system-out").text = looser_words(record)
        yield case


def _element(record: Record, hop: str, name: str) -> ElementTree.Element:
    # Dots nest packages in most viewers: a hop's name must stay one level.
    return ElementTree.Element("testcase", classname=f"{one_line(record.model)}.{one_line(hop)}", name=one_line(name))


def _problem(
    record: Record, hop: str, name: str, kind: str, message: str, detail: Iterable[str] = ()
) -> ElementTree.Element:
    element = _element(record, hop, name)
    problem = ElementTree.SubElement(element, kind, message=one_line(message))
    problem.text = clean("\n".join([message, *detail, headline(record), f"run {record.run_id}"]))
    return element
