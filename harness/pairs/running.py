"""Files run on a chain of feeds, each in processes of its own, and what they computed.

In: files and feeds. Out: a `Side` for each file and feed, whose folder has its tensors and outputs.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.reader import FlatbufferModel, Signature, Subgraph
from harness.names.stages import BUILTIN, XNNPACK
from harness.pairs.feeding import Feed
from harness.pairs.matching import computed
from harness.processes.scheduler import Task, TaskResult, Watcher, run_tasks
from harness.stages.litert.all_tensors import (
    INPUTS,
    TENSORS,
    SignatureRun,
    TensorsRead,
    TensorsRequest,
    outputs_file,
    write_arrays,
)

Array = np.ndarray[Any, Any]
STAGES = (BUILTIN, XNNPACK)
_TARGET = "harness.stages.litert.all_tensors:all_tensors"
_HALVES = frozenset({"FLOAT16", "BFLOAT16"})
_INTEGERS = NARROW | {"INT16", "UINT8", "UINT4"}
_MEMORY_MB = 2500  # of the processes that run the files; a file that takes more runs alone


@dataclass(frozen=True)
class Side:
    """One of the files on one feed, and what it computed. carried: inputs that come of the feed before."""

    model: FlatbufferModel
    signature: Signature
    folder: Path
    carried: tuple[str, ...] = ()

    @property
    def graph(self) -> Subgraph:
        return self.model.subgraph(self.signature.subgraph)

    def inputs(self) -> dict[int, Array]:
        """By tensor, as they were when it ran."""
        return {self.signature.inputs[name]: values for name, values in _read(self.folder / INPUTS).items()}

    def tensors(self) -> dict[int, Array]:
        """By tensor, on builtin kernels."""
        return {int(name): values for name, values in _read(self.folder / TENSORS).items()}

    def outputs(self, stage: str) -> dict[str, Array]:
        return _read(self.folder / outputs_file(stage))

    def of_inputs(self) -> list[int]:
        """The tensors that an input has a part in. A weight that is dequantised as the file runs has none, and is
        large."""
        graph, found = self.graph, set(self.signature.inputs.values())
        for op in graph.operators:
            if found & set(op.inputs):
                found |= set(op.outputs)
        return [index for index in computed(graph) if index in found]


def _read(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def run_chain(
    models: Mapping[str, FlatbufferModel],
    feeds: Sequence[Feed],
    folder: Path,
    watcher: Watcher,
    timeout: float,
    stages: Sequence[str] = STAGES,
) -> tuple[dict[str, list[Side]], dict[str, str]]:
    """By file, a side for each feed; and what could not be run: task -> what became of it.

    What the first file hands on from one feed to the next, every other one is given too: each feed is a comparison of
    its own, and no error of an earlier one is in it. Raises UsageError for inputs that a file does not take.
    """
    sides = {
        name: [_prepared(model, feed, place, folder / f"{name}{number}") for number, feed in enumerate(feeds)]
        for place, (name, model) in enumerate(models.items())
    }
    first = next(iter(models))
    tasks = {(name, stage): _task(name, sides[name], stage, timeout) for name in models for stage in stages}
    waves = [list(tasks.values())]
    if any(feed.carried for feed in feeds):
        ahead = _task(first, sides[first], BUILTIN, timeout, carrying=True)
        waves = [[ahead], [task for key, task in tasks.items() if key != (first, BUILTIN)]]
    results: dict[str, TaskResult] = {}
    for number, wave in enumerate(waves):
        if number:
            _hand_on(sides, first)
        results |= run_tasks(wave, folder / "run.log", watcher, cores=2, memory_mb=_MEMORY_MB)
        lost = {task: done.detail.split(";")[0] for task, done in results.items() if done.status != "ok"}
        if lost:
            return sides, lost
    return sides, {}


def _prepared(model: FlatbufferModel, feed: Feed, place: int, folder: Path) -> Side:
    """With its inputs written: those of the first file, under the names that this one has for them."""
    signature, names = feed.pair[place], [*feed.arrays, *feed.carried]
    here = dict(zip(names, names, strict=True))
    if set(signature.inputs) != set(names):
        if len(signature.inputs) != len(names) or feed.carried:
            raise UsageError(
                f"{model.path} takes {', '.join(signature.inputs)} and the other file {', '.join(names)}; compare "
                "files of one model"
            )
        here = dict(zip(feed.pair[0].inputs, signature.inputs, strict=True))
    arrays = {here[name]: values for name, values in feed.arrays.items()}
    side = Side(model, signature, folder, feed.carried)
    _check_inputs(side, arrays)
    folder.mkdir()
    write_arrays(folder / INPUTS, arrays)
    return side


def _check_inputs(side: Side, arrays: Mapping[str, Array]) -> None:
    for name, values in arrays.items():
        shape = side.model.open_shape(side.signature.subgraph, side.signature.inputs[name])
        fits = len(shape) == values.ndim and all(w in (-1, g) for w, g in zip(shape, values.shape, strict=True))
        if not fits:
            raise UsageError(
                f"{side.model.path} takes '{name}' as {list(shape)}, and the other file as {list(values.shape)}; "
                "compare files of one model, converted for one size"
            )


def _hand_on(sides: Mapping[str, Sequence[Side]], first: str) -> None:
    for name, others in sides.items():
        for side, other in zip(sides[first], others, strict=True):
            if name != first:
                shutil.copyfile(side.folder / INPUTS, other.folder / INPUTS)


def _task(name: str, sides: Sequence[Side], stage: str, timeout: float, carrying: bool = False) -> Task:
    model = sides[0].model
    runs = [
        SignatureRun(
            signature=side.signature.name,
            folder=str(side.folder),
            tensors=side.of_inputs(),
            carried=list(side.carried) if carrying else [],
        )
        for side in sides
    ]
    request = TensorsRequest(file=str(model.path.resolve()), stage=stage, runs=runs)
    size = len(model.mapped) / 1e6
    memory = 300 + (4 if is_narrow(model) else 1) * (1.0 if stage == BUILTIN else 2.2) * size
    words = f"{name} on {stage}" if name else stage
    return Task(words, _TARGET, request.model_dump(), TensorsRead, memory_mb=memory, timeout=timeout)


def is_narrow(model: FlatbufferModel) -> bool:
    """Whether any operator reads or gives numbers of fewer bits than float32: float16, or quantised ones.

    Whole numbers without a scale are what they are, such as the bytes of an image.
    """
    for number in range(model.subgraph_count):
        graph = model.subgraph(number)
        used = {index for op in graph.operators for index in (*op.inputs, *op.outputs) if index >= 0}
        kinds = {index: graph.tensors[index].dtype for index in used}
        if any(kind in _HALVES for kind in kinds.values()):
            return True
        if any(kind in _INTEGERS and _has_scale(model, number, index) for index, kind in kinds.items()):
            return True
    return False


def _has_scale(model: FlatbufferModel, subgraph: int, index: int) -> bool:
    found = model.quantization(subgraph, index)
    return found is not None and (found.details is not None or (found.scale is not None and len(found.scale) > 0))
