"""The processes of a run: which there are, what each needs, and what it is told.

In: a prepared model. Out: tasks for `stages/process.py`; the stages' jobs are made when what they need is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cache import Cache
from harness.conversion_reads import changed_since
from harness.convert import CONVERSIONS
from harness.inputs import schedule
from harness.recipes import FLOAT, KERNELS, named, split
from harness.stages.job import Job
from harness.stages.process import Payload, Results, Task
from harness.stages.request import Prepared
from harness.taps import LOCAL_SUFFIX

DEVICE_STAGES = ("tflite-xnnpack", "tflite-builtin")
STAGES = ("oracle", "hf", "reauthored", *DEVICE_STAGES)
AUDIT = "audit"
_AUDIT_SECONDS = 120.0  # it takes one or two; a model that hangs in it hangs in its stage as well
_RUNNERS = {
    "oracle": "harness.stages.entry:hf",
    "hf": "harness.stages.entry:hf",
    "reauthored": "harness.stages.entry:reauthored",
    **dict.fromkeys(KERNELS, "harness.stages.entry:tflite"),
}
# What a local pass of a stage runs, and the stage whose values it puts in place of its own.
_LOCAL = {
    "hf": ("harness.stages.entry:hf", "oracle"),
    "reauthored": ("harness.stages.entry:reauthored", "oracle"),
    "tflite-xnnpack": ("harness.stages.entry:local_tflite", "reauthored"),
    "tflite-builtin": ("harness.stages.entry:local_tflite", "reauthored"),
}
# Positions. For a few rows torch takes kernels that round less than those for many, which others' stages do not: on 6
# positions faithful models have a local excess of 2.5, on 22 one of 1.4.
_ENOUGH = 16
_DESCEND_SECONDS = 300.0
LOCAL_PASSES = tuple(name + LOCAL_SUFFIX for name in _LOCAL)


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes; absolute paths. tflite: the user's own flatbuffer, if there is one."""

    spec_file: str
    spec_variable: str
    cache_root: str
    traces: Path
    tflite: Path | None
    timeout: float


def stage_tasks(place: Place, prepared: Prepared, stages: tuple[str, ...]) -> list[Task]:
    """Stages in the order that keeps all cores busy: the slowest chain first."""
    weights = prepared.source.parameters * 4 / 1e6
    common: Payload = {
        "prepared": prepared.model_dump(mode="json"),
        "cache_root": place.cache_root,
        "spec_file": place.spec_file,
        "spec_variable": place.spec_variable,
    }
    timeout = place.timeout
    memory_of = _memory_of(weights)
    tasks = []
    device = [name for name in stages if is_device(name)]
    for recipe in dict.fromkeys(split(name)[1] for name in device):
        if place.tflite is None:
            tasks.append(_convert_task(place, prepared, common, recipe))
        tasks.append(_tap_task(place, common, weights, timeout, recipe))
    # The longest first, so that no core waits for a long one at the end; but the oracle's memory fits beside few
    # others, and every local pass waits for it.
    order = ("tflite-reference", "tflite-builtin", "oracle", "hf", "tflite-xnnpack", "reauthored")
    for name in sorted(stages, key=lambda stage: order.index(split(stage)[0])):
        base, recipe = split(name)
        tasks.append(
            Task(
                name,
                _RUNNERS[base],
                _job_maker(place, prepared, name),
                needs=(named("tap", recipe),) if name in device else (),
                memory_mb=memory_of[base],
                torch=name not in device,
                timeout=timeout,
            )
        )
    if not prepared.audited:
        tasks.append(
            Task(
                AUDIT,
                "harness.audit.work:audit_run",
                common,
                memory_mb=150,
                torch=True,
                timeout=min(timeout, _AUDIT_SECONDS),
            )
        )
    return tasks


def local_tasks(place: Place, prepared: Prepared, stages: tuple[str, ...], inputs: Sequence[str]) -> list[Task]:
    """Local passes of the stages over some inputs, by id: each needs the stage itself and its reference."""
    memory_of = _memory_of(prepared.source.parameters * 4 / 1e6)
    return [
        Task(
            name + LOCAL_SUFFIX,
            target,
            _job_maker(place, prepared, name, reference, inputs),
            needs=(reference, name),
            memory_mb=memory_of[name],
            torch=name not in DEVICE_STAGES,
            timeout=place.timeout,
        )
        for name, (target, reference) in _LOCAL.items()
        if name in stages and reference in stages
    ]


