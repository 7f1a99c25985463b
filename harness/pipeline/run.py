"""The run: spec -> checkpoint -> inputs -> stages -> compare -> judge -> local passes -> locate -> record.

In: what the command line asked for. Out: a run folder and its record. This is the one place that knows the
order of the steps; each step is a file of its own.
"""

from __future__ import annotations

import datetime
import importlib
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted, Tapped
from harness.judge.known_defects import load_defects
from harness.judge.rules import Rule, check_all_judged, load_rules
from harness.names.stages import HF, Stage, hops_of, on_route, stage_named
from harness.pipeline.background import StillWanted, in_background
from harness.pipeline.early import check_room
from harness.pipeline.hop_groups import HopGroup, hop_groups
from harness.pipeline.laws import law_findings, law_results, laws_input
from harness.pipeline.options import Options, check, recorded, stages_of
from harness.pipeline.prepared_cache import remember
from harness.pipeline.preparing import audit_rests, audited, prepare
from harness.pipeline.run_models import save_models
from harness.pipeline.speed import with_speed
from harness.pipeline.tasks import (
    AUDIT,
    compared_after,
    inputs_for_local,
    local_tasks,
    sensitivity_tasks,
    stage_tasks,
)
from harness.pipeline.work import Work, place_of, processes
from harness.processes.scheduler import Results, TaskResult, Watcher
from harness.record.record import Finding, Record, write_record
from harness.record.runs import next_run_id
from harness.spec.find import own_stage
from harness.spec.trust import mark_run
from harness.store.cache import Cache
from harness.store.run_folder import deleting, working_folder

if TYPE_CHECKING:
    import pandas as pd

    from harness.compare.joined import KnownFloors
    from harness.compare.traces import Comparison
    from harness.record.generation import Generation


def run(options: Options, watcher: Watcher) -> tuple[Path, Record]:
    """Run a model and write its run folder. Returns the folder and the record.

    Raises UsageError for bad input, before anything is written. Whatever is raised, no process and no
    half-written run is left behind.
    """
    ref = check(options)
    run_id = next_run_id(options.out, datetime.datetime.now(datetime.UTC))
    parent = options.out / ref.name
    with working_folder(parent, run_id) as folder:
        cache = Cache.temporary(folder / "cache") if options.no_cache else Cache.standard()
        cache.sweep()
        state = Work(options, ref, folder, cache, watcher, run_id)
        with state.timed("total"):
            record, frame = _record_of(state)
        record.timings = state.timings
        _write(state, record, frame)
        final = parent / run_id
        folder.rename(final)
    return final, record


def _record_of(state: Work) -> tuple[Record, pd.DataFrame]:
    """Every step of the run but the last, which writes what they found."""
    options, traces = state.options, state.folder / "traces"
    rules, stages = load_rules(options.tolerances), stages_of(options, own_stage(state.ref))
    prepared, key = prepare(state)
    check_room(options, prepared.kv_cache_len)
    mark_run(state.cache, state.ref.file, *([options.tflite] if options.tflite else []))
    results, comparison = run_stages(state, prepared, stages, rules)
    audit = results.pop(AUDIT, None)
    state.rests += [audit_rests(audit)] if audit is not None else []
    prepared = audited(prepared, audit)
    if prepared.audited:
        remember(state.cache, key, prepared, state.rests)
    # Here and not above: these import what computes, which a bad input should not wait for.
    from harness.pipeline.conclude import conclude

    results, comparison = _with_local_passes(state, prepared, stages, rules, results, comparison)
    results |= _sensitivities(state, prepared, stages, results, comparison)
    generation, more, generating = _generation(state, prepared, stages, results)
    results |= generating
    laws = law_results(prepared, options, results, stages, traces, rules)
    record, frame = conclude(
        state.run_id,
        prepared,
        results,
        stages,
        comparison,
        traces,
        recorded(options, prepared.own_stage),
        load_defects(),
        rules if options.tolerances else None,
        place_of(state).tflite,
        generation,
        [*more, *law_findings(laws, results)],
        laws,
    )
    _read_text(state, record, prepared)
    with state.timed("details"):
        _write_closeup(state.folder, comparison, frame, prepared)
    record = _explained(state, record, frame, prepared, results)
    if options.speed:
        record = with_speed(record, state, prepared, stages, results)
    save_models(state.folder, prepared, state.ref, results, options.tflite)
    return record, frame


def _with_local_passes(
    state: Work,
    prepared: Prepared,
    stages: tuple[str, ...],
    rules: list[Rule],
    results: dict[str, TaskResult],
    comparison: Comparison,
) -> tuple[dict[str, TaskResult], Comparison]:
    """What is introduced at each tap of the inputs that every run looks at, and of those that show a fault."""
    from harness.pipeline.comparison import in_question, with_local_errors

    traces = state.folder / "traces"
    with state.timed("local"):
        comparison = with_local_errors(comparison, prepared, traces, rules)
    with state.timed("locate"):
        closer = _more_local_passes(state, prepared, stages, results, in_question(comparison))
        if closer:
            comparison = with_local_errors(comparison, prepared, traces, rules)
    return results | closer, comparison


