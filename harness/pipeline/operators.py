"""Which faults of a flatbuffer are descended into, and what the record says of the operators found.

In: the record so far. Out: tasks, and the record with an operator at the first faults of each TFLite hop. Imports no
framework. The descent itself is `harness/operators/job.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

from harness.align.plan import PlanFacts
from harness.jobs.prepared import Prepared
from harness.jobs.results import Descended
from harness.locate.owners import CONVERTER, converter_or_kernels_of, is_given, kernels_of
from harness.names.codes import FindingCode
from harness.names.stages import Floor, Hop, runs_file
from harness.pipeline.fault_names import in_signature
from harness.pipeline.tasks import RunPaths, descend_task
from harness.processes.scheduler import Results, Task
from harness.record.record import Fault, FaultyOperator, Finding, Record

_FAULTS = 2  # of a hop are descended into at most


def descent_tasks(place: RunPaths, prepared: Prepared, record: Record, results: Results) -> dict[str, Task]:
    """Hop -> the task that looks for the operators that cause its first faults."""
    taps: dict[str, dict[str, int | None]] = {}
    for fault in record.faults:
        if Hop.parse(fault.hop).floor is Floor.RUNTIME:
            continue  # what an operator makes of numbers on a grid is not among the definitions yet
        if runs_file(Hop.parse(fault.hop).candidate) and not is_given(fault.owner):
            of_hop = taps.setdefault(fault.hop, {})
            if len(of_hop) < _FAULTS:
                of_hop[fault.tap] = fault.first_position if fault.only_in == "decode" else None
    return {hop: descend_task(place, prepared, Hop.parse(hop), found, results) for hop, found in taps.items()}


def with_operators(record: Record, tasks: Mapping[str, Task], ended: Results, plans: Mapping[str, PlanFacts]) -> Record:
    """The record with the operators that were found, or with a word about why they were not.

    plans: recipe -> what the plan of its file says.
    """
    findings, faults = list(record.findings), list(record.faults)
    for hop, task in tasks.items():
        result = ended[task.name]
        answer = result.gave(Descended)
        if answer is None:
            what = f"the operator that causes the first fault of {hop} is not known: {result.detail}"
            findings.append(Finding(kind="runtime", code=FindingCode.OPERATOR_NOT_FOUND, severity="warning", what=what))
            continue
        found = answer.faults
        faults = [
            _with_operator(fault, found[fault.tap], plans) if fault.hop == hop and fault.tap in found else fault
            for fault in faults
        ]
    return Record.model_validate(
        {
            **record.model_dump(by_alias=True),
            "findings": [finding.model_dump() for finding in findings],
            "faults": [fault.model_dump() for fault in faults],
        }
    )


def _with_operator(fault: Fault, found: FaultyOperator, plans: Mapping[str, PlanFacts]) -> Fault:
    """With the tap's name in the signature in which the operator was found."""
    fault = in_signature(fault, found.signature, plans)
    changes: dict[str, object] = {"operator": found.model_dump(), "op": found.op}
    kernels, either = (name(fault.between.candidate) for name in (kernels_of, converter_or_kernels_of))
    if fault.owner in (CONVERTER, kernels, either):
        inside = f" of {found.composites[-1]}" if found.composites else ""
        said = f"{found.op} {found.index}{inside}: {found.why}"
        owner = CONVERTER if found.whose == "converter" else kernels
        agrees = fault.owner in (owner, either)
        changes |= {"owner": owner, "evidence": [*fault.evidence, said] if agrees else [said]}
    return Fault.model_validate({**fault.model_dump(), **changes})
