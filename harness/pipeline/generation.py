"""The processes in which stages generate, and what came of them.

In: a prepared model, and results of the tasks that made its files. Out: tasks; a `Generation`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from harness.compare.closeup import decoded, token_words
from harness.compare.generation import OwnWay, Steps
from harness.inputs.tokens import DEFAULT_INPUT_IDS
from harness.jobs.generate import Generated, GenerateJob
from harness.jobs.job import JobInput
from harness.jobs.loops import LoopSaid
from harness.jobs.prepared import Prepared
from harness.names.codes import FindingCode
from harness.names.loops import Loop, loops_named
from harness.names.stages import FLOAT, HF, ORACLE, Floor, Hop, Stage, device_order, known_stage, stage_named
from harness.names.taps import LOGITS
from harness.pipeline.loops import loop_findings, own_way, with_own_text, with_prompt
from harness.pipeline.tasks import RunPaths, job_payload, load_of, twin_of
from harness.processes.scheduler import Payload, Results, Task, TaskResult
from harness.record.generation import GeneratedPrompt, Generation, StageGeneration
from harness.record.record import Finding
from harness.store.trace import Trace, unrounded

_NOTHING: Mapping[str, str] = MappingProxyType({})
FOLDER = "generated"  # beside the traces of the taps


def generate_tasks(
    place: RunPaths, prepared: Prepared, stages: Sequence[str], results: Results, tokens: int
) -> list[Task]:
    """The reference first, then all others with its tokens. results: of what made the files that stages read.

    A stage that took over the traces of its twin takes over what that generates too, see `generation_of`.
    """
    return [
        Task(
            task_of(stage.name),
            "harness.jobs.generate:run",
            _payload(place, prepared, stage.name, results, tokens),
            Generated,
            needs=() if stage.name == HF else (task_of(HF),),
            memory_mb=load_of(stage, prepared)[0],
            torch=not stage.runs_file,
            timeout=place.timeout,
        )
        for stage in map(stage_named, stages)
        if _generates(stage) and not twin_of(stage, results)
    ]


def _generates(stage: Stage) -> bool:
    return bool(stage.drives) and Hop.between(stage.reference or HF, stage.name).floor is not Floor.KERNELS


def with_twins(ended: Results, stages: Sequence[str], results: Results) -> Results:
    """How generating ended, and under the name of each stage that has a twin, how it did there.

    results: of the stages, which say whose twins they are.
    """
    twins = {stage.name: twin_of(stage, results) for stage in map(stage_named, stages) if _generates(stage)}
    return {**ended, **{task_of(name): ended[task_of(twin)] for name, twin in twins.items() if task_of(twin) in ended}}


def task_of(stage: str) -> str:
    return f"{stage}.generate"


def prompts_of(prepared: Prepared) -> list[JobInput]:
    """A person's own inputs, else the model's prompt; without what the reference draws after them."""
    known = {item.id for item in prepared.inputs}
    wanted = {"prompt"} if known.issuperset(DEFAULT_INPUT_IDS) else known
    chosen = [item for item in prepared.inputs if item.id in wanted and item.id not in prepared.edges]
    return [_as_prompt(item) for item in chosen]


def _as_prompt(item: JobInput) -> JobInput:
    """Its last token is decoded, as an app does; of a conversation, what the run decodes."""
    tail = item.decode_tail - item.drawn if item.earlier else 1
    return item.model_copy(update={"tokens": item.of_text, "drawn": 0, "decode_tail": tail})


def _payload(
    place: RunPaths, prepared: Prepared, stage: str, results: Results, tokens: int
) -> Callable[[Results], Payload]:
    def payload(ended: Results) -> Payload:
        job = job_payload(place, prepared, stage_named(stage), results)
        job["inputs"] = [item.model_dump(mode="json") for item in prompts_of(prepared)]
        job["traces"] = str(place.traces / FOLDER / stage)
        reference = None if stage == HF else ended[task_of(HF)].gave(Generated)
        told = GenerateJob.model_validate(
            {
                "job": job,
                "tokens": tokens,
                "stops": prepared.stop_tokens,
                "follow": None if reference is None else reference.tokens,
                "own": stage != ORACLE,
            }
        )
        return told.model_dump(mode="json")

    return payload


@dataclass(frozen=True)
class Asked:
    """What was asked for. tokens: how many to generate. chat: whether prompts went through a template."""

    tokens: int
    chat: bool


def generation_of(
    place: RunPaths, prepared: Prepared, ended: Results, asked: Asked, not_run: Mapping[str, str] = _NOTHING
) -> Generation | None:
    """What the stages generated; None where the reference did not end.

    not_run: what generates by itself and was not run, and why.
    """
    loops = {loop: ended[task_of(loop.name)] for loop in loops_named(name.removesuffix(".generate") for name in ended)}
    names = {loop.name for loop in loops}
    stages = sorted({name.removesuffix(".generate") for name in ended} - names, key=device_order)
    made = {stage: ended[task_of(stage)].gave(Generated) for stage in stages}
    done = {stage: found for stage, found in made.items() if found is not None}
    lost = {stage: why_lost(ended[task_of(stage)]) for stage in made if stage not in done}
    if HF not in done:
        return None
    said = {loop: found for loop, result in loops.items() if (found := result.gave(LoopSaid)) is not None}
    lost |= {loop.name: why_lost(result) for loop, result in loops.items() if loop not in said}
    folders = {stage: place.traces / FOLDER / ended[task_of(stage)].name.removesuffix(".generate") for stage in done}
    prompts = [_prompt(folders, prepared, item, done, said, asked) for item in prompts_of(prepared)]
    return Generation(
        tokens=asked.tokens,
        chat=asked.chat,
        stop_tokens=prepared.stop_tokens,
        prompts=prompts,
        lost=lost,
        not_run=dict(not_run),
    )


def why_lost(result: TaskResult) -> str:
    """The process by name, how it ended, and what it said."""
    return f"the process {result.name} {'was ' if result.status == 'skipped' else ''}{result.status}: {result.detail}"


def _prompt(
    folders: Mapping[str, Path],
    prepared: Prepared,
    item: JobInput,
    done: Mapping[str, Generated],
    loops: Mapping[Loop, LoopSaid],
    asked: Asked,
) -> GeneratedPrompt:
    """folders: by stage, where its logits lie; those of a stage that has a twin lie with that one."""
    tokens = done[HF].tokens[item.id]
    known = prepared.dimensions.tokens
    logits = {stage: _logits(folders[stage] / item.id, len(tokens), known) for stage in done}
    grid = {
        stage: _logits(unrounded(folders[stage]) / item.id, len(tokens), known)
        for stage, found in done.items()
        if found.grid
    }
    steps = Steps(tokens, len(item.tokens), logits, grid)
    stages = [
        steps.stage(stage, OwnWay(found.tokens[item.id], found.stopped[item.id]))
        for stage, found in done.items()
        if stage != ORACLE
    ]
    for loop, said in loops.items():
        if item.id in said.tokens:
            own = own_way(said, item, prepared, asked.tokens)
            if loop.follows:
                stages.append(steps.engine(loop, own, said.followed[item.id], said.runtime))
                continue
            found = steps.loop(loop, own, said.runtime)
            stages.append(with_prompt(found, said.prompt_tokens[item.id], item.tokens) if loop.text else found)
    prompt = GeneratedPrompt(
        input=item.id,
        prompt=item.text or "",
        prompt_tokens=len(item.tokens),
        reference=steps.reference(),
        stages=stages,
    )
    own_texts = {loop.name: said.texts[item.id] for loop, said in loops.items() if item.id in said.texts}
    return _with_texts(prompt, Path(prepared.checkpoint), prepared.stop_tokens, own_texts)


def _logits(folder: Path, steps: int, known: int) -> Any:
    """known: tokens that every version has. Returns a copy `[steps, known]`."""
    return np.array(Trace.open(folder).load(LOGITS)[0, :steps, :known])


def _with_texts(
    prompt: GeneratedPrompt, checkpoint: Path, stops: Sequence[int], own_texts: Mapping[str, str]
) -> GeneratedPrompt:
    """own_texts: by name, of files that give text themselves."""
    every = {one.token for one in prompt.reference}
    every |= {token for stage in prompt.stages for found in stage.differences for token in (found.token, found.own)}
    words = dict(token_words(checkpoint, every))
    if not words and not own_texts:  # what gave text is never passed over for want of a tokenizer
        return prompt
    texts = decoded(checkpoint, [[one for one in stage.tokens if one not in stops] for stage in prompt.stages])
    return prompt.model_copy(
        update={
            "reference": [one.model_copy(update={"text": words.get(one.token, "")}) for one in prompt.reference],
            "stages": [
                _named(stage, text, words, own_texts.get(stage.stage))
                for stage, text in zip(prompt.stages, texts, strict=True)
            ],
        }
    )


def _named(stage: StageGeneration, text: str, words: Mapping[int, str], own: str | None) -> StageGeneration:
    """text: of its tokens. own: what it gave as text itself."""
    named = [
        found.model_copy(update={"text": words.get(found.token, ""), "own_text": words.get(found.own, "")})
        for found in stage.differences
    ]
    found = stage.model_copy(update={"text": text, "differences": named})
    return found if own is None else with_own_text(found, own, text)


def generation_findings(found: Generation | None, results: Results) -> list[Finding]:
    """What fails a run: a token that is another one above the noise, and a stage that did not end."""
    if found is None:
        why = why_lost(results[task_of(HF)])
        return [_error(FindingCode.GENERATION_NOT_RUN, f"nothing was generated: hf did not end ({why})")]
    if not found.prompts:
        return [_error(FindingCode.GENERATION_NOT_RUN, "nothing was generated: no input is a prompt")]
    lost = [_lost(found, stage, why) for stage, why in found.lost.items()]
    wrong = [(prompt, stage) for prompt in found.prompts for stage in prompt.stages if stage.faults]
    others = loop_findings(found.not_run, found.prompts)
    return [*lost, *(_first_fault(prompt, stage) for prompt, stage in wrong), *others]


def _lost(found: Generation, stage: str, why: str) -> Finding:
    """A stage whose process did not end, and the stages that are held against it, of which nothing can be said."""
    made = dict.fromkeys(one.stage for prompt in found.prompts for one in prompt.stages)
    known = [one for name in made if (one := known_stage(name)) is not None]
    heirs = [one.name for one in known if one.recipe != FLOAT and one.reference == stage]
    so = f"; so {' and '.join(heirs)} {'is' if len(heirs) == 1 else 'are'} not judged by what is generated"
    what = f"{stage} generated nothing: {why}{so if heirs else ''}"
    return _error(FindingCode.GENERATION_NOT_RUN, what)


def _first_fault(prompt: GeneratedPrompt, stage: StageGeneration) -> Finding:
    fault = stage.faults[0]
    more = f", and at {len(stage.faults) - 1} more steps" if len(stage.faults) > 1 else ""
    beside = f"{fault.margin:.3g}" if fault.margin is not None else "not finite"
    noise = f"{2 * fault.noise:.2g}" if fault.noise is not None else "unknown"
    what = (
        f"{stage.stage} generates another token than {fault.against} after {prompt.input}, at step {fault.step} "
        f"(position {fault.position}){more}: {fault.own} for {fault.token}; the margin is {beside}, and up to {noise} "
        "it would be a tie"
    )
    return _error(FindingCode.GENERATES_ANOTHER_TOKEN, what)


def _error(code: FindingCode, what: str) -> Finding:
    return Finding(kind="runtime", code=code, severity="error", what=what)