def _sensitivities(
    state: Work, prepared: Prepared, stages: tuple[str, ...], results: dict[str, TaskResult], comparison: Comparison
) -> dict[str, TaskResult]:
    """What each tensor costs: of every recipe where that was asked for, else of those whose price breaks a limit."""
    from harness.pipeline.comparison import failing_hops

    dear = {hop.candidate for hop in failing_hops(comparison)}
    chosen: dict[str, Stage] = {}
    for stage in map(stage_named, stages):
        wanted = on_route(stage, prepared.own_stage).switches and (state.options.sensitivity or stage.name in dear)
        if wanted and results[stage.name].status == "ok":
            chosen.setdefault(stage.recipe, stage)
    if not chosen:
        return {}
    with state.timed("sensitivity"):
        return processes(state, prepared, sensitivity_tasks(place_of(state), prepared, list(chosen.values()), results))


def _generation(
    state: Work, prepared: Prepared, stages: tuple[str, ...], results: dict[str, TaskResult]
) -> tuple[Generation | None, list[Finding], dict[str, TaskResult]]:
    """What the stages that ended well generate, where that was asked for, what is wrong with it, and how the processes
    ended.
    """
    if not state.options.generate:
        return None, [], {}
    with state.timed("generate"):
        ran = [name for name in stages if results[name].status == "ok"]
        return generated(state, prepared, ran, results)


def generated(
    state: Work, prepared: Prepared, stages: Sequence[str], results: Results
) -> tuple[Generation | None, list[Finding], dict[str, TaskResult]]:
    """What stages generate, what is wrong with it, and how the processes ended. results: of the tasks that made the
    files that they read.
    """
    from harness.pipeline.engine import engine_tasks
    from harness.pipeline.generation import (
        Asked,
        generate_tasks,
        generation_findings,
        generation_of,
        prompts_of,
        task_of,
        with_twins,
    )
    from harness.pipeline.loops import loop_tasks

    place, asked = place_of(state), Asked(state.options.generate, state.options.chat)
    tasks = generate_tasks(place, prepared, stages, results, asked.tokens)
    prompts = prompts_of(prepared)
    loops = loop_tasks(place, prepared, stages, prompts, asked.tokens, asked.chat, task_of)
    engine = engine_tasks(place, prepared, stages, prompts, asked.tokens, results, task_of)
    ended = processes(state, prepared, [*tasks, *loops.tasks.values(), *engine.tasks.values()])
    whole = with_twins(ended, stages, results)
    found = generation_of(place, prepared, whole, asked, {**loops.not_run, **engine.not_run})
    return found, generation_findings(found, whole), ended


def _write(state: Work, record: Record, frame: pd.DataFrame) -> None:
    """The record, every page that is made of it, and the traces where they were asked for."""
    from harness.render.files import render_all

    keep = state.options.keep_traces
    if keep:
        from harness.store.trace import export_npy

        export_npy(state.folder / "traces")
    with deleting([state.folder / "cache", *([] if keep else [state.folder / "traces"])]):
        write_record(state.folder, record, frame)
        render_all(state.folder, record, frame)


def run_stages(
    state: Work, prepared: Prepared, stages: tuple[str, ...], rules: list[Rule]
) -> tuple[dict[str, TaskResult], Comparison]:
    """Every stage on all inputs, and its local pass on the few that are looked at in every run.

    While local passes run, this process compares what the stages left.
    """
    longest = max(len(item.tokens) for item in prepared.inputs)
    check_all_judged(rules, prepared.model, hops_of(stages), prepared.taps, longest, state.options.tolerances)
    place = place_of(state)
    tasks = stage_tasks(place, prepared, stages, laws_input(prepared, state.options))
    tasks += local_tasks(place, prepared, stages, inputs_for_local(prepared))
    threading.Thread(target=_import_what_computes, daemon=True).start()

    groups, floors = hop_groups(stages), lru_cache(_known_floors)
    after = [compared_after(group) for group in groups]
    with ExitStack() as stack:
        watcher, parts = state.watcher, []
        for group in groups:
            work = partial(_compare, state, prepared, group, rules, floors)
            parts.append(stack.enter_context(in_background(watcher, group.stages, work)))
            watcher = parts[-1]
        with state.timed("stages"):
            results = processes(state, prepared, tasks, watcher, after)
        found = [part.result() for part in parts]
        from harness.pipeline.comparison import whole

        return results, whole(found, prepared, results, stages, rules, place.tflite)


def _known_floors() -> KnownFloors:
    from harness.compare.joined import KnownFloors

    return KnownFloors()


def _compare(
    state: Work,
    prepared: Prepared,
    group: HopGroup,
    rules: list[Rule],
    floors: Callable[[], KnownFloors],
    results: Results,
    still_wanted: StillWanted,
) -> Comparison:
    """Compare the hops of a group while other stages run."""
    from harness.pipeline.comparison import compare

    def progress(done: int, total: int) -> None:
        still_wanted()
        state.watcher.progress(group.name, done, total, "taps")

    with state.timed(group.name):
        return compare(prepared, results, group, rules, place_of(state).traces, floors(), progress)


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
    return processes(state, prepared, tasks)


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
    from harness.pipeline.comparison import plans_of
    from harness.pipeline.operators import descent_tasks, with_operators

    if prepared.own_stage == HF:  # causes and operators are looked for between two versions in PyTorch and the file
        why = "causes are not looked for in models that are exported as they are"
        said = [f"{fault.hop} at {fault.tap}: {why}" for fault in record.faults]
        return record.model_copy(update={"unexplained": said})
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
    operators = descent_tasks(place_of(state), prepared, record, results)
    with state.timed("explain"):  # neither reads what the other finds
        ended = processes(state, prepared, [causes, *operators.values()])
    plans = plans_of(results, tuple(fault.between.candidate for fault in record.faults))
    found = with_operators(record, operators, ended, plans) if operators else record
    return explained(found, ended[EXPLAIN])
