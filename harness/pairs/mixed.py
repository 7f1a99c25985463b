"""`edge-parity compare` of any two of a file, a folder of traces and a run.

In: two names. Out: a `PairComparison`; None for two runs, which `harness/compare/runs.py` compares. A run stands for
its flatbuffer beside a file, and for what it kept of the re-authored model beside traces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from harness.errors import UsageError
from harness.names.stages import XNNPACK
from harness.pairs.compare import Exports, FileOptions, compare_files, concluded
from harness.pairs.folders import Traces, folder_traces, is_trace_folder
from harness.pairs.trace_compare import compare_traces, run_traces
from harness.pairs.traced import NotRunError, file_traces
from harness.pipeline.run_models import load_models
from harness.processes.scheduler import Watcher
from harness.record.pair import PairComparison
from harness.record.runs import find_run
from harness.store.trace import MANIFEST

FILE, TRACES, RUN = "file", "traces", "run"


@dataclass(frozen=True)
class Given:
    """What a name on the command line stands for."""

    kind: str
    path: Path


def given(name: str, out: Path) -> Given:
    """out: the folder of the runs. Raises UsageError for a run that is not there."""
    path = Path(name)
    if name == "latest" or name.endswith("@latest"):
        return Given(RUN, find_run(name, out))
    if not path.is_dir():
        return Given(FILE, path)
    return Given(TRACES, path) if is_trace_folder(path) else Given(RUN, find_run(name, out))


def compare_any(
    a: Given, b: Given, options: FileOptions, watcher: Watcher, exports: Sequence[Exports] = ()
) -> PairComparison:
    """Of two runs, their files. Raises UsageError."""
    kinds = {a.kind, b.kind}
    if TRACES not in kinds:
        return compare_files(_file(a), _file(b), options, watcher, exports)
    if exports:
        raise UsageError("--explorer and --repro are of two files: traces have no operators; leave them out")
    if FILE not in kinds:
        if options.inputs is not None or options.signatures:
            raise UsageError("--inputs and --signature are for files that are run; traces have theirs, leave them out")
        return compare_traces(*(run_traces(one.path) if one.kind == RUN else folder_traces(one.path) for one in (a, b)))
    return _file_and_traces(a, b, options, watcher)


def _file(one: Given) -> Path:
    if one.kind == FILE:
        return one.path
    return load_models(one.path).flatbuffer_of(XNNPACK)


def _file_and_traces(a: Given, b: Given, options: FileOptions, watcher: Watcher) -> PairComparison:
    """The file is run on the inputs of the traces. Its outputs are compared on XNNPACK as well."""
    first = a.kind == FILE
    file, folder = (a, b) if first else (b, a)
    traces = folder_traces(folder.path)
    if not (folder.path / MANIFEST).is_file():
        traces = replace(traces, whole=True)  # a run keeps what no file gives: what lies within a composite
    try:
        plain, shipped = file_traces(file.path, traces, options, watcher)
    except NotRunError as error:
        lost = PairComparison(a=str(a.path), b=str(b.path), verdict="fail", exit_code=3, problems=[str(error)])
        return concluded(lost, crashed=True)
    found = _ordered(plain, traces, first)
    also = _ordered(replace(shipped, whole=True), replace(traces, whole=True), first)
    for entry, other in zip(found.signatures, also.signatures, strict=True):
        entry.outputs += [one.model_copy(update={"stage": XNNPACK}) for one in other.outputs]
        entry.over = len({one.name for one in entry.outputs if one.verdict == "fail"})
    found.first_fault = found.first_fault or also.first_fault
    found.runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    return concluded(found)


def _ordered(file: Traces, traces: Traces, first: bool) -> PairComparison:
    return compare_traces(*((file, traces) if first else (traces, file)))
