"""The processes of a run: which there are, what each needs, and what it is told.

In: a prepared model. Out: tasks for `stages/process.py`; the stages' jobs are made when what they need is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.inputs.tokens import schedule_of
from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput, TwinJob
from harness.jobs.prepared import ConvertRequest, ModelRequest, Prepared, QuantiseRequest, TapRequest
from harness.jobs.results import Audited, Converted, Descended, Tapped, facts_of
from harness.names.memory import Long
from harness.names.recipes import widened_by
from harness.names.stages import FLOAT, ORACLE, Hop, Stage, local_reference, named, on_route, runs_file, stage_named
from harness.names.taps import LOCAL_SUFFIX
from harness.pipeline.conversions import is_kept, key_of_recipe
from harness.pipeline.hop_groups import HopGroup
from harness.processes.scheduler import Payload, Results, Task
from harness.record.sensitivity import AloneCosts, Sensitivity
from harness.store.cache import Cache

AUDIT = "audit"
SENSITIVITY = "sensitivity"
_RUN = "harness.jobs.session:run"
_RUN_WITH_LAWS = "harness.laws.job:run"
_AUDIT_SECONDS = 120.0  # it takes one or two; a model that hangs in it hangs in its stage as well
# Positions. For a few rows torch takes kernels that round less than those for many, which others' stages do not: on 6
# positions faithful models have a local excess of 2.5, on 22 one of 1.4.
_ENOUGH = 16
_DESCEND_SECONDS = 300.0
_COMPARE_SECONDS = 1.8  # a hop, as the stages' own seconds are


@dataclass(frozen=True)
class RunPaths:
    """Where a run reads and writes; absolute paths. tflite: the user's own flatbuffer, if there is one."""

    spec_file: str
    spec_variable: str
    cache_root: str
    traces: Path
    tflite: Path | None
    timeout: float


@dataclass(frozen=True)
class StageFiles:
    """What a stage that runs a flatbuffer is given; nothing for the others."""

    flatbuffer: Path | None = None
    tapped: Path | None = None
    plan: Path | None = None


def stage_tasks(
    place: RunPaths, prepared: Prepared, stages: tuple[str, ...], laws: JobInput | None = None
) -> list[Task]:
    """Every process of a run but the local passes.

    laws: what the laws of each stage that can be driven are checked on, in its own process; None: they are not.
    """
    timeout, tasks = place.timeout, file_tasks(place, prepared, stages)
    for stage in map(stage_named, stages):
        memory_mb, seconds = load_of(stage, prepared)
        text = prepared.text.windows if runs_text(stage, prepared) else ()
        asked = laws if stage.drives else None
        tasks.append(
            Task(
                stage.name,
                _RUN if asked is None else _RUN_WITH_LAWS,
                _job_maker(place, prepared, stage, text=text, laws=asked),
                Facts,
                needs=(
                    *stage.needs,
                    *(twin for twin in (stage.twin,) if twin in stages),
                    *((named("tap", stage.recipe),) if stage.reads_file else ()),
                ),
                memory_mb=memory_mb,
                torch=not stage.runs_file,
                timeout=timeout,
                seconds=seconds,
            )
        )
    if not prepared.audited:
        tasks.append(
            Task(
                AUDIT,
                "harness.audit.job:audit_run",
                _model_request(place, prepared).model_dump(mode="json"),
                Audited,
                memory_mb=150,
                torch=True,
                timeout=min(timeout, _AUDIT_SECONDS),
            )
        )
    return tasks


def file_tasks(place: RunPaths, prepared: Prepared, stages: Sequence[str]) -> list[Task]:
    """What makes the files that some stages read: conversions, and their tapped copies with the plans."""
    common, tasks = _model_request(place, prepared), []
    for recipe in dict.fromkeys(stage.recipe for stage in map(stage_named, stages) if stage.reads_file):
        if place.tflite is None:
            tasks.append(_convert_task(place, prepared, common, recipe))
        tasks.append(_tap_task(place, common, prepared.weights_mb, place.timeout, recipe))
    return tasks


def _model_request(place: RunPaths, prepared: Prepared) -> ModelRequest:
    return ModelRequest(
        prepared=prepared,
        cache_root=place.cache_root,
        spec_file=place.spec_file,
        spec_variable=place.spec_variable,
    )


def local_tasks(place: RunPaths, prepared: Prepared, stages: tuple[str, ...], inputs: Sequence[str]) -> list[Task]:
    """Local passes of the stages over some inputs, by id: each needs the stage itself and its reference."""
    tasks = []
    for stage in map(stage_named, stages):
        reference = local_reference(stage, stages)
        if reference in stages:
            memory_mb, seconds = load_of(stage, prepared)
            tasks.append(
                Task(
                    stage.name + LOCAL_SUFFIX,
                    _RUN,
                    _job_maker(place, prepared, stage, reference, inputs),
                    Facts,
                    needs=(reference, stage.name),
                    memory_mb=memory_mb,
                    torch=not stage.runs_file,
                    timeout=place.timeout,
                    seconds=seconds / 4,
                )
            )
    return tasks


