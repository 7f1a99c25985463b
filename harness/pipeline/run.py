"""The run: spec -> checkpoint -> inputs -> stages -> compare -> judge -> local passes -> locate -> record.

In: what the command line asked for. Out: a run folder and its record. This is the one place that knows the
order of the steps; each step is a file of its own.
"""

from __future__ import annotations

import datetime
import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import TaskFaultError, UsageError
from harness.inputs.tokens import check_jsonl
from harness.jobs.prepared import Prepared, Request
from harness.jobs.results import Audited, Converted, Preparation, Tapped
from harness.jobs.run_models import save_models
from harness.judge.known_defects import load_defects
from harness.judge.rules import Rule, check_all_judged, load_rules
from harness.names.stages import (
    BUILTIN,
    HF,
    ORACLE,
    REAUTHORED,
    REFERENCE,
    XNNPACK,
    every_stage,
    float32_stages,
    hops_of,
    named,
    stage_named,
    standard_hops,
)
from harness.names.variant import VariantOptions
from harness.pipeline.background import StillWanted, in_background
from harness.pipeline.prepared_cache import recall, recall_key, remember
from harness.pipeline.tasks import AUDIT, RunPaths, conversion_mb, inputs_for_local, local_tasks, stage_tasks
from harness.plain import brief
from harness.processes.scheduler import SERVER_LOST, Results, Task, TaskResult, Watcher, run_tasks
from harness.record.record import Finding, Record, write_record
from harness.record.runs import next_run_id
from harness.spec.find import find_spec
from harness.spec.model import SpecRef
from harness.spec.rests import RESTS, Rests
from harness.store.cache import Cache
from harness.store.run_folder import LOG_FILE, deleting, working_folder
from harness.store.trust import mark_run
from harness.system.memory import memory
from harness.weights.sources import check_source

if TYPE_CHECKING:
    from harness.compare.traces import Comparison

_LONGEST_TIMEOUT = 1_000_000  # seconds
_SEEDS = 2**64  # that torch takes
_PREPARE = "harness.pipeline.prepare:prepare"
_OVERLAP_MB = 3800  # stages of a small model overlap up to this, though its conversion takes less


@dataclass(frozen=True)
class Options:
    """What `edge-parity run` was told. Paths may be relative; they are resolved before anything starts."""

    model: str
    checkpoint: str | None = None
    tflite: Path | None = None
    miniature: bool = False
    layers: int | None = None
    stages: tuple[str, ...] = field(default_factory=float32_stages)
    prompts: tuple[str, ...] = ()
    inputs_file: Path | None = None
    variant: VariantOptions = field(default_factory=VariantOptions)
    quantize: tuple[str, ...] = ()
    seed: int = 0
    tolerances: Path | None = None
    out: Path = Path("reports")
    keep_traces: bool = False
    no_cache: bool = False
    timeout: float = 3600.0


@dataclass
class Work:
    """A run under way: where it works, and what it has found so far."""

    options: Options
    ref: SpecRef
    folder: Path
    cache: Cache
    watcher: Watcher
    timings: dict[str, float] = field(default_factory=dict)
    rests: list[Rests | None] = field(default_factory=list)  # what was found now rests on, for `remember`

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.timings[name] = round(time.monotonic() - began, 3)


def run(options: Options, watcher: Watcher) -> tuple[Path, Record]:
    """Run a model and write its run folder. Returns the folder and the record.

    Raises UsageError for bad input, before anything is written. Whatever is raised, no process and no
    half-written run is left behind.
    """
    ref = check(options)
    rules, defects = load_rules(options.tolerances), load_defects()
    stages = _stages(options)
    run_id = next_run_id(options.out, datetime.datetime.now(datetime.UTC))
    parent = options.out / ref.name
    with working_folder(parent, run_id) as folder:
        cache = Cache.temporary(folder / "cache") if options.no_cache else Cache.standard()
        cache.sweep()
        state = Work(options, ref, folder, cache, watcher)
        with state.timed("total"):
            prepared, key = prepare(state)
            mark_run(state.cache, ref.file, *([options.tflite] if options.tflite else []))
            results, comparison = _run_stages(state, prepared, stages, rules)
            audit = results.pop(AUDIT, None)
            state.rests += [_rests_of(audit)] if audit is not None else []
            prepared = _audited(prepared, audit)
            if prepared.audited:
                remember(state.cache, key, prepared, state.rests)
            # Here and not above: these import what computes, which a bad input should not wait for.
            from harness.pipeline.comparison import in_question, with_local_errors
            from harness.pipeline.conclude import conclude
            from harness.render.files import render_all

            with state.timed("local"):
                comparison = with_local_errors(comparison, prepared, folder / "traces", rules)
            with state.timed("locate"):
                closer = _more_local_passes(state, prepared, stages, results, in_question(comparison))
                results |= closer
                if closer:
                    comparison = with_local_errors(comparison, prepared, folder / "traces", rules)
            record, frame = conclude(
                run_id,
                prepared,
                results,
                stages,
                comparison,
                folder / "traces",
                _recorded(options),
                defects,
                rules if options.tolerances else None,
            )
            _read_text(state, record, prepared)
            with state.timed("details"):
                _write_closeup(folder, comparison, frame, prepared)
            record = _explained(state, record, frame, prepared, results)
            save_models(folder, prepared, ref, results, options.tflite)
        record.timings = state.timings
        if options.keep_traces:
            from harness.store.trace import export_npy

            export_npy(folder / "traces")
        with deleting([folder / "cache", *([] if options.keep_traces else [folder / "traces"])]):
            write_record(folder, record, frame)
            render_all(folder, record, frame)
        final = parent / run_id
        folder.rename(final)
    return final, record


