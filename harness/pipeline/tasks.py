"""The processes of a run: which there are, what each needs, and what it is told.

In: a prepared model. Out: tasks for `stages/process.py`; the stages' jobs are made when what they need is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.inputs.tokens import schedule
from harness.jobs.job import Job
from harness.jobs.prepared import Prepared
from harness.names.stages import FLOAT, Hop, Stage, every_stage, named, runs_file, stage_named
from harness.names.taps import LOCAL_SUFFIX
from harness.pipeline.conversions import is_kept
from harness.processes.scheduler import Payload, Results, Task
from harness.store.cache import Cache

AUDIT = "audit"
_RUN = "harness.jobs.session:run"
_AUDIT_SECONDS = 120.0  # it takes one or two; a model that hangs in it hangs in its stage as well
# Positions. For a few rows torch takes kernels that round less than those for many, which others' stages do not: on 6
# positions faithful models have a local excess of 2.5, on 22 one of 1.4.
_ENOUGH = 16
_DESCEND_SECONDS = 300.0


@dataclass(frozen=True)
class RunPaths:
    """Where a run reads and writes; absolute paths. tflite: the user's own flatbuffer, if there is one."""

    spec_file: str
    spec_variable: str
    cache_root: str
    traces: Path
    tflite: Path | None
    timeout: float


def stage_tasks(place: RunPaths, prepared: Prepared, stages: tuple[str, ...]) -> list[Task]:
    """Stages in the order that keeps all cores busy: the slowest chain first."""
    weights = prepared.weights_mb
    common: Payload = {
        "prepared": prepared.model_dump(mode="json"),
        "cache_root": place.cache_root,
        "spec_file": place.spec_file,
        "spec_variable": place.spec_variable,
    }
    timeout = place.timeout
    chosen = [stage_named(name) for name in stages]
    tasks = []
    for recipe in dict.fromkeys(stage.recipe for stage in chosen if stage.reads_file):
        if place.tflite is None:
            tasks.append(_convert_task(place, prepared, common, recipe))
        tasks.append(_tap_task(place, common, weights, timeout, recipe))
    for stage in sorted(chosen, key=lambda stage: -stage.cost):
        tasks.append(
            Task(
                stage.name,
                _RUN,
                _job_maker(place, prepared, stage),
                needs=(*stage.needs, *((named("tap", stage.recipe),) if stage.reads_file else ())),
                memory_mb=stage.memory.mb(weights),
                torch=not stage.runs_file,
                timeout=timeout,
            )
        )
    if not prepared.audited:
        tasks.append(
            Task(
                AUDIT,
                "harness.audit.job:audit_run",
                common,
                memory_mb=150,
                torch=True,
                timeout=min(timeout, _AUDIT_SECONDS),
            )
        )
    return tasks


def local_tasks(place: RunPaths, prepared: Prepared, stages: tuple[str, ...], inputs: Sequence[str]) -> list[Task]:
    """Local passes of the stages over some inputs, by id: each needs the stage itself and its reference."""
    return [
        Task(
            stage.name + LOCAL_SUFFIX,
            _RUN,
            _job_maker(place, prepared, stage, stage.local_reference, inputs),
            needs=(stage.local_reference, stage.name),
            memory_mb=stage.memory.mb(prepared.weights_mb),
            torch=not stage.runs_file,
            timeout=place.timeout,
        )
        for stage in every_stage()
        if stage.name in stages and stage.local_reference in stages
    ]


def is_local_pass(task: str) -> bool:
    return task.endswith(LOCAL_SUFFIX)


def descend_task(place: RunPaths, prepared: Prepared, hop: Hop, taps: Sequence[str], results: Results) -> Task:
    """Find the operators that make taps that are wrong in a hop's TFLite stage. results: those of the stages."""
    stage = stage_named(hop.candidate)
    payload = _job_maker(place, prepared, stage, hop.reference if runs_file(hop.reference) else "")(results)
    return Task(
        f"{stage.name}.operator",
        "harness.operators.job:run",
        {**payload, "options": {"taps": list(taps)}},
        memory_mb=2 * stage.memory.mb(prepared.weights_mb),
        torch=True,
        timeout=min(place.timeout, _DESCEND_SECONDS),
    )


