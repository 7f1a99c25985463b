"""The processes in which the engine that apps use generates, beside the stages.

In: a prepared model, and results of the tasks that made its files. Out: tasks; what could not be run, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.jobs.generate import Generated
from harness.jobs.job import JobInput
from harness.jobs.loops import EngineJob, LoopSaid
from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted
from harness.names.loops import Loop, engine_of, loops_of
from harness.names.stages import HF, XNNPACK, named, split
from harness.pipeline.loops import LoopTasks
from harness.pipeline.tasks import RunPaths
from harness.processes.scheduler import Payload, Results, Task
from harness.system.extras import LITERT_LM, why_not

TRANSPOSED = "transposed"
_SECONDS = 600.0  # a model of 135 million weights takes about ten; an engine that hangs is ended


def engine_tasks(
    place: RunPaths,
    prepared: Prepared,
    stages: Sequence[str],
    prompts: Sequence[JobInput],
    tokens: int,
    results: Results,
    task_of: Callable[[str], str],
) -> LoopTasks:
    """One for each file that XNNPACK runs, which is what the engine is held against; it follows the reference's tokens.

    prompts: those that the stages generate after. results: of what made the files.
    """
    found = LoopTasks()
    if loops_of(prepared.own_stage):  # files of that route are called otherwise than the engine calls them
        return found
    why = why_not_engine(prepared)
    fitting = [item for item in prompts if len(item.tokens) < prepared.kv_cache_len]
    for loop in [engine_of(split(stage)[1]) for stage in stages if split(stage)[0] == XNNPACK]:
        if why or not prompts:
            found.not_run[loop.name] = why or "no input is a prompt"
            continue
        for item in prompts:
            if item not in fitting:
                found.not_run[f"{loop.name} after {item.id}"] = (
                    f"{len(item.tokens)} tokens fill the KV cache of {prepared.kv_cache_len}, and the engine needs a "
                    f"place for what it says; give --kv-cache-len {len(item.tokens) + tokens}"
                )
        if fitting:
            found.tasks[loop.name] = _task(place, prepared, loop, fitting, tokens, results, task_of)
    return found


def why_not_engine(prepared: Prepared) -> str:
    """Why the engine cannot be run on the files of a model; empty where it can."""
    if prepared.variant.kv_layout != TRANSPOSED:
        return (
            f"of the KV layout {prepared.variant.kv_layout} it takes the KV heads for its context: "
            f"give --kv-layout {TRANSPOSED}, or a file that has it"
        )
    return why_not(LITERT_LM)


def _task(
    place: RunPaths,
    prepared: Prepared,
    loop: Loop,
    prompts: Sequence[JobInput],
    tokens: int,
    results: Results,
    task_of: Callable[[str], str],
) -> Task:
    def payload(ended: Results) -> Payload:
        reference = ended[task_of(HF)].gave(Generated)
        assert reference is not None, "it is needed by this task"
        told = EngineJob(
            flatbuffer=str(file_of(place, loop, results)),
            vocabulary=prepared.dimensions.vocab,
            context=prepared.kv_cache_len,
            prompts={item.id: item.tokens for item in prompts},
            follow={item.id: reference.tokens[item.id] for item in prompts},
            tokens=tokens,
        )
        return told.model_dump(mode="json")

    return Task(
        task_of(loop.name),
        loop.entry,
        payload,
        LoopSaid,
        needs=(task_of(HF),),
        memory_mb=700 + 3 * prepared.weights_mb,
        timeout=min(place.timeout, _SECONDS),
    )


def file_of(place: RunPaths, loop: Loop, results: Results) -> Path:
    """The flatbuffer that XNNPACK runs."""
    if place.tflite is not None:
        return place.tflite
    made = results[named("convert", split(loop.name)[1])].gave(Converted)
    assert made is not None, "a stage that ran had it"
    return Path(made.flatbuffer)
