"""Where the explanation's process enters: gather the evidence of each fault while the traces are there, and diagnose.

In: faults and the folder of the traces. Out: `Diagnosis` entries, and what stayed unexplained. In a process of its
own, because the structure of the published model comes from transformers.
"""

from __future__ import annotations

import json
from pathlib import Path

from harness.explain.decoder import Decoder, NotCoveredError, Weights
from harness.explain.diagnose import diagnose, is_wrong
from harness.explain.evidence import Evidence, gather, save
from harness.explain.facts import checkpoint_structure
from harness.explain.roles import CheckpointWeights
from harness.explain.task import RUN_FILE, ExplainRequest, FaultPlace
from harness.jobs.prepared import Prepared
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.results import Explained
from harness.names.codes import FindingCode
from harness.names.stages import Floor, Hop, runs_file
from harness.record.record import Diagnosis, Finding
from harness.spec.load import load_spec
from harness.spec.model import Model, SpecRef


class RightByItselfError(Exception):
    """A fault whose step is right when it is run by itself: no change of the step can be its cause."""

    def __init__(self, finding: Finding) -> None:
        super().__init__("its step is right when it is run by itself, so nothing that the step computes is the cause")
        self.finding = finding


def explain_run(payload: object, report: Reporter) -> dict[str, object]:
    """payload: an `ExplainRequest`. Returns an `Explained`."""
    request = ExplainRequest.model_validate(payload)
    prepared = request.prepared
    with costs_only_this_stage():
        model = load_spec(SpecRef.of(request.spec_file, request.spec_variable))
        decoder = reference(model, prepared)
    found: list[Diagnosis] = []
    unexplained, by_itself = [], []
    for number, fault in enumerate(request.faults):
        report.progress(number, len(request.faults), fault.tap)
        try:
            entries = explain_fault(fault, prepared, decoder, request.traces, request.folder, number)
        except RightByItselfError as error:
            by_itself.append(error.finding)
            unexplained.append(f"{fault.hop} at {fault.tap}: {error}")
            continue
        except NotCoveredError as error:
            unexplained.append(f"{fault.hop} at {fault.tap}: {error}")
            continue
        found += entries
        if not entries:
            unexplained.append(f"{fault.hop} at {fault.tap}: none of the hypotheses explains the error")
    save_run(request)
    return Explained(diagnosis=found, unexplained=unexplained, right_by_itself=by_itself).model_dump(mode="json")


def save_run(request: ExplainRequest) -> None:
    """What a repro has to know of the run."""
    request.folder.mkdir(parents=True, exist_ok=True)
    content = request.model_dump(mode="json", include={"spec_file", "spec_variable", "flatbuffer", "plan"})
    content["prepared"] = request.prepared.model_copy(
        update={"parameters": [], "tables": [], "findings": []}
    ).model_dump(mode="json")
    (request.folder / RUN_FILE).write_text(json.dumps(content))


def reference(model: Model, prepared: Prepared) -> Decoder:
    """The decoder of a run's checkpoint, as the published model computes it."""
    folder = Path(prepared.checkpoint)
    structure, paths = checkpoint_structure(model, folder)
    return Decoder(structure, Weights(CheckpointWeights(folder, paths, prepared.dimensions)), modules=paths)


def explain_fault(
    fault: FaultPlace, prepared: Prepared, decoder: Decoder, traces: Path, folder: Path | None = None, number: int = 0
) -> list[Diagnosis]:
    """Diagnose one fault, and save its evidence. Raises NotCoveredError and RightByItselfError."""
    if Hop.parse(fault.hop).floor in (Floor.RUNTIME, Floor.KERNELS):
        # What a hypothesis computes with is the checkpoint's: that a recipe rounded it would seem to be the cause.
        raise NotCoveredError("causes are tried with the checkpoint's numbers, and this hop's are those of the file")
    item = next(item for item in prepared.inputs if item.id == fault.input)
    evidence = gather(traces, fault.hop, fault.tap, item, decoder, prepared, fault.worst, fault.same_weights)
    depends = fault.local_share is not None and fault.local_share <= 1 and is_wrong(evidence)
    entries = [] if depends else diagnose(evidence)
    if folder is not None:
        save(evidence, folder, str(number))
    if depends:
        raise RightByItselfError(_right_by_itself(fault, evidence))
    modules = prepared.modules.get(fault.tap, {})
    own = modules.get(evidence.candidate)
    place = f" (here {own})" if own else ""
    return [entry.model_copy(update={"modules": modules, "change": entry.change + place}) for entry in entries]


def _right_by_itself(fault: FaultPlace, evidence: Evidence) -> Finding:
    """In the run the step makes something else of its own inputs, and in the local pass what it should."""
    causes = "state that is kept between calls, or memory that is written again"
    if runs_file(evidence.candidate):  # its local pass has every operator apart from the others
        causes = "memory that is written again, state of the runtime, or a kernel for several operators at once"
    where = f"{fault.tap} of {evidence.candidate} is wrong on {fault.shown or fault.input}"
    what = (
        f"{where}, and right when its step is run by itself ({fault.local_share:.2g} of its limit at most): the fault "
        f"depends on what ran before: {causes}"
    )
    code = FindingCode.RIGHT_BY_ITSELF
    return Finding(kind="runtime", code=code, severity="error", what=what, stage=evidence.candidate)