def load_of(stage: Stage, prepared: Prepared) -> tuple[float, float]:
    """MB and seconds of a stage's process."""
    dims, longest = prepared.dimensions, max((len(item.tokens) for item in prepared.inputs), default=0)
    row = 2 * dims.head_dim * sum(dims.layout_of(block).kv_heads for block in range(dims.blocks))
    long = Long.of(prepared.kv_cache_len, row, longest, dims.vocab)
    return stage.load(prepared.weights_mb, widened_by(prepared.recipes.get(stage.recipe, [])), long)


def compared_after(group: HopGroup) -> Task:
    """What stands for the comparison of hops, which this process makes, where tasks are put in order."""
    return Task(group.name, "", {}, needs=group.stages, memory_mb=0, seconds=_COMPARE_SECONDS * len(group.hops))


def runs_text(stage: Stage, prepared: Prepared) -> bool:
    """Whether perplexity is measured on a stage: not on the oracle, since float32 is what everything comes from, nor on
    the kernels of the float32 file where recipes are judged."""
    return stage.name != ORACLE and (stage.recipe != FLOAT or not stage.runs_file or not prepared.recipes)


def is_local_pass(task: str) -> bool:
    return task.endswith(LOCAL_SUFFIX)


def descend_task(
    place: RunPaths, prepared: Prepared, hop: Hop, taps: Mapping[str, int | None], results: Results
) -> Task:
    """Find the operators that make taps that are wrong in a hop's TFLite stage. results: those of the stages.

    taps: each with the position of a step to look at, where decode alone has it wrong.
    """
    stage = stage_named(hop.candidate)
    payload = _job_maker(place, prepared, stage, hop.reference if runs_file(hop.reference) else "")(results)
    return Task(
        f"{stage.name}.operator",
        "harness.operators.job:run",
        {**payload, "search": list(taps), "search_at": {tap: at for tap, at in taps.items() if at is not None}},
        Descended,
        memory_mb=2 * load_of(stage, prepared)[0],
        torch=True,
        timeout=min(place.timeout, _DESCEND_SECONDS),
    )


def sensitivity_tasks(
    place: RunPaths, prepared: Prepared, stages: Sequence[Stage], results: Results, alone: bool = False
) -> list[Task]:
    """What each tensor of a recipe costs, by the fake-quantised stage of its file. results: those of the stages.

    alone: what each layer costs that alone is quantised, in place of what is gained by putting a tensor back.
    """
    return [
        Task(
            named(SENSITIVITY, stage.recipe),
            "harness.price.sensitivity:run",
            {"job": _job_maker(place, prepared, stage)(results), "alone": alone},
            AloneCosts if alone else Sensitivity,
            memory_mb=load_of(stage, prepared)[0],
            torch=True,
            timeout=place.timeout,
            alone=True,
        )
        for stage in stages
    ]


