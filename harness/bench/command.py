"""`edge-parity bench`: from names to a report.

In: what the command line said. Out: a `Report`. A process a model, whose chatter stays off the terminal.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.bench.result import Report
from harness.errors import UsageError
from harness.pipeline.environment import environment
from harness.plain import brief
from harness.processes.scheduler import Task, Watcher, run_tasks
from harness.spec.find import find_spec

_MB = 900  # of a process beyond the frameworks, measured on the largest miniature
_WIDE_MB = 5000  # of one at full width, while it converts
_SECONDS = 7200.0
_MOST_SEEDS = 10_000


def bench(models: list[str], pattern: str, seeds: int, watcher: Watcher) -> Report:
    """Run the faults of some models, or of all, and the clean models at `seeds` seeds each.

    Raises UsageError for a name that the catalogue does not have.
    """
    if seeds > _MOST_SEEDS:
        raise UsageError(f"--seeds {brief(seeds)} would take days; give {_MOST_SEEDS} at most")
    if seeds < 0:
        raise UsageError(f"--seeds {brief(seeds)} is negative; give 0 or more")
    for model in models:
        find_spec(model)
    # Here, and not above: it imports the frameworks, which a bad input should not wait for.
    from harness.bench.catalogue import CLEAN, QUANTISED_CLEAN, WIDE, all_faults, selected
    from harness.bench.mistake import QUANTISED_KINDS

    known = sorted({fault.model for fault in all_faults()} | set(CLEAN) | set(QUANTISED_CLEAN))
    strange = [model for model in models if model not in known]
    if strange:
        raise UsageError(f"no fault is made in {strange[0]}; the models of the catalogue are {', '.join(known)}")
    faults = selected(models, pattern)
    if not faults:
        raise UsageError(f"--faults {pattern} fits no fault; give a glob of ids, e.g. --faults 'weights/*'")
    of = {model: [fault.id for fault in faults if fault.model == model] for model in known}
    # Clean models of those kinds alone that were asked for: as they are, or quantised.
    quantised = {fault.kind in QUANTISED_KINDS for fault in faults}
    clean = [model for model in CLEAN if (not models or model in models) and False in quantised]
    by_recipe = [model for model in QUANTISED_CLEAN if (not models or model in models) and True in quantised]
    tasks = [
        _task(model, ids, seeds if model in clean else 0, seeds if model in by_recipe else 0)
        for model, ids in sorted(of.items(), key=lambda entry: -len(entry[1]))  # the longest first
        if ids or (seeds and model in (*clean, *by_recipe))
    ]
    tasks += [_wide(model, seeds) for model in WIDE if model in clean and seeds]
    return _merged(tasks, [fault.id for fault in faults], watcher)


def _task(model: str, faults: list[str], seeds: int, quantised: int) -> Task:
    """The faults of one model, and the model unbroken. quantised: seeds of the same by every recipe, cut to a few."""
    from harness.bench.catalogue import QUANTISED_CLEAN, QUANTISED_SEEDS

    payload = {
        "model": model,
        "faults": faults,
        "seeds": list(range(1, seeds + 1)),
        "quantised_seeds": list(range(1, min(quantised, QUANTISED_SEEDS) + 1)),
        "kernels": list(QUANTISED_CLEAN.get(model, ())),
    }
    return Task(model, "harness.bench.job:bench_model", payload, Report, memory_mb=_MB, torch=True, timeout=_SECONDS)


def _wide(model: str, seeds: int) -> Task:
    """The first layers of a model that is right, at full width."""
    from harness.bench.catalogue import WIDE_LAYERS, WIDE_SEEDS

    chosen = list(range(1, min(seeds, WIDE_SEEDS) + 1))
    payload = {"model": model, "faults": [], "seeds": chosen, "layers": WIDE_LAYERS}
    name = f"{model}, full width"
    return Task(
        name, "harness.bench.job:bench_model", payload, Report, memory_mb=_WIDE_MB, torch=True, timeout=_SECONDS
    )


def _merged(tasks: list[Task], order: list[str], watcher: Watcher) -> Report:
    versions = {name: text for name, text in environment().items() if name != "platform"}
    report = Report(environment=versions)
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as folder:
        results = run_tasks(tasks, Path(folder) / "bench.log", watcher, cores=os.cpu_count() or 1)
    for name, result in sorted(results.items()):
        part = result.gave(Report)
        if part is None:
            report.errors.append(f"{name} {result.status}: {result.detail}")
            continue
        report.results += part.results
        report.clean += part.clean
    report.results.sort(key=lambda found: order.index(found.id))
    return report