def descend_task(place: Place, prepared: Prepared, hop: tuple[str, str], taps: Sequence[str], results: Results) -> Task:
    """Find the operators behind taps that are wrong in a hop's TFLite stage. results: those of the stages."""
    source, stage = hop
    payload = _job_maker(place, prepared, stage, source if is_device(source) else "")(results)
    return Task(
        f"{stage}.operator",
        "harness.stages.entry:descend",
        {**payload, "options": {"taps": list(taps)}},
        memory_mb=2 * _memory_of(prepared.source.parameters * 4 / 1e6)[split(stage)[0]],
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


def _memory_of(weights: float) -> dict[str, float]:
    """Memory of each stage in MB. weights: those of the model in float32."""
    # Measured on SmolLM2, beyond what torch stages share: float64 and float32 weights together while one becomes
    # the other; XNNPACK packs the weights once more; builtin kernels keep every intermediate tensor.
    return {
        "oracle": 3 * weights + 50,
        "hf": weights + 300,
        "reauthored": weights + 200,
        "tflite-xnnpack": 2 * weights + 800,
        "tflite-builtin": weights + 720,
        "tflite-reference": weights + 720,
    }


def is_device(stage: str) -> bool:
    """Whether a stage runs a flatbuffer."""
    return split(stage)[0] in KERNELS


def conversion_mb(prepared: Prepared) -> float:
    """Peak memory of a conversion. Measured: 3.2 times the weights, and 1.6 GB of frameworks."""
    return 3.2 * prepared.source.parameters * 4 / 1e6 + 1600


def _convert_task(place: Place, prepared: Prepared, common: Payload, recipe: str) -> Task:
    """Finding a conversion is quick and small; making one needs the frameworks and all the memory there is."""
    key = prepared.conversion_key if recipe == FLOAT else prepared.quantized_keys[recipe]
    entry, spec = Path(place.cache_root) / CONVERSIONS / key, Path(common["spec_file"])
    cached = entry.is_dir() and not changed_since(entry, spec, Cache(Path(place.cache_root)))
    return Task(
        named("convert", recipe),
        "harness.stages.flatbuffer:convert_model",
        {**common, "recipe": recipe},
        memory_mb=100 if cached else conversion_mb(prepared),
        torch=not cached,
        timeout=place.timeout,
    )


def _tap_task(place: Place, common: Payload, weights: float, timeout: float, recipe: str) -> Task:
    own, convert = place.tflite, named("convert", recipe)

    def payload(results: Results) -> Payload:
        if own is not None:
            return {**common, "flatbuffer": str(own)}
        return {**common, "recipe": recipe, **results[convert].value}

    return Task(
        named("tap", recipe),
        "harness.stages.flatbuffer:tap_flatbuffer",
        payload,
        needs=() if own is not None else (convert,),
        memory_mb=weights + 400,
        timeout=timeout,
    )


def _job_maker(
    place: Place, prepared: Prepared, stage: str, reference: str = "", only: Sequence[str] = ()
) -> Callable[[Results], Payload]:
    """reference: the stage whose values a local pass puts in place of its own. only: ids of inputs; none: all."""

    def payload(results: Results) -> Payload:
        flatbuffer: dict[str, Any] = {}
        if is_device(stage):
            own, recipe = place.tflite, split(stage)[1]
            tapped = results[named("tap", recipe)].value
            flatbuffer = {
                "flatbuffer": own if own else results[named("convert", recipe)].value["flatbuffer"],
                "tapped": tapped["tapped"],
                "plan": tapped["plan"],
            }
        job = Job(
            stage=stage,
            spec_file=place.spec_file,
            spec_variable=place.spec_variable,
            checkpoint=Path(prepared.checkpoint),
            dimensions=prepared.dimensions,
            points=prepared.points,
            inputs=[item for item in prepared.inputs if not only or item.id in only],
            prefill=prepared.prefill,
            kv_cache_len=prepared.kv_cache_len,
            variant=prepared.variant,
            traces=place.traces / stage,
            reference=place.traces / reference if reference else None,
            miniature=prepared.miniature,
            layers=prepared.layers,
            threads=1,  # stages overlap: a core each is quicker than all cores for one after the other
            **flatbuffer,
        )
        return job.model_dump(mode="json")

    return payload
