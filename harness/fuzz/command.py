"""`edge-parity fuzz`: an input that breaks a tolerance, made as small as it gets, as a file that `run --inputs` takes.

In: what the command line asked for. Out: `FuzzOutcome`, and the file if there is something to put in it. Stages load
their models once and trace one input after the other; nothing else is left behind.
"""

from __future__ import annotations

import json
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.compare.traces import FLOAT32_RUNS
from harness.errors import UsageError
from harness.fuzz.judging import Failure, InputJudgement, Nearest, judge_input, typical_noise, with_typical_of
from harness.fuzz.laws import judge_laws
from harness.fuzz.search import SHRINKS, FuzzSearch, search
from harness.inputs.sampling import sample_of
from harness.inputs.strategies import searched_inputs
from harness.inputs.tokens import TokenInput, describe_schedule, schedule_of
from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.jobs.servers import Servers, StageEndedError, serving
from harness.judge.rules import Rule, check_all_judged, load_rules
from harness.laws.judging import LawJudge
from harness.names.laws import LAWS_SUFFIX
from harness.names.stages import HF, ORACLE, Hop, hops_of, route_stages, standard_hops
from harness.pipeline.options import Options, check, check_seed, run_words
from harness.pipeline.preparing import prepare
from harness.pipeline.tasks import file_tasks, stage_tasks
from harness.pipeline.work import Work, place_of
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.spec.find import own_stage
from harness.store.cache import Cache
from harness.store.run_folder import check_target, working_folder

TASK = "fuzz"
_TRACES, _LAWS = "harness.jobs.session:serve", "harness.laws.job:serve"
_REFERENCE_STAGES = (ORACLE, HF)  # the noise floor rests on them, whatever the hop


@dataclass(frozen=True)
class FuzzOptions:
    """run: as for a run of the model; its seed is that of a miniature's weights. hop: "A->B", None for all.

    seed: of the search. file: where the input goes, None for a place beside the runs. laws: look for what breaks a law
    of the candidates of the hops, and at no tolerance of a tap.
    """

    run: Options
    hop: str | None = None
    max_examples: int = 100
    seed: int = 0
    file: Path | None = None
    laws: bool = False


@dataclass(frozen=True)
class FuzzOutcome:
    """crash: what became of a stage that ended over an input; that input is then in the file, as it was.

    laws: whether a law was looked for: then `fault` has a stage as its hop, and a law as its tap.
    file, command, schedule: None and empty where no input breaks a tolerance.
    """

    model: str
    tried: int
    shrinking: int
    nearest: Nearest
    seconds: float
    first: TokenInput | None = None
    smallest: TokenInput | None = None
    fault: Failure | None = None
    crash: TaskResult | None = None
    file: Path | None = None
    command: str = ""
    schedule: str = ""
    laws: bool = False

    @property
    def exit_code(self) -> int:
        return 3 if self.crash is not None else int(self.smallest is not None)


class _CrashError(Exception):
    def __init__(self, item: TokenInput, ended: StageEndedError) -> None:
        super().__init__(str(ended))
        self.item = item
        self.result = ended.result


def fuzz(options: FuzzOptions, watcher: Watcher) -> FuzzOutcome:
    """Search, shrink and save. Raises UsageError for bad input, before anything is written."""
    check_options(options)
    ref, rules = check(options.run), load_rules(options.run.tolerances)
    hops = hops_to_look_at(options, own_stage(ref))
    parent = options.run.out / ref.name
    file = options.file or parent / f"fuzz-{options.seed}.jsonl"
    began = time.monotonic()
    with working_folder(parent, f"fuzz-{secrets.token_hex(4)}") as folder:
        cache = Cache.temporary(folder / "cache") if options.run.no_cache else Cache.standard()
        state = Work(options.run, ref, folder, cache, watcher)
        prepared, _ = prepare(state)
        check_all_judged(rules, prepared.model, hops, prepared.taps, prepared.kv_cache_len, options.run.tolerances)
        crash, searched = None, FuzzSearch()
        try:
            with serving(_serving_tasks(state, prepared, hops, options.laws), state.log, watcher) as servers:
                searched = _search(options, prepared, hops, rules, folder / "traces", servers, watcher)
        except _CrashError as ended:
            searched, crash = replace(searched, smallest=ended.item), ended.result
        except StageEndedError as ended:
            crash = ended.result
        found = searched.smallest
        if found is not None:
            save(file, found, options.seed)
    return FuzzOutcome(
        ref.name,
        searched.tried,
        searched.shrinking,
        searched.nearest,
        time.monotonic() - began,
        searched.first,
        found,
        searched.fault,
        crash,
        file if found else None,
        run_command(options.run, file, laws=options.laws) if found else "",
        _schedule(found, prepared) if found else "",
        options.laws,
    )


def check_options(options: FuzzOptions) -> None:
    """Raises UsageError for what is wrong with the options that a run does not have."""
    if options.max_examples < 1:
        raise UsageError(f"--max-examples {options.max_examples} tries nothing; give 1 or more")
    check_seed(options.seed)
    if options.file is not None:
        check_target(options.file, "--out", "found.jsonl")
    known = [hop.name for hop in standard_hops()]
    if options.hop is not None and options.hop not in known:
        raise UsageError(f"--hop {options.hop} is not a hop; give one of {', '.join(known)}, in quotes")