def inputs_for_local(prepared: Prepared) -> list[str]:
    """The shortest input that runs every signature in use; where none does, the shortest that do together.

    Of those that do, the shortest with enough positions for a noise floor, if there is one.
    """
    used = {
        item.id: {step.signature for step in schedule_of(item, prepared)}
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


def _convert_task(place: RunPaths, prepared: Prepared, common: ModelRequest, recipe: str) -> Task:
    """Finding a conversion is quick and small; making one needs the frameworks and all the memory there is."""
    if recipe != FLOAT and recipe not in prepared.converted:
        return _quantise_task(place, prepared, common, recipe)
    cached = is_kept(Cache(Path(place.cache_root)), key_of_recipe(prepared, recipe), Path(common.spec_file))
    return Task(
        named("convert", recipe),
        "harness.pipeline.flatbuffers:convert_model",
        ConvertRequest(**dict(common), recipe=recipe).model_dump(mode="json"),
        Converted,
        memory_mb=100 if cached else conversion_mb(prepared),
        torch=not cached,
        timeout=place.timeout,
        seconds=2 if cached else 100,
    )


def _quantise_task(place: RunPaths, prepared: Prepared, common: ModelRequest, recipe: str) -> Task:
    def payload(results: Results) -> Payload:
        made = results["convert"].gave(Converted)
        assert made is not None, "it is needed by this task"
        told = QuantiseRequest(**dict(common), recipe=recipe, flatbuffer=made.flatbuffer, sha256=made.sha256)
        return told.model_dump(mode="json")

    return Task(
        named("convert", recipe),
        "harness.pipeline.flatbuffers:quantise_model",
        payload,
        Converted,
        needs=("convert",),
        memory_mb=3 * prepared.weights_mb + 300,
        timeout=place.timeout,
    )


def _tap_task(place: RunPaths, common: ModelRequest, weights: float, timeout: float, recipe: str) -> Task:
    own, convert = place.tflite, named("convert", recipe)

    def payload(results: Results) -> Payload:
        if own is not None:
            return TapRequest(**dict(common), recipe=recipe, flatbuffer=str(own)).model_dump(mode="json")
        made = results[convert].gave(Converted)
        assert made is not None, "it is needed by this task"
        plain, aligned = _float32_of(recipe, results)
        told = TapRequest(
            **dict(common),
            recipe=recipe,
            flatbuffer=made.flatbuffer,
            sha256=made.sha256,
            float32=plain,
            float32_plan=aligned,
        )
        return told.model_dump(mode="json")

    return Task(
        named("tap", recipe),
        "harness.pipeline.flatbuffers:tap_flatbuffer",
        payload,
        Tapped,
        needs=() if own is not None else (convert, *(("tap",) if recipe != FLOAT else ())),
        memory_mb=weights + 400,
        timeout=timeout,
    )


def _float32_of(recipe: str, results: Results) -> tuple[str, str]:
    """The file that a recipe was applied to, and the plan of its taps; empty for that file itself."""
    if recipe == FLOAT:
        return "", ""
    plain, aligned = results["convert"].gave(Converted), results["tap"].gave(Tapped)
    assert plain is not None, "it is needed by this task"
    assert aligned is not None, "it is needed by this task"
    return plain.flatbuffer, aligned.plan


def _job_maker(
    place: RunPaths,
    prepared: Prepared,
    stage: Stage,
    reference: str = "",
    only: Sequence[str] = (),
    text: Sequence[JobInput] = (),
    laws: JobInput | None = None,
) -> Callable[[Results], Payload]:
    """reference: the stage whose values a local pass puts in place of its own. only: ids of inputs; none: all.

    text: windows of the text that is measured. laws: what its laws are checked on.
    """

    def payload(results: Results) -> Payload:
        files = _files_of(stage, place, results) if stage.reads_file else StageFiles()
        twin = None if reference else _twin_of(stage, place, results)
        job = Job(
            stage=stage.name,
            opens="harness.jobs.twin:open_session" if twin else on_route(stage, prepared.own_stage).opens,
            own_stage=prepared.own_stage,
            twin=twin,
            spec_file=place.spec_file,
            spec_variable=place.spec_variable,
            checkpoint=Path(prepared.checkpoint),
            dimensions=prepared.dimensions,
            points=prepared.points,
            inputs=[*(item for item in prepared.inputs if not only or item.id in only), *text],
            prefill=prepared.prefill,
            kv_cache_len=prepared.kv_cache_len,
            whole_up_to=prepared.whole_up_to,
            variant=prepared.variant,
            traces=place.traces / stage.name,
            reference=place.traces / reference if reference else None,
            miniature=prepared.miniature,
            layers=prepared.layers,
            threads=1,  # stages overlap: a core each is quicker than all cores for one after the other
            flatbuffer=files.flatbuffer,
            tapped=files.tapped,
            plan=files.plan,
            laws=None if twin else laws,  # those of the twin are its own
        )
        return job.model_dump(mode="json")

    return payload


def job_payload(place: RunPaths, prepared: Prepared, stage: Stage, results: Results) -> Payload:
    """The job of a stage on all inputs. results: of the tasks that made the file that it reads."""
    return _job_maker(place, prepared, stage)(results)


def _twin_of(stage: Stage, place: RunPaths, results: Results) -> TwinJob | None:
    """What a stage takes over; None where it has to compute."""
    told = _told_by_twin(stage, results)
    return TwinJob(traces=place.traces / stage.twin, facts=told) if told is not None else None


def twin_of(stage: Stage, results: Results) -> str:
    """The stage that said that it computes what this one does, bit by bit; empty where none did."""
    return stage.twin if _told_by_twin(stage, results) is not None else ""


def _told_by_twin(stage: Stage, results: Results) -> dict[str, object] | None:
    return facts_of(results, stage.twin).twins.get(stage.base) if stage.twin else None


def _files_of(stage: Stage, place: RunPaths, results: Results) -> StageFiles:
    aligned = results[named("tap", stage.recipe)].gave(Tapped)
    assert aligned is not None, "every job of the stage needs it"
    flatbuffer = place.tflite
    if flatbuffer is None:
        made = results[named("convert", stage.recipe)].gave(Converted)
        assert made is not None, "the tapped copy needs it"
        flatbuffer = Path(made.flatbuffer)
    return StageFiles(flatbuffer, Path(aligned.tapped), Path(aligned.plan))
