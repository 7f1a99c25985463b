"""The run: spec -> checkpoint -> inputs -> stages -> compare -> judge -> locate -> record.

In: what the command line asked for. Out: a run folder and its record. This is the one place that knows the
order of the steps; each step is a file of its own.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from harness.cache import Cache
from harness.checkpoints import check_source
from harness.errors import UsageError
from harness.inputs import check_jsonl
from harness.record import Finding, Input, Record, Stage, taps_frame, write_record
from harness.spec import SpecRef, find_spec
from harness.stages.job import Job
from harness.stages.process import Payload, Results, Task, TaskResult, Watcher, run_tasks
from harness.verdict import load_rules

DEVICE_STAGES = ("tflite-xnnpack", "tflite-builtin")
STAGES = ("oracle", "hf", "reauthored", *DEVICE_STAGES)
LOG_FILE = "run.log"
_VERSIONS = (
    "edge-parity",
    "torch",
    "torchao",
    "transformers",
    "litert-torch",
    "litert-converter",
    "ai-edge-litert",
    "tensorflow",
    "numpy",
    "safetensors",
)
_RUNNERS = {
    "oracle": "harness.stages.entry:hf",
    "hf": "harness.stages.entry:hf",
    "reauthored": "harness.stages.entry:reauthored",
    "tflite-xnnpack": "harness.stages.entry:tflite",
    "tflite-builtin": "harness.stages.entry:tflite",
}


@dataclass(frozen=True)
class Options:
    """What `edge-parity run` was told. Paths may be relative; they are resolved before anything starts."""

    model: str
    checkpoint: str | None = None
    tflite: Path | None = None
    miniature: bool = False
    stages: tuple[str, ...] = STAGES
    prompts: tuple[str, ...] = ()
    inputs_file: Path | None = None
    seed: int = 0
    tolerances: Path | None = None
    out: Path = Path("reports")
    keep_traces: bool = False
    no_cache: bool = False
    timeout: float = 3600.0


@dataclass
class _Run:
    """A run under way: where it works, and what it has found so far."""

    options: Options
    ref: SpecRef
    folder: Path
    cache: Cache
    watcher: Watcher
    timings: dict[str, float] = field(default_factory=dict)

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
    ref = find_spec(options.model)
    rules = load_rules(options.tolerances)
    stages = _stages(options)
    _check_files(options)
    run_id = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
    parent = options.out / ref.name
    with _working_folder(parent, run_id) as folder:
        cache = Cache.temporary(folder / "cache") if options.no_cache else Cache.standard()
        state = _Run(options, ref, folder, cache, watcher)
        with state.timed("total"):
            prepared = _prepare(state)
            results = _run_stages(state, prepared, stages)
            record, frame = _conclude(state, run_id, prepared, results, stages, rules)
        record.timings = state.timings
        write_record(folder, record, frame)
        _render(folder, record, frame)
        for leftover in [folder / "cache", *([] if options.keep_traces else [folder / "traces"])]:
            shutil.rmtree(leftover, ignore_errors=True)
        final = parent / run_id
        folder.rename(final)
    return final, record


def _stages(options: Options) -> tuple[str, ...]:
    unknown = [name for name in options.stages if name not in STAGES]
    if unknown:
        raise UsageError(f"unknown stage '{unknown[0]}'; the stages are {', '.join(STAGES)}")
    if "reauthored" not in options.stages:
        raise UsageError(f"--stages {','.join(options.stages)} compares nothing: every hop needs 'reauthored'; add it")
    # Without these two there is no noise floor, and without a noise floor no verdict.
    return tuple(name for name in STAGES if name in options.stages or name in ("oracle", "hf"))


def _check_files(options: Options) -> None:
    """Cheap checks first, so that a typing error costs no import of a framework."""
    if not options.timeout > 0:  # NaN too
        raise UsageError(f"--timeout {options.timeout:g} is no time; give seconds, e.g. --timeout 600")
    if options.seed < 0:
        raise UsageError(f"--seed {options.seed} is negative; give 0 or more")
    if any(not prompt.strip() for prompt in options.prompts):
        raise UsageError("--prompt is empty; give some text")
    if options.inputs_file is not None:
        check_jsonl(options.inputs_file)
    if options.checkpoint is not None:
        check_source(options.checkpoint, options.miniature)
    if options.tflite is not None:
        from harness.flatbuffer.reader import FlatbufferModel

        FlatbufferModel(options.tflite)


@contextmanager
def _working_folder(parent: Path, run_id: str) -> Iterator[Path]:
    """A hidden folder beside the runs, which the caller renames when the run is whole; else it goes."""
    folder = parent / f".{run_id}.partial"
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True)
        probe = folder / "probe"
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise UsageError(f"--out {parent.parent} cannot be written ({error.strerror}); give another folder") from None
    try:
        yield folder.resolve()
    finally:
        if folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            for path in made:  # nothing was written: leave no empty folders either
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _prepare(state: _Run) -> Any:
    from harness.stages.prepare import Prepared, Request

    options = state.options
    request = Request(
        spec_file=str(state.ref.file.resolve()),
        spec_variable=state.ref.variable,
        checkpoint=options.checkpoint,
        miniature=options.miniature,
        seed=options.seed,
        tflite=str(options.tflite.resolve()) if options.tflite else None,
        prompts=list(options.prompts),
        inputs_file=str(options.inputs_file.resolve()) if options.inputs_file else None,
        cache_root=str(state.cache.root),
    )
    task = Task("prepare", "harness.stages.prepare:prepare", request.model_dump(), torch=True, timeout=options.timeout)
    with state.timed("prepare"):
        result = run_tasks([task], state.log, state.watcher)["prepare"]
    if result.status != "ok":
        tail = _tail(state.log)
        raise UsageError(f"{state.ref.file}: could not be prepared: {result.detail.split(';')[0]} ({tail})")
    return Prepared.model_validate(result.value)


def _tail(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    frames = [line for line in lines if line.startswith("File ")]
    return frames[-1] if frames else "no further word in the log"


def _run_stages(state: _Run, prepared: Any, stages: tuple[str, ...]) -> dict[str, TaskResult]:
    tasks = _tasks(state, prepared, stages)
    budget = 0.8 * psutil.virtual_memory().available / 1e6
    with state.timed("stages"):
        return run_tasks(tasks, state.log, state.watcher, cores=os.cpu_count() or 1, memory_mb=budget)


def _tasks(state: _Run, prepared: Any, stages: tuple[str, ...]) -> list[Task]:
    """Stages in the order that keeps all cores busy: the slowest chain first."""
    weights = prepared.source.parameters * 4 / 1e6
    common: Payload = {
        "prepared": prepared.model_dump(mode="json"),
        "cache_root": str(state.cache.root),
        "spec_file": str(state.ref.file.resolve()),
        "spec_variable": state.ref.variable,
    }
    timeout = state.options.timeout
    tasks = []
    if any(name in DEVICE_STAGES for name in stages):
        if state.options.tflite is None:
            convert = "harness.stages.prepare:convert_model"
            # Measured: 3.2 times the weights and 2.1 GB of frameworks. Nothing else fits beside it.
            memory = 3.2 * weights + 2100
            tasks.append(Task("convert", convert, common, memory_mb=memory, torch=True, timeout=timeout, alone=True))
        tasks.append(_tap_task(state, common, weights, timeout))
    memory_of = {"oracle": 2 * weights + 700, "tflite-xnnpack": 2 * weights + 800}
    for name in ("tflite-builtin", "oracle", "tflite-xnnpack", "reauthored", "hf"):
        if name in stages:
            device = name in DEVICE_STAGES
            tasks.append(
                Task(
                    name,
                    _RUNNERS[name],
                    _job_maker(state, prepared, name),
                    needs=("tap",) if device else (),
                    memory_mb=memory_of.get(name, weights + 700),
                    torch=not device,
                    timeout=timeout,
                )
            )
    return tasks


def _tap_task(state: _Run, common: Payload, weights: float, timeout: float) -> Task:
    own = state.options.tflite

    def payload(results: Results) -> Payload:
        if own is not None:
            return {**common, "flatbuffer": str(own.resolve())}
        return {**common, **results["convert"].value}

    return Task(
        "tap",
        "harness.stages.prepare:tap_flatbuffer",
        payload,
        needs=() if own is not None else ("convert",),
        memory_mb=weights + 400,
        timeout=timeout,
    )


def _job_maker(state: _Run, prepared: Any, stage: str) -> Callable[[Results], Payload]:
    def payload(results: Results) -> Payload:
        flatbuffer: dict[str, Any] = {}
        if stage in DEVICE_STAGES:
            own = state.options.tflite
            flatbuffer = {
                "flatbuffer": own.resolve() if own else results["convert"].value["flatbuffer"],
                "tapped": results["tap"].value["tapped"],
                "plan": results["tap"].value["plan"],
            }
        job = Job(
            stage=stage,
            spec_file=str(state.ref.file.resolve()),
            spec_variable=state.ref.variable,
            checkpoint=Path(prepared.checkpoint),
            dimensions=prepared.dimensions,
            points=prepared.points,
            inputs=prepared.inputs,
            prefill=prepared.prefill,
            kv_cache_len=prepared.kv_cache_len,
            traces=state.folder / "traces" / stage,
            miniature=prepared.miniature,
            threads=1,  # stages overlap: a core each is quicker than all cores for one after the other
            **flatbuffer,
        )
        return job.model_dump(mode="json")

    return payload


def _conclude(
    state: _Run, run_id: str, prepared: Any, results: dict[str, TaskResult], stages: tuple[str, ...], rules: Any
) -> tuple[Record, Any]:
    from harness.compare import STANDARD_HOPS, compare_traces
    from harness.locate import cases, first_fault, summarise_hop

    plan = _plan(results)
    done = {name for name in stages if results[name].status == "ok"}
    item_ids = [item.id for item in prepared.inputs]
    with state.timed("compare"):
        comparison = compare_traces(
            state.folder / "traces",
            done,
            item_ids,
            prepared.taps,
            prepared.model,
            rules,
            lambda stage, tap: _why_missing(stage, tap, plan, results),
            progress=lambda n, total: state.watcher.progress("compare", n, total, "taps"),
        )
    frame = taps_frame(comparison.rows)
    hops = [
        summarise_hop(
            f"{a}->{b}",
            frame,
            prepared.taps,
            comparison.logits.get(f"{a}->{b}"),
            prepared.coverage.get(f"{a}->{b}", 0.0),
            _blocked((a, b), results),
        )
        for a, b in STANDARD_HOPS
        if a in stages and b in stages
    ]
    findings = [*prepared.findings, *_runtime_findings(results)]
    crashed = any(result.status in ("crashed", "timeout") for result in results.values())
    failed = crashed or any(hop.verdict == "fail" for hop in hops) or any(f.severity == "error" for f in findings)
    modules = {tap: {**names, "tflite": plan["names"].get(tap)} for tap, names in prepared.modules.items()}
    record = Record(
        model=prepared.model,
        run_id=run_id,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdict="fail" if failed or not hops else "pass",
        exit_code=3 if crashed else int(failed),
        source=prepared.source,
        options=_recorded_options(state, prepared),
        inputs=[
            Input(
                id=item.id,
                tokens=len(item.tokens),
                text=item.text,
                token_ids=item.tokens,
                schedule=prepared.schedules[item.id],
            )
            for item in prepared.inputs
        ],
        stages=[_stage(results[name]) for name in ("convert", "tap", *stages) if name in results],
        hops=hops,
        cases=cases(hops, frame, item_ids),
        first_fault=first_fault(hops, frame, modules, plan["ops"]),
        findings=findings,
        taps=modules,
        environment=environment(),
    )
    return record, frame


def _plan(results: dict[str, TaskResult]) -> dict[str, Any]:
    """Tensor names, operator kinds and what is missing, from the alignment plan; empty without a flatbuffer."""
    tap = results.get("tap")
    empty: dict[str, Any] = {"names": {}, "ops": {}, "inner": set(), "missing": {}}
    if tap is None or tap.status != "ok":
        return empty
    content = json.loads(Path(tap.value["plan"]).read_text())
    for signature, sources in content["sources"].items():
        for name, source in sources.items():
            empty["names"].setdefault(name, source["name"])
            empty["ops"].setdefault(name, source["op"])
            if source["inner"]:
                empty["inner"].add(name)
        empty["missing"] |= content["missing"][signature]
    return empty


def _why_missing(stage: str, tap: str, plan: dict[str, Any], results: dict[str, TaskResult]) -> str:
    from harness.align.tflite import FUSED

    if stage in DEVICE_STAGES:
        if tap in plan["inner"]:
            return FUSED
        return str(plan["missing"].get(tap, "no such tensor in the flatbuffer"))
    absent = results[stage].value.get("absent_modules", []) if stage in results else []
    return f"{stage} has no such tensor" + (f" (no module {absent[0]})" if absent else "")


def _blocked(hop: tuple[str, str], results: dict[str, TaskResult]) -> str:
    for name in (*hop, "oracle", "hf"):
        if results[name].status != "ok":
            return f"stage {name} {results[name].status}: {results[name].detail}"
    return ""


def _runtime_findings(results: dict[str, TaskResult]) -> list[Finding]:
    found = []
    for name in DEVICE_STAGES:
        differing = results[name].value.get("steps_differing_from_untouched_file", []) if name in results else []
        if differing:
            what = f"{name}: the tapped copy's own outputs differ from the untouched file's at {', '.join(differing)}"
            found.append(Finding(kind="runtime", severity="error", what=what))
    return found


def _stage(result: TaskResult) -> Stage:
    facts = {key: value for key, value in result.value.items() if key not in ("flatbuffer", "tapped", "plan")}
    return Stage(
        name=result.name,
        status=result.status,
        seconds=result.seconds,
        peak_rss_mb=result.peak_rss_mb,
        detail=result.detail,
        facts=facts,
    )


def _recorded_options(state: _Run, prepared: Any) -> dict[str, Any]:
    return {
        "command": ["edge-parity", *sys.argv[1:]],
        "prefill": prepared.prefill,
        "kv_cache_len": prepared.kv_cache_len,
        "seed": state.options.seed,
        "tflite": str(state.options.tflite) if state.options.tflite else None,
        "tolerances": str(state.options.tolerances) if state.options.tolerances else "defaults",
    }


def environment() -> dict[str, str]:
    """Versions of what could change a number."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "cpu": _cpu()}
    for name in _VERSIONS:
        try:
            found[name.replace("-", "_")] = version(name)
        except PackageNotFoundError:
            found[name.replace("-", "_")] = "not installed"
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _render(folder: Path, record: Record, frame: Any) -> None:
    from harness.render.files import render_all

    render_all(folder, record, frame)
