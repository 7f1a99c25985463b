"""Make a fault, run the stages on it, and see what the harness and the other checks say of it.

In: a bench and a fault. Out: a `Result`.
"""

from __future__ import annotations

import copy
import functools
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from harness.audit.audit import audit_configs
from harness.audit.constants import audit_constants
from harness.bench.breaking import Change, swap, unchanged, write_changed
from harness.bench.exact import largest_effect
from harness.bench.explaining import explain
from harness.bench.graph import rewrite
from harness.bench.mistake import (
    AsShipped,
    Config,
    Constant,
    Exchange,
    InQuantised,
    Loader,
    Mistake,
    Names,
    Network,
    Operators,
    OtherRules,
    QuantisedSite,
    Site,
    Stored,
)
from harness.bench.others import load_network, logits_complain, verifier_complains
from harness.bench.outcome import Outcome
from harness.bench.reseed import patch
from harness.bench.result import Result
from harness.bench.run_quantised import judge_quantised
from harness.bench.workbench import FILE_STAGES, FIRST, LOCAL_STAGES, TORCH_STAGES, Bench
from harness.explain.decoder import Decoder, NotCoveredError
from harness.explain.job import reference
from harness.flatbuffer.reader import FlatbufferModel
from harness.locate.beyond_float32 import beyond_float32
from harness.locate.owners import ownership
from harness.names.owners import CHECKPOINT, RECIPE
from harness.names.stages import HF, ORACLE, REAUTHORED, Hop
from harness.record.record import Finding
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.torch.float64 import TrueFloat64

OWNERS = {
    "re-authored config": ("config",),
    "re-authored code": ("re-authoring",),
    "weight mapping": ("weights", "re-authoring"),  # the declaration is both
    "weights": ("weights",),
    "flatbuffer constants": ("weights",),
    "flatbuffer ops": ("converter",),
}


@dataclass
class _Broken:
    """A fault that was made. findings: by audit. candidates: stages whose logits it may change."""

    folder: Path
    candidates: tuple[str, ...]
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    complaint: bool = False  # of the verifier that comes with the route's packages
    decoder: Decoder | None = None  # where the published model is read by other names


def run_fault(bench: Bench, fault: Mistake) -> Result:
    """What is said of a fault. One that cannot be made is on record as that, and counts as missed."""
    result = Result(
        id=fault.id,
        kind=fault.kind,
        model=fault.model,
        what=fault.what,
        expected_hop=fault.hop,
        expected_taps=list(fault.taps),
        expected_causes=list(fault.causes),
        expected_owners=_owners(fault),
        expected_only_in=fault.only_in,
    )
    sound = bench.sound  # made before the clock starts
    if isinstance(fault.site, QuantisedSite):
        try:
            judge_quantised(bench, fault, result, fault.site)
        except Exception as error:
            result.error = _in_words(error)
        return result
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary)
        try:
            broken = _make(bench, fault, folder)
        except Exception as error:
            result.error = _in_words(error)
        else:
            outcome = bench.judge(sound if isinstance(fault.site, AsShipped) else folder)
            _judge(bench, result, broken, outcome)
            result.seconds = round(time.monotonic() - began, 2)
            result.others = {
                "verifier": broken.complaint,
                **logits_complain(bench, broken.folder, broken.candidates),
            }
            if not result.seen:
                result.effect = _effect(bench, fault)
    return result


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def _owners(fault: Mistake) -> list[str]:
    if isinstance(fault.site, Stored):
        return [CHECKPOINT]
    if isinstance(fault.site, Exchange):  # the file holds every weight, in another's place
        return ["converter"]
    if isinstance(fault.site, (InQuantised, OtherRules)):
        return [f"{RECIPE} {fault.site.recipe}"]
    return list(OWNERS.get(fault.kind, (f"kernels of {Hop.parse(fault.hop).candidate}",)))


def _judge(bench: Bench, result: Result, broken: _Broken, outcome: Outcome) -> None:
    result.audits = [name for name, found in broken.findings.items() if found]
    fault = outcome.fault
    if fault is None:
        return
    findings = [finding for found in broken.findings.values() for finding in found]
    same_place = outcome.frame[(outcome.frame["tap"] == fault.tap) & (outcome.frame["verdict"] != "missing")]
    compared = {Hop.parse(hop).candidate for hop in same_place["hop"]}
    observers: dict[str, Sequence[str]] = {stage: () for stage in FILE_STAGES if stage in compared}
    result.hop, result.tap, result.only_in = fault.hop, fault.tap, fault.only_in
    result.excess, result.local_excess = fault.excess, fault.local_excess
    beyond = beyond_float32(fault, outcome.frame)
    result.owner = ownership(fault, outcome.faults, findings, observers, outcome.not_finite, beyond).owner
    try:
        result.diagnosis = [entry.hypothesis for entry in explain(bench, broken.folder, outcome, broken.decoder)]
    except NotCoveredError:
        result.diagnosis = []