def inputs_for_local(prepared: Prepared) -> list[str]:
    """The shortest input that runs every signature in use; where none does, the shortest that do together.

    Of those that do, the shortest with enough positions for a noise floor, if there is one.
    """
    used = {
        item.id: {
            step.signature
            for step in schedule(len(item.tokens), item.decode_tail, prepared.prefill, prepared.kv_cache_len)
        }
        for item in sorted(prepared.inputs, key=lambda item: len(item.tokens))
    }
    every = set().union(*used.values())
    whole = [item for item, signatures in used.items() if signatures == every]
    if whole:
        lengths = {item.id: len(item.tokens) for item in prepared.inputs}
        return [next((item for item in whole if lengths[item] >= _ENOUGH), whole[-1])]
    chosen: list[str] = []
    for item, signatures in used.items():
        if not signatures <= set().union(*(used[one] for one in chosen)):
            chosen.append(item)
    return chosen


def conversion_mb(prepared: Prepared) -> float:
    """Peak memory of a conversion. Measured: 3.2 times the weights, and 1.6 GB of frameworks."""
    return 3.2 * prepared.weights_mb + 1600


def _convert_task(place: RunPaths, prepared: Prepared, common: Payload, recipe: str) -> Task:
    """Finding a conversion is quick and small; making one needs the frameworks and all the memory there is."""
    key = prepared.conversion_key if recipe == FLOAT else prepared.quantized_keys[recipe]
    cached = is_kept(Cache(Path(place.cache_root)), key, Path(common["spec_file"]))
    return Task(
        named("convert", recipe),
        "harness.pipeline.flatbuffers:convert_model",
        {**common, "recipe": recipe},
        memory_mb=100 if cached else conversion_mb(prepared),
        torch=not cached,
        timeout=place.timeout,
    )


def _tap_task(place: RunPaths, common: Payload, weights: float, timeout: float, recipe: str) -> Task:
    own, convert = place.tflite, named("convert", recipe)

    def payload(results: Results) -> Payload:
        if own is not None:
            return {**common, "flatbuffer": str(own)}
        return {**common, "recipe": recipe, **results[convert].value}

    return Task(
        named("tap", recipe),
        "harness.pipeline.flatbuffers:tap_flatbuffer",
        payload,
        needs=() if own is not None else (convert,),
        memory_mb=weights + 400,
        timeout=timeout,
    )


def _job_maker(
    place: RunPaths, prepared: Prepared, stage: Stage, reference: str = "", only: Sequence[str] = ()
) -> Callable[[Results], Payload]:
    """reference: the stage whose values a local pass puts in place of its own. only: ids of inputs; none: all."""

    def payload(results: Results) -> Payload:
        flatbuffer: dict[str, Any] = {}
        if stage.reads_file:
            own, recipe = place.tflite, stage.recipe
            tapped = results[named("tap", recipe)].value
            flatbuffer = {
                "flatbuffer": own if own else results[named("convert", recipe)].value["flatbuffer"],
                "tapped": tapped["tapped"],
                "plan": tapped["plan"],
            }
        job = Job(
            stage=stage.name,
            opens=stage.opens,
            spec_file=place.spec_file,
            spec_variable=place.spec_variable,
            checkpoint=Path(prepared.checkpoint),
            dimensions=prepared.dimensions,
            points=prepared.points,
            inputs=[item for item in prepared.inputs if not only or item.id in only],
            prefill=prepared.prefill,
            kv_cache_len=prepared.kv_cache_len,
            variant=prepared.variant,
            traces=place.traces / stage.name,
            reference=place.traces / reference if reference else None,
            miniature=prepared.miniature,
            layers=prepared.layers,
            threads=1,  # stages overlap: a core each is quicker than all cores for one after the other
            **flatbuffer,
        )
        return job.model_dump(mode="json")

    return payload