def check(options: Options) -> SpecRef:
    """What can be told to be wrong without importing a framework. Returns the model's declaration.

    Raises UsageError.
    """
    ref = find_spec(options.model)
    load_rules(options.tolerances)
    _stages(options)
    _check_files(options)
    return ref


def _stages(options: Options) -> tuple[str, ...]:
    known = [stage.name for stage in every_stage()]
    if not any(options.stages):
        raise UsageError(f"--stages is empty; give some of {', '.join(known)}")
    unknown = [name for name in options.stages if name not in known]
    if unknown:
        raise UsageError(f"unknown stage '{unknown[0]}'; the stages are {', '.join(known)}")
    alone = [stage.name for stage in every_stage() if stage.quantised_only and stage.name in options.stages]
    if alone and not options.quantize:
        raise UsageError(f"{alone[0]} runs quantised files alone; add --quantize RECIPE, or leave it out of --stages")
    kernels = [stage.name for stage in every_stage() if stage.runs_file and stage.name in options.stages]
    quantised = tuple(named(base, recipe) for recipe in options.quantize for base in kernels)
    if options.quantize and not any(hop.on_kernels for hop in hops_of(quantised)):
        raise UsageError(
            f"--quantize compares kernels on the quantised file: --stages needs {BUILTIN}, and {XNNPACK} or {REFERENCE}"
        )
    # Without these two there is no noise floor, and without a noise floor no verdict.
    float32 = tuple(name for name in float32_stages() if name in options.stages or name in (ORACLE, HF))
    _check_compared(options.stages, float32)
    return (*float32, *quantised)


def _check_compared(asked: Sequence[str], stages: tuple[str, ...]) -> None:
    """Raises UsageError where no hop has a stage that was asked for, or there is no hop at all."""
    compared = {name for hop in hops_of(stages) for name in hop.stages}
    for stage in map(stage_named, asked):
        if stage.reference and stage.name not in compared:
            given = ",".join(asked)
            raise UsageError(
                f"--stages {given}: nothing is compared with {stage.name}, whose hop needs '{stage.reference}'; add it"
            )
    if not compared:
        hops = ", ".join(hop.name for hop in standard_hops())
        raise UsageError(f"--stages {','.join(asked)} compares nothing: the hops are {hops}; add '{REAUTHORED}'")


def _check_files(options: Options) -> None:
    """Cheap checks first, so that a typing error costs no import of a framework."""
    if not 0 < options.timeout <= _LONGEST_TIMEOUT:  # NaN too
        raise UsageError(
            f"--timeout {options.timeout:g} must be positive and at most {_LONGEST_TIMEOUT:,}; give seconds, "
            "e.g. --timeout 600"
        )
    if options.layers is not None and options.layers < 1:
        raise UsageError(f"--layers {brief(options.layers)} leaves no model; give 1 or more")
    check_seed(options.seed)
    if any(not prompt.strip() for prompt in options.prompts):
        raise UsageError("--prompt is empty; give some text")
    if options.inputs_file is not None:
        check_jsonl(options.inputs_file)
    if options.checkpoint is not None:
        check_source(options.checkpoint, options.miniature)
    if options.tflite is not None and options.variant.given():
        given = " and ".join(options.variant.given())
        raise UsageError(f"--tflite converts nothing, and {given} says how to convert; leave one of them out")
    if options.tflite is not None and options.quantize:
        raise UsageError("--tflite converts nothing, and --quantize says how to convert; leave one of them out")
    if options.tflite is not None:
        from harness.flatbuffer.integrity import check_integrity

        check_integrity(options.tflite)


