"""`edge-parity generate`: what every stage generates after a prompt, side by side, without the comparison of a run.

In: what the command line asked for. Out: a folder with `generation.json` and a page.
"""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from harness.errors import ProcessLostError, UsageError
from harness.names.codes import FindingCode
from harness.names.stages import stage_named
from harness.pipeline.early import check_room
from harness.pipeline.options import Options, check, stages_of
from harness.pipeline.preparing import prepare
from harness.pipeline.run import generated
from harness.pipeline.tasks import file_tasks
from harness.pipeline.work import Work, place_of, processes
from harness.plain import brief
from harness.processes.scheduler import Results, Watcher
from harness.record.generation import Generation
from harness.record.record import Finding, write_text
from harness.record.runs import next_run_id
from harness.store.cache import Cache
from harness.store.run_folder import working_folder

PREFIX, RECORD_FILE, PAGE_FILE = "generate-", "generation.json", "generation.html"


def generate(options: Options, watcher: Watcher) -> tuple[Path, Generation, list[Finding]]:
    """Generate, and write the folder. Returns it, what was generated and what is wrong with that.

    Raises UsageError for bad input, before anything is written, and ProcessLostError.
    """
    if options.generate < 1:
        raise UsageError(f"--tokens {brief(options.generate)} must be positive; give e.g. --tokens 64")
    ref = check(options)
    run_id = f"{PREFIX}{next_run_id(options.out, datetime.datetime.now(datetime.UTC))}"
    parent = options.out / ref.name
    with working_folder(parent, run_id) as folder:
        cache = Cache.temporary(folder / "cache") if options.no_cache else Cache.standard()
        state = Work(options, ref, folder, cache, watcher, run_id)
        found, findings = _generated(state, parent / f"{run_id}.log")
        _write(folder, ref.name, run_id, found)
        folder.rename(parent / run_id)
    return parent / run_id, found, findings


def _generated(state: Work, kept_log: Path) -> tuple[Generation, list[Finding]]:
    prepared, _ = prepare(state)
    check_room(state.options, prepared.kv_cache_len)
    stages = stages_of(state.options, prepared.own_stage)
    made: Results = processes(state, prepared, file_tasks(place_of(state), prepared, stages))
    lost = [result for result in made.values() if result.status != "ok"]
    ready = [name for name in stages if not lost or not stage_named(name).reads_file]
    found, findings, _ = generated(state, prepared, ready, made)
    if found is None:
        shutil.copyfile(state.log, kept_log)
        raise ProcessLostError(f"{findings[0].what.split('; run.log')[0]}; {kept_log} has what it said")
    if lost:
        found.lost |= {result.name: result.detail for result in lost}
        findings += [
            Finding(kind="runtime", code=FindingCode.GENERATION_NOT_RUN, severity="error", what=f"{name}: {why}")
            for name, why in found.lost.items()
        ]
    return found, findings


def _write(folder: Path, model: str, run_id: str, found: Generation) -> None:
    from harness.render.generation import page

    for name in ("traces", "cache"):
        shutil.rmtree(folder / name, ignore_errors=True)
    write_text(folder / RECORD_FILE, found.model_dump_json(indent=1))
    write_text(folder / PAGE_FILE, page(model, run_id, found))
