"""The processes of files that generate by themselves, and what came of them.

In: a prepared model. Out: tasks; what each file gave, cut as the reference is; what could not be run, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.compare.closeup import TOKENIZER_FILE
from harness.compare.generation import OwnWay
from harness.jobs.job import JobInput
from harness.jobs.loops import LoopJob, LoopSaid
from harness.jobs.prepared import ModelRequest, Prepared
from harness.names.codes import FindingCode
from harness.names.loops import loops_of
from harness.names.stages import stage_named
from harness.pipeline.tasks import RunPaths, conversion_mb
from harness.processes.scheduler import Task
from harness.record.generation import GeneratedPrompt, OtherText, StageGeneration
from harness.record.record import Finding
from harness.store.cache import Cache
from harness.store.flex import INSTALL, RUNTIME, interpreter
from harness.weights.small_tokenizer import MERGES_FILE, VOCAB_FILE

_SHOWN = 8  # tokens
_SHOWN_TEXT = 24  # characters


@dataclass(frozen=True)
class LoopTasks:
    """tasks: by the name of the file. not_run: name -> why."""

    tasks: dict[str, Task] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)


def loop_tasks(
    place: RunPaths,
    prepared: Prepared,
    stages: Sequence[str],
    prompts: Sequence[JobInput],
    tokens: int,
    chat: bool,
    task_of: Callable[[str], str],
) -> LoopTasks:
    """Of a run in which files run; where the person named stages without one, or gave one, there are none.

    prompts: those that the stages generate after. chat: whether they went through a template.
    """
    if place.tflite is not None or not any(stage_named(stage).runs_file for stage in stages):
        return LoopTasks()
    found = LoopTasks()
    for loop in loops_of(prepared.own_stage):
        given = [item for item in prompts if not loop.text or (item.text and not item.earlier)]
        why = why_not_text(prepared, given, chat) if loop.text else ""
        if why or not given:
            found.not_run[loop.name] = why or "no input is a prompt"
            continue
        told = LoopJob(
            request=ModelRequest(
                prepared=prepared,
                cache_root=place.cache_root,
                spec_file=place.spec_file,
                spec_variable=place.spec_variable,
            ),
            text=loop.text,
            prompts=given,
            tokens=tokens,
            python=str(interpreter(Cache.standard()) or "") if loop.text else "",
        )
        found.tasks[loop.name] = Task(
            task_of(loop.name),
            loop.entry,
            told.model_dump(mode="json"),
            LoopSaid,
            memory_mb=conversion_mb(prepared),
            torch=True,
            timeout=place.timeout,
        )
    return found


def why_not_text(prepared: Prepared, prompts: Sequence[JobInput], chat: bool) -> str:
    """Why a file that takes and gives text cannot be run on these; empty where it can."""
    if interpreter(Cache.standard()) is None:
        return f"it needs an environment with Flex ({RUNTIME}), which is not here: '{INSTALL}' builds it"
    if chat:
        return "with --chat a prompt is put into a template, which the file does not have"
    if not prompts:
        return "no prompt is a text; give --prompt TEXT"
    folder = Path(prepared.checkpoint)
    lacking = [name for name in (TOKENIZER_FILE, VOCAB_FILE, MERGES_FILE) if not (folder / name).is_file()]
    return f"the checkpoint has no {' and no '.join(lacking)}" if lacking else ""


def own_way(said: LoopSaid, item: JobInput, prepared: Prepared, tokens: int) -> OwnWay:
    """What a file gave after a prompt, up to where the reference may go: its stop token, or the end of the KV cache."""
    own = said.tokens[item.id][: max(0, min(tokens, prepared.kv_cache_len - len(item.tokens) + 1))]
    ends = next((at for at, token in enumerate(own) if token in prepared.stop_tokens), None)
    if ends is not None:
        return OwnWay(own[: ends + 1], "stop token")
    return OwnWay(own, "length" if len(own) >= tokens else "cache full")


def with_prompt(found: StageGeneration, own: Sequence[int], right: Sequence[int]) -> StageGeneration:
    """With the place where a file's tokenizer makes other tokens of the prompt. What it generates is then an answer to
    another prompt, and is not compared. own, right: the tokens."""
    if list(own) == list(right):
        return found
    at = next((at for at, pair in enumerate(zip(own, right, strict=False)) if pair[0] != pair[1]), None)
    at = min(len(own), len(right)) if at is None else at
    other = OtherText(where="prompt", at=at, own=_tokens(own[at:]), expected=_tokens(right[at:]))
    return found.model_copy(update={"other_text": other, "differences": []})


def with_own_text(found: StageGeneration, text: str, right: str) -> StageGeneration:
    """With the text that a file gave, and the place where its tokens are another text. right: as they are decoded."""
    other = found.other_text
    if text != right and other is None:
        at = next((at for at, pair in enumerate(zip(text, right, strict=False)) if pair[0] != pair[1]), None)
        at = min(len(text), len(right)) if at is None else at
        ends = at + _SHOWN_TEXT
        other = OtherText(where="text", at=at, own=text[at:ends], expected=right[at:ends])
    return found.model_copy(update={"text": text, "other_text": other})


def _tokens(tokens: Sequence[int]) -> str:
    shown = " ".join(map(str, tokens[:_SHOWN])) or "none"
    return f"{shown} ..." if len(tokens) > _SHOWN else shown


def loop_findings(not_run: dict[str, str], prompts: Sequence[GeneratedPrompt]) -> list[Finding]:
    """What was not run is a warning; text that should be another is an error."""
    left_out = [
        Finding(kind="runtime", code=FindingCode.LOOP_NOT_RUN, severity="warning", what=f"{name} was not run: {why}")
        for name, why in not_run.items()
    ]
    wrong = [(prompt, stage) for prompt in prompts for stage in prompt.stages if stage.other_text is not None]
    return left_out + [_other_text(prompt.input, stage.stage, stage.other_text) for prompt, stage in wrong]


def _other_text(prompt: str, stage: str, other: OtherText | None) -> Finding:
    assert other is not None
    what = (
        f"the tokenizer in {stage} makes other tokens of the prompt {prompt} than the checkpoint's, from token "
        f"{other.at} on: {other.own} in place of {other.expected}; what it generates answers another prompt"
        if other.where == "prompt"
        else f"{stage} gives another text after {prompt} than its own tokens are, from character {other.at} on: "
        f"{other.own!r} in place of {other.expected!r}"
    )
    return Finding(kind="runtime", code=FindingCode.GENERATES_OTHER_TEXT, severity="error", what=what)
