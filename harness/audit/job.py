"""Where an audit's process enters: load the specs, audit each.

In: an `AuditRequest`. Out: an `Audit` for each model, as JSON. One process for all, because importing the frameworks
takes longer than the audits.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from harness.audit.audit import audit_configs
from harness.audit.named_roles import wrong_names
from harness.audit.published import build_published
from harness.audit.report import Audit, AuditRequest, Audits
from harness.errors import UsageError
from harness.jobs.prepared import ModelRequest, Prepared
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.results import Audited
from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.spec.code import spec_code
from harness.spec.load import load_spec, module_name
from harness.spec.model import Model, SpecRef
from harness.spec.patched import findings_of, watching
from harness.spec.rests import rests_of
from harness.spec.route import route_of
from harness.spec.witness import Seen
from harness.weights.configs import hf_config, published_config, raw_config
from harness.weights.kinds import refuse_absurd_sizes
from harness.weights.published_names import read_folder


def audit_models(payload: object, report: Reporter) -> dict[str, object]:
    """Audit every model; what is wrong with one stops no other. payload: an `AuditRequest`. Returns `Audits`."""
    request = AuditRequest.model_validate(payload)
    folder = Path(request.checkpoint) if request.checkpoint else None
    audits = []
    for number, (file, variable) in enumerate(request.specs):
        ref = SpecRef.of(file, variable)
        report.progress(number, len(request.specs), ref.name)
        audit = Audit(model=variable.lower(), file=file, variable=variable)
        try:
            with watching() as watched:
                model = load_spec(ref)
            watched.undo()
            audit.model, audit.against = model.name, str(folder) if folder else model.hf_id
            audit.findings = [*findings_of(ref.file, watched.replaced), *_findings(model, folder)]
        except UsageError as error:
            audit.error = str(error)
        audits.append(audit)
    return Audits(audits=audits).model_dump(mode="json")


def audit_run(payload: object, report: Reporter) -> dict[str, object]:
    """The two configs of a run, field by field: those of full size, unless the user's own checkpoint brings one.

    In a process of its own: it runs small models of both kinds, and a model may crash or hang. payload: a
    `ModelRequest`. Returns an `Audited`.
    """
    request = ModelRequest.model_validate(payload)
    file, modules = Path(request.spec_file), frozenset(sys.modules)
    seen, since = Seen(), time.time_ns()
    with seen.watching():
        with watching() as watched:
            model = load_spec(SpecRef(file, request.spec_variable, {}))
        watched.undo()
        code = spec_code(module_name(file), modules)
        report.progress(0, 1, "configs")
        found = _audited(model, request.prepared)
    rests = rests_of(seen, code, since, Path(request.cache_root))
    return Audited(findings=found, rests=rests).model_dump(mode="json")


def _audited(model: Model, prepared: Prepared) -> list[Finding]:
    with costs_only_this_stage():
        network = build_published(published_config(model))
        if prepared.source.kind in ("gguf", "miniature", "random"):
            found = audit_configs(model, network=network)
        else:  # a miniature's checkpoint, or the first layers of one, is held against the route's config of its kind
            sized = route_of(model).at_sizes(model, miniature=prepared.miniature, layers=prepared.layers)
            found = audit_configs(sized, hf_config(Path(prepared.checkpoint)))
        return [*found, *route_of(model).audit_builder(model, network)]


def _findings(model: Model, folder: Path | None) -> list[Finding]:
    reading = read_folder(folder) if folder is not None and any(folder.glob("*.safetensors*")) else None
    config = reading.config if reading else _config_alone(folder) if folder else published_config(model)
    route = route_of(model)
    network, own = build_published(config), route.model(model, miniature=False)
    found = [
        Finding(
            kind="weights",
            code=FindingCode.NAMES_WRONG,
            severity="error",
            what=f"tensor_names of {model.name}: {wrong}",
        )
        for wrong in wrong_names(model)
    ]
    found += audit_configs(model, config, network=network)
    found += route.audit_builder(model, network if folder is None else build_published(published_config(model)))
    if folder is not None and reading is not None:
        return [*found, *own.account_for_keys(folder, reading.dropped, reading)]
    return [*found, *own.account_for_published_keys(network)]


def _config_alone(folder: Path) -> Any:
    """A config.json without weights beside it. Raises UsageError for sizes that no model has."""
    refuse_absurd_sizes(folder, raw_config(folder), {})
    return hf_config(folder).get_text_config()