def check_seed(seed: int) -> None:
    """Raises UsageError for what the generators of random numbers do not take."""
    if seed < 0:
        raise UsageError(f"--seed {brief(seed)} is negative; give 0 or more")
    if seed >= _SEEDS:
        raise UsageError(f"--seed {brief(seed)} is too large; give a number below 2^64, e.g. --seed 1")


def prepare(state: Work) -> tuple[Prepared, str | None]:
    """What a run rests on, and the key to remember it by."""
    options = state.options
    request = Request(
        spec_file=str(state.ref.file.resolve()),
        spec_variable=state.ref.variable,
        checkpoint=options.checkpoint,
        miniature=options.miniature,
        layers=options.layers,
        seed=options.seed,
        tflite=str(options.tflite.resolve()) if options.tflite else None,
        prompts=list(options.prompts),
        inputs_file=str(options.inputs_file.resolve()) if options.inputs_file else None,
        variant=options.variant,
        quantize=list(options.quantize),
        cache_root=str(state.cache.root),
    )
    with state.timed("prepare"):
        key = recall_key(request)
        known = recall(state.cache, key)
        if known is not None:
            return known, key
        task = Task(
            "prepare", _PREPARE, {**request.model_dump(), RESTS: True}, Preparation, torch=True, timeout=options.timeout
        )
        result = run_tasks([task], state.log, state.watcher)["prepare"]
        prepared = result.gave(Preparation)
        if prepared is None:
            raise _not_prepared(state, result)
        state.rests = [prepared.rests]
        return prepared, key


def _audited(prepared: Prepared, audit: TaskResult | None) -> Prepared:
    """With the findings of the config audit. An audit that did not end is a finding too: the stages tell the rest."""
    if audit is None:
        return prepared
    audited = audit.gave(Audited)
    if audited is None:
        lost = Finding(kind="config", severity="warning", what=f"the configs are not audited: {audit.detail}")
        return prepared.model_copy(update={"findings": [lost, *prepared.findings]})
    return prepared.model_copy(update={"findings": [*audited.findings, *prepared.findings], "audited": True})


def _rests_of(audit: TaskResult) -> Rests | None:
    """What an audit rests on; None where it does not say."""
    audited = audit.gave(Audited)
    return audited.rests if audited is not None else None


def _not_prepared(state: Work, result: TaskResult) -> Exception:
    """Whose fault it is that the preparation broke off: the declaration's, where its code is on the way, else ours."""
    lines = [line.strip() for line in state.log.read_text(errors="replace").splitlines() if line.strip()]
    frames = [line for line in lines if line.startswith("File ")]
    said, spec = result.detail.split(";")[0], state.ref.file.resolve()
    theirs = [frame for frame in frames if frame.startswith(f'File "{spec}"')]
    if SERVER_LOST in said or (frames and not theirs):
        return TaskFaultError(f"preparing {state.ref.file} broke off with {said} ({' '.join(frames[-1:])})")
    place = theirs[-1] if theirs else "no further word in the log"
    return UsageError(f"{state.ref.file}: could not be prepared: {said} ({place}); fix the spec file")


def place_of(state: Work) -> RunPaths:
    tflite = state.options.tflite
    return RunPaths(
        spec_file=str(state.ref.file.resolve()),
        spec_variable=state.ref.variable,
        cache_root=str(state.cache.root),
        traces=state.folder / "traces",
        tflite=tflite.resolve() if tflite else None,
        timeout=state.options.timeout,
    )


def _run_stages(
    state: Work, prepared: Prepared, stages: tuple[str, ...], rules: list[Rule]
) -> tuple[dict[str, TaskResult], Comparison]:
    """Every stage on all inputs, and its local pass on the few that are looked at in every run.

    While local passes run, this process compares what the stages left.
    """
    longest = max(len(item.tokens) for item in prepared.inputs)
    check_all_judged(rules, prepared.model, hops_of(stages), prepared.taps, longest, state.options.tolerances)
    place = place_of(state)
    tasks = stage_tasks(place, prepared, stages) + local_tasks(place, prepared, stages, inputs_for_local(prepared))
    threading.Thread(target=_import_what_computes, daemon=True).start()

    def work(results: Results, still_wanted: StillWanted) -> Comparison:
        from harness.pipeline.comparison import compare

        def progress(done: int, total: int) -> None:
            still_wanted()
            state.watcher.progress("compare", done, total, "taps")

        with state.timed("compare"):
            return compare(prepared, results, stages, rules, place.traces, progress)

    with in_background(state.watcher, stages, work) as under_way:
        with state.timed("stages"):
            results = _processes(state, prepared, tasks, under_way)
        return results, under_way.result()