def hops_to_look_at(options: FuzzOptions, own_stage: str) -> tuple[Hop, ...]:
    """Those of the model's route, or the one that was asked for. own_stage: the one that runs the route's own version.

    Raises UsageError for a hop of another route.
    """
    hops = hops_of(route_stages(own_stage))
    if options.hop is None:
        return hops
    known = {hop.name: hop for hop in hops}
    if options.hop not in known:
        raise UsageError(f"--hop {options.hop} is not a hop; give one of {', '.join(known)}, in quotes")
    return (known[options.hop],)


def _serving_tasks(state: Work, prepared: Prepared, hops: Sequence[Hop], laws: bool) -> list[Task]:
    """A task per stage that serves; the flatbuffer and its tapped copy are made first, where a hop needs them.

    laws: the candidates of the hops check their laws, and trace nothing.
    """
    asked = candidates(hops) if laws else [stage for hop in hops for stage in hop.stages]
    stages = tuple(dict.fromkeys((*_REFERENCE_STAGES, *asked)))
    tasks = stage_tasks(place_of(state), prepared.model_copy(update={"audited": True}), stages)
    results = run_tasks(file_tasks(place_of(state), prepared, stages), state.log, state.watcher)
    for result in results.values():
        if result.status != "ok":
            raise StageEndedError(result)
    served = {name: _LAWS if laws and name in asked else _TRACES for name in stages}
    return [_served(task, results, served[task.name]) for task in tasks if task.name in stages]


def candidates(hops: Sequence[Hop]) -> list[str]:
    """The stages whose laws are looked at: the published model is what they are held against."""
    return list(dict.fromkeys(hop.candidate for hop in hops))


def _served(task: Task, results: Mapping[str, TaskResult], target: str) -> Task:
    payload = task.payload(results) if callable(task.payload) else task.payload
    return replace(task, target=target, payload={**payload, "inputs": []}, needs=())


def _search(
    options: FuzzOptions,
    prepared: Prepared,
    hops: Sequence[Hop],
    rules: list[Rule],
    traces: Path,
    servers: Servers,
    watcher: Watcher,
) -> FuzzSearch:
    watcher.started(TASK)
    began = time.monotonic()
    judge = _judge(prepared, hops, rules, traces, servers, options.laws)
    dims = prepared.dimensions
    edges = [*prepared.prefill, *([dims.window] if dims.window else [])]

    def listener(tried: int, shrinking: int, nearest: Nearest, smallest: TokenInput | None) -> None:
        if smallest is None:
            watcher.progress(TASK, tried, options.max_examples, f"nearest: {nearest.what}")
        else:
            watcher.progress(TASK, shrinking, SHRINKS, f"found; shrinking, {len(smallest.tokens)} tokens are left")

    searched = search(
        searched_inputs(dims.tokens, prepared.kv_cache_len, edges),
        judge,
        max_examples=options.max_examples,
        seed=options.seed,
        listener=listener,
    )
    watcher.ended(TaskResult(TASK, "ok", round(time.monotonic() - began, 3)))
    return searched


def _judge(
    prepared: Prepared, hops: Sequence[Hop], rules: list[Rule], traces: Path, servers: Servers, laws: bool
) -> Callable[[TokenInput], InputJudgement]:
    """What traces an input and judges it, with the noise of the model's default inputs in mind."""
    for item in prepared.inputs:
        servers.trace(item, _REFERENCE_STAGES)
    floors_at = with_typical_of(typical_noise(traces, [item.id for item in prepared.inputs], prepared.taps))
    shutil.rmtree(traces, ignore_errors=True)
    stages = candidates(hops)
    written = {*FLOAT32_RUNS, ORACLE, *(stage for hop in hops for stage in hop.stages)}
    written |= {stage + LAWS_SUFFIX for stage in stages}

    def judge(item: TokenInput) -> InputJudgement:
        told = JobInput(id=item.id, tokens=list(item.tokens), decode_tail=item.decode_tail)
        try:
            servers.trace(told)
        except StageEndedError as ended:
            raise _CrashError(item, ended) from None
        try:
            if laws:
                return judge_laws(LawJudge(traces, prepared.model, rules, floors_at), stages, item.id)
            sample = sample_of(told, prepared)
            return judge_input(traces, item.id, hops, prepared.taps, prepared.model, rules, floors_at, sample)
        finally:
            for stage in written:
                shutil.rmtree(traces / stage / item.id, ignore_errors=True)

    return judge


def save(file: Path, item: TokenInput, seed: int) -> None:
    """Write an input as a file that `run --inputs` takes: whole, or not at all."""
    line: dict[str, object] = {"id": f"fuzz-{seed}", "tokens": list(item.tokens), "decode_tail": item.decode_tail}
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(line) + "\n")
        partial.replace(file)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"--out {file} cannot be written ({error.strerror}); give another file") from None


def run_command(options: Options, file: Path, *, laws: bool = False) -> str:
    """The command that runs the input that was found. laws: it broke one, which a run checks where it is asked to."""
    return shlex.join([*run_words(options), "--inputs", str(file), *(["--laws"] if laws else [])])


def _schedule(item: TokenInput, prepared: Prepared) -> str:
    return describe_schedule(schedule_of(item, prepared))
