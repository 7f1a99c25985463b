"""`edge-parity inspect`: what is in a file, and what the runtimes here make of it.

In: a path. Out: `FileContents`. A file may come from a stranger, so runtimes load it in processes of their own, and
load a copy without its weights.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from harness.bundle.reader import form_of
from harness.errors import UsageError
from harness.flatbuffer.hollow import may_stand_first, write_hollow
from harness.flatbuffer.integrity import check_integrity, reading_failed
from harness.flatbuffer.reader import FlatbufferModel
from harness.inspection.contents import Graphs, contents_of, kind_of
from harness.names.stages import BUILTIN, XNNPACK
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.record.contents import Delegated, FileContents
from harness.stages.litert.delegation import Delegation, DelegationRequest
from harness.system.reading import check_file

RUNTIMES = (XNNPACK, BUILTIN)
_ASK = "harness.stages.litert.delegation:delegation"
_MEMORY_MB = 1500  # of a process that loads a file: its weights are packed again, though they are zeros


def read_contents(path: Path) -> tuple[FlatbufferModel, FileContents]:
    """What the file's tables say, in a second. Raises UsageError for what is not a whole flatbuffer."""
    refuse_bundle(path)
    file = check_integrity(path)
    try:
        return file, contents_of(file)
    except Exception as error:  # the generated reader raises whatever garbage leads it to
        raise UsageError(f"{path} is damaged: {reading_failed(error)}; convert it again") from None


def refuse_bundle(path: Path) -> None:
    """Raises UsageError for a bundle, which holds flatbuffers and is none."""
    check_file(path, "give the path of a .tflite file")
    if (form := form_of(path)) is not None:
        raise UsageError(
            f"{path} is a bundle ({form}); give the .tflite file inside it, which 'edge-parity inspect {path} "
            "--extract FOLDER' writes"
        )


def ask_runtimes(file: FlatbufferModel, found: FileContents, watcher: Watcher, timeout: float = 120.0) -> None:
    """Add to `found` what each runtime does with each signature. timeout: seconds that one may take to load it."""
    found.runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    with tempfile.TemporaryDirectory(prefix="edge-parity-") as name:
        folder = Path(name)
        tasks = list(_tasks(file, folder, timeout))
        # Two signatures side by side, since a delegate packs the weights of each on one core.
        results = run_tasks(tasks, folder / "runtimes.log", watcher, cores=2, memory_mb=2 * _MEMORY_MB)
    graphs = Graphs(file)
    for contents, entry in zip(found.signatures, graphs.signatures.values(), strict=True):
        graph = file.subgraph(entry.subgraph)
        for stage in RUNTIMES:
            answer = _answer(results.get(_name(stage, entry.subgraph)))
            kinds = Counter(kind_of(file, graph, graph.operators[index]) for index in answer.operators)
            contents.delegated.append(
                Delegated(
                    runtime=stage,
                    operators=dict(kinds.most_common()),
                    partitions=answer.partitions,
                    error=answer.error,
                )
            )


def _name(stage: str, subgraph: int) -> str:
    return f"{stage} of subgraph {subgraph}"


def _tasks(file: FlatbufferModel, folder: Path, timeout: float) -> Iterator[Task]:
    for subgraph in dict.fromkeys(entry.subgraph for entry in Graphs(file).signatures.values()):
        if not may_stand_first(file, subgraph):
            continue
        copy = folder / f"{subgraph}.tflite"
        write_hollow(file, subgraph, copy)
        operators = file.subgraph(subgraph).operators
        for stage in RUNTIMES:
            request = DelegationRequest(
                file=str(copy),
                stage=stage,
                reads=[list(op.inputs) for op in operators],
                writes=[list(op.outputs) for op in operators],
            )
            yield Task(
                _name(stage, subgraph), _ASK, request.model_dump(), Delegation, memory_mb=_MEMORY_MB, timeout=timeout
            )


def _answer(result: TaskResult | None) -> Delegation:
    if result is None:
        return Delegation(error="not asked: the file calls this subgraph from another one")
    said = result.gave(Delegation)
    return said or Delegation(error=f"the runtime {result.detail.split(';')[0]} while it loaded the file")