def _import_what_computes() -> None:
    """While the stages run, this process waits; afterwards it would wait for these."""
    for name in (
        "harness.pipeline.conclude",
        "harness.compare.kernels",
        "harness.compare.closeup",
        "harness.render.files",
    ):
        importlib.import_module(name)


def _more_local_passes(
    state: Work, prepared: Prepared, stages: tuple[str, ...], results: Results, inputs: Sequence[str]
) -> dict[str, TaskResult]:
    """Local passes on the inputs that show a fault and that nobody has looked at yet."""
    more = [item for item in inputs if item not in inputs_for_local(prepared)]
    tasks = [
        replace(task, needs=(), payload=task.payload(results) if callable(task.payload) else task.payload)
        for task in (local_tasks(place_of(state), prepared, stages, more) if more else [])
        if all(results[name].status == "ok" for name in task.needs)
    ]
    return _processes(state, prepared, tasks)


def _processes(
    state: Work, prepared: Prepared, tasks: list[Task], watcher: Watcher | None = None
) -> dict[str, TaskResult]:
    # Whoever could convert the model has this much; stages that overlap take no more.
    budget = min(0.8 * memory().free / 1e6, max(_OVERLAP_MB, conversion_mb(prepared)))
    return run_tasks(tasks, state.log, watcher or state.watcher, cores=os.cpu_count() or 1, memory_mb=budget)


def _write_closeup(folder: Path, comparison: Any, frame: Any, prepared: Prepared) -> None:
    """What single positions and tokens came to, while the traces are still there."""
    from harness.compare.closeup import closeup_of
    from harness.record.details import write_details

    inputs = [(item.id, item.tokens) for item in prepared.inputs]
    write_details(folder, closeup_of(folder / "traces", comparison, frame, inputs, Path(prepared.checkpoint)))


def _read_text(state: Work, record: Record, prepared: Prepared) -> None:
    """Say how well the reference predicts the text inputs, and warn where no working model would do so badly."""
    from harness.compare.likelihood import likelihood_findings, likelihood_of, with_earlier

    found = likelihood_of(state.folder / "traces", record.inputs, prepared.dimensions.tokens)
    if found is not None:
        record.likelihood = with_earlier(found, record.inputs, state.options.out, state.ref.name)
        record.findings += likelihood_findings(record.likelihood, trained=prepared.layers is None)


def _explained(state: Work, record: Record, frame: Any, prepared: Prepared, results: dict[str, TaskResult]) -> Record:
    """With the causes of its faults and the operators that cause them, while the traces are still there."""
    from harness.explain.task import EXPLAIN, explain_task, explained
    from harness.pipeline.operators import descended, descents

    spec = (str(state.ref.file.resolve()), state.ref.variable)
    converted, tapped = results.get("convert"), results.get("tap")
    made = converted.gave(Converted) if converted is not None else None
    aligned = tapped.gave(Tapped) if tapped is not None else None
    own = state.options.tflite
    flatbuffer = str(own.resolve()) if own else made.flatbuffer if made is not None else ""
    plan = aligned.plan if aligned is not None else ""
    causes = explain_task(record, frame, prepared, spec, state.folder / "traces", state.folder, flatbuffer, plan)
    if causes is None:
        return record
    operators = descents(place_of(state), prepared, record, results)
    with state.timed("explain"):  # neither reads what the other finds
        ended = _processes(state, prepared, [causes, *operators.values()])
    found = descended(record, operators, ended) if operators else record
    return explained(found, ended[EXPLAIN])


def _recorded(options: Options) -> dict[str, object]:
    """What was asked for, as the record shows it."""
    return {
        "command": ["edge-parity", *sys.argv[1:]],
        "checkpoint": options.checkpoint,
        "miniature": options.miniature,
        "layers": options.layers,
        "tflite": str(options.tflite) if options.tflite else None,
        "stages": list(options.stages),
        "quantize": list(options.quantize),
        "prompts": list(options.prompts),
        "inputs": str(options.inputs_file) if options.inputs_file else None,
        "seed": options.seed,
        "tolerances": str(options.tolerances) if options.tolerances else "defaults",
    }