def _make(bench: Bench, fault: Mistake, folder: Path) -> _Broken:
    """Run what the fault changes into `folder`."""
    site = fault.site
    if isinstance(site, AsShipped):
        complains = fault.hop == FIRST and verifier_complains(bench)
        return _Broken(bench.sound, (Hop.parse(fault.hop).candidate,), _shipped_findings(bench), complains)
    if isinstance(site, (Constant, Exchange, Operators)):
        return _break_flatbuffer(bench, site, folder)
    if isinstance(site, Stored):
        return _break_checkpoint(bench, site, folder)
    change, model = _reauthored(bench, site)
    with ExitStack() as around:
        if isinstance(site, Network):
            around.enter_context(site.around())
        if isinstance(site, Names):  # the names say what is compared with what, too
            for stage in (ORACLE, HF):
                bench.trace(stage, folder, model=model)
            bench.trace(HF, folder, model=model, reference=folder / ORACLE)
        facts = bench.trace(REAUTHORED, folder, model=model, change=change)
        oracle = (folder if isinstance(site, Names) else bench.sound) / ORACLE
        bench.trace(REAUTHORED, folder, model=model, change=change, reference=oracle)
        complains = verifier_complains(bench, model, change)
    findings = {
        "weights by value": _errors(iter(facts.findings)),
        **(_declaration_findings(bench, model) if model is not None else {}),
    }
    decoder = reference(model, bench.prepared) if model is not None and isinstance(site, Names) else None
    return _Broken(folder, (REAUTHORED,), findings, complains, decoder)


def _reauthored(bench: Bench, site: Site) -> tuple[Change, Model | None]:
    """(what changes the loaded network, the declaration to load it by)"""
    if isinstance(site, Network):
        return site.change, None
    other = route_of(bench.model).with_fault(bench.model, site, bench.own())
    assert other is not None, site
    return unchanged, other


def _break_checkpoint(bench: Bench, site: Stored, folder: Path) -> _Broken:
    """The PyTorch stages on a checkpoint that is wrong itself."""
    other = copy.copy(bench)
    other.checkpoint = folder / "checkpoint"
    write_changed(bench.checkpoint, other.checkpoint, site.change, unchanged)
    facts = [other.trace(stage, folder) for stage in TORCH_STAGES][-1]
    for stage in LOCAL_STAGES:
        other.trace(stage, folder, reference=folder / ORACLE)
    findings = {"weights by value": _errors(iter(facts.findings))}
    return _Broken(folder, (REAUTHORED,), findings, verifier_complains(other))


def _break_flatbuffer(bench: Bench, site: Constant | Exchange | Operators, folder: Path) -> _Broken:
    stages = FILE_STAGES if isinstance(site, Exchange) else site.stages

    def change(file: Path) -> None:
        if isinstance(site, Operators):
            rewrite(file, site.change)
        elif isinstance(site, Exchange):
            swap(file, bench.constant(site.one), bench.constant(site.other))
        else:
            values = bench.constant(site.name)
            patch(file, values, np.asarray(site.change(values), np.float32))

    file = bench.break_flatbuffer(folder, change, stages, retap=isinstance(site, Operators))
    # Where one runtime alone is given this file, what ships is the right one.
    findings = _constant_findings(bench, file) if stages == FILE_STAGES else []
    return _Broken(folder, stages, {"constants": findings})


def _effect(bench: Bench, fault: Mistake) -> float | None:
    """The fault in float64 over the noise floor; none where it has no other form than the one that was run."""
    site = fault.site
    with tempfile.TemporaryDirectory(dir=bench.folder) as temporary:
        folder = Path(temporary)
        if isinstance(site, Constant):
            if site.name not in bench.tensors:
                return None
            checkpoint = folder / "checkpoint"
            changed = torch.tensor(np.asarray(site.change(bench.constant(site.name)), np.float32))
            write_changed(bench.checkpoint, checkpoint, lambda tensors: tensors.update({site.name: changed}))
            bench.trace(ORACLE, folder, checkpoint=checkpoint)
            return largest_effect(bench, bench.sound / ORACLE, folder / ORACLE)
        if isinstance(site, (Config, Network, Loader)):
            change, model = _reauthored(bench, site)
            with ExitStack() as around:
                if isinstance(site, Network):
                    around.enter_context(site.around())
                _trace_exactly(bench, folder / "broken", change, model)
            _trace_exactly(bench, folder / "sound", unchanged, None)
            return largest_effect(bench, folder / "sound" / REAUTHORED, folder / "broken" / REAUTHORED)
    return None


def _trace_exactly(bench: Bench, folder: Path, change: Change, model: Model | None) -> None:
    """The re-authored model in true float64, with the float32 weights that it has."""

    network = load_network(bench, model, change)  # before float64 begins: files hold float32
    network.double()
    with TrueFloat64():
        bench.trace(REAUTHORED, folder, model=model, load=lambda *_: network)


def _errors(findings: Iterator[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == "error"]


@functools.lru_cache(4)
def _known(bench: Bench) -> frozenset[str]:
    """What the audits say of the unbroken model, which is not a sign of a fault."""
    return frozenset(
        finding.what for found in _declaration_findings(bench, bench.model, frozenset()).values() for finding in found
    )


def _declaration_findings(bench: Bench, model: Model, known: frozenset[str] | None = None) -> dict[str, list[Finding]]:
    """Of the audit of configs, and of the account of the checkpoint's keys."""
    before = _known(bench) if known is None else known
    found = {"config": audit_configs(model), "keys": bench.own(model).account_for_keys(bench.checkpoint)}
    return {
        name: [finding for finding in _errors(iter(every)) if finding.what not in before]
        for name, every in found.items()
    }


def _constant_findings(bench: Bench, file: Path) -> list[Finding]:
    prepared = bench.prepared
    audit = audit_constants(
        FlatbufferModel(file), prepared.parameters, bench.checkpoint, prepared.tables, prepared.windows
    )
    return _errors(iter(audit.findings))


def _shipped_findings(bench: Bench) -> dict[str, list[Finding]]:
    return {
        **_declaration_findings(bench, bench.model, frozenset()),
        "constants": _constant_findings(bench, bench.flatbuffer),
    }
