"""What a run rests on: prepared in a process of its own or remembered, with the tokens that the reference draws.

In: a run under way. Out: a `Prepared`, and the key to remember it by.
"""

from __future__ import annotations

from harness.errors import TaskFaultError, UsageError
from harness.jobs.prepared import Prepared, Request
from harness.jobs.results import Audited, Drawn, Preparation
from harness.names.codes import FindingCode
from harness.pipeline.drawing import DRAW, draw_task, with_drawn
from harness.pipeline.options import reads_text
from harness.pipeline.prepared_cache import recall, recall_key
from harness.pipeline.work import Work
from harness.processes.scheduler import SERVER_LOST, Task, TaskResult, run_tasks
from harness.record.record import Finding
from harness.spec.rests import RESTS, Rests

_PREPARE = "harness.pipeline.prepare:prepare"


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
        chat=options.chat,
        decode=options.decode,
        edges=options.edges,
        whole_up_to=options.whole_up_to,
        variant=options.variant,
        quantize=list(options.quantize),
        text=str(options.text.resolve()) if options.text else None,
        reads_text=reads_text(options),
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
        return _drawn(state, prepared, request), key


def _drawn(state: Work, prepared: Prepared, request: Request) -> Prepared:
    """With the tokens that the reference draws, where a run decodes."""
    if not prepared.to_draw:
        return prepared
    result = run_tasks([draw_task(prepared, request, state.options.timeout)], state.log, state.watcher)[DRAW]
    drawn = result.gave(Drawn)
    state.rests.append(drawn.rests if drawn is not None else None)
    return with_drawn(prepared, result)


def audited(prepared: Prepared, audit: TaskResult | None) -> Prepared:
    """With the findings of the config audit. An audit that did not end is a finding too: the stages tell the rest."""
    if audit is None:
        return prepared
    audited = audit.gave(Audited)
    if audited is None:
        what = f"the configs are not audited: {audit.detail}"
        lost = Finding(kind="config", code=FindingCode.CONFIGS_NOT_AUDITED, severity="warning", what=what)
        return prepared.model_copy(update={"findings": [lost, *prepared.findings]})
    return prepared.model_copy(update={"findings": [*audited.findings, *prepared.findings], "audited": True})


def audit_rests(audit: TaskResult) -> Rests | None:
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
