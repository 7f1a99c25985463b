"""Quantised files of a miniature, and how one is broken: by its tables, its scales and its numbers."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.plan import AlignmentPlan, PlanFacts
from harness.align.weights import layer_weights
from harness.audit.recipe import Float32Weights, audit_recipe
from harness.bench.outcome import Outcome
from harness.bench.workbench import Bench, bench
from harness.compare.local import local_errors, with_local
from harness.compare.traces import compare_traces
from harness.flatbuffer.quantise import quantise
from harness.flatbuffer.quantised import held
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.writing import Rewriting
from harness.jobs.reporter import Silent
from harness.jobs.session import trace_inputs
from harness.judge.rules import load_rules
from harness.locate.faults import locate, summarise_hop
from harness.names.coverage import Absence
from harness.names.recipes import Rules
from harness.names.stages import HF, ORACLE, REAUTHORED, Stage, hops_of, named, stage_named
from harness.pipeline.flatbuffers import write_tapped_and_plan
from harness.record.record import Finding
from harness.record.tap_row import taps_frame

MODEL = "tiny_llama"


@dataclass(frozen=True)
class QuantisedFile:
    """A file, its tapped copy and where its taps are."""

    file: Path
    tapped: Path
    plan: Path

    @property
    def sources(self) -> dict[str, Any]:
        return dict(AlignmentPlan.read(self.plan).sources)


def model() -> Bench:
    return bench(MODEL)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="edge-parity-quantised-")


@functools.cache
def rules_of(mode: str) -> Rules:
    """The rules of a mode of litert-torch."""
    return list(model().own().recipe_rules(mode))


@functools.cache
def quantised(mode: str) -> QuantisedFile:
    """The miniature's file in a mode of litert-torch."""
    file = Path(_folder().name) / mode / "model.tflite"
    file.parent.mkdir()
    quantise(model().flatbuffer, rules_of(mode), file, mode)
    return aligned(file)


def aligned(file: Path) -> QuantisedFile:
    folder = file.with_suffix(".tapped")
    folder.mkdir()
    write_tapped_and_plan(file, folder, model().prepared)
    return QuantisedFile(file, folder / "model.tflite", folder / "plan.json")


def audited(file: Path, mode: str, own: QuantisedFile | None = None, rules: Rules | None = None) -> list[Finding]:
    """What the audit of the recipe finds. own: where the file's taps are; none: it is laid out as the mode's own."""
    plain = Float32Weights(FlatbufferModel(model().flatbuffer), AlignmentPlan.read(model().tapped[1]).sources)
    sources = (own or quantised(mode)).sources
    return audit_recipe(FlatbufferModel(file), sources, rules or rules_of(mode), mode, plain.of)[0]


class Weight:
    """A layer's weight in a file that is being rewritten: one set of numbers, and scales for each signature."""

    def __init__(self, work: Rewriting, mode: str, layer: str) -> None:
        self.work = work
        source = quantised(mode)
        file = FlatbufferModel(source.file)
        self.file = file
        self.places = []
        for signature, sources in source.sources.items():
            graph = file.subgraph(file.signatures[signature].subgraph)
            found = next(weight for weight in layer_weights(file, graph, sources) if weight.layer == layer)
            self.places.append((graph.index, found.constant))
            self.held = held(file, graph, found.constant)

    @property
    def tensors(self) -> list[Any]:
        return [self.work.model.subgraphs[graph].tensors[index] for graph, index in self.places]

    def scales(self, change: Callable[[np.ndarray], None], signatures: slice = slice(None)) -> None:
        """Change the scales, `[channels]` or `[rows, blocks]`, in place. signatures: of which ones."""
        for (graph, _), tensor in list(zip(self.places, self.tensors, strict=True))[signatures]:
            details = tensor.quantization.details
            if details is None:
                values = np.array(tensor.quantization.scale, np.float32)
                change(values)
                tensor.quantization.scale = values
            else:
                holder = self.work.model.subgraphs[graph].tensors[details.scales]
                dtype = {0: np.float32, 1: np.float16}[holder.type]
                values = self._bytes(holder.buffer).view(dtype).reshape(self.held.scale.shape).copy()
                change(values)
                self._put(holder, values.view(np.uint8).reshape(-1))

    def zero_points(self, change: Callable[[np.ndarray], None]) -> None:
        for tensor in self.tensors:
            points = tensor.quantization.zeroPoint
            values = np.zeros(len(tensor.quantization.scale), np.int64) if points is None else np.array(points)
            change(values)
            tensor.quantization.zeroPoint = values

    def numbers(self, change: Callable[[np.ndarray], np.ndarray]) -> None:
        """Change the bytes that hold the numbers."""
        first = self.tensors[0]
        changed = change(self._bytes(first.buffer).copy())
        for number in {tensor.buffer for tensor in self.tensors}:
            self._put_bytes(number, changed)

    def _bytes(self, number: int) -> np.ndarray:
        """As the file has them: whoever changes a buffer twice starts again."""
        return np.asarray(self.file.buffer(number), np.uint8)

    def _put(self, tensor: Any, values: np.ndarray) -> None:
        """Into a buffer of its own: others may share the old one."""
        from ai_edge_litert import schema_py_generated as schema

        self.work.model.buffers.append(schema.BufferT())
        tensor.buffer = len(self.work.model.buffers) - 1
        self._put_bytes(tensor.buffer, values)

    def _put_bytes(self, number: int, values: np.ndarray) -> None:
        buffer = self.work.model.buffers[number]
        buffer.data, buffer.offset, buffer.size = values, 0, 0


def broken(mode: str, layer: str, change: Callable[[Weight], Any], target: Path) -> Path:
    """A copy of the mode's file in which something is wrong with the weight of a layer."""
    work = Rewriting(quantised(mode).file)
    change(Weight(work, mode, layer))
    work.write(target)
    return target


class QuantisedBench:
    """The stages of a recipe's file in this process, beside the sound traces of the miniature.

    kernels: the stage that runs the file, without its recipe.
    """

    def __init__(self, mode: str, kernels: str, folder: Path) -> None:
        self.mode, self.folder = mode, folder
        self.runtime = stage_named(named(kernels, mode))
        self.fake = stage_named(self.runtime.reference)
        for path in model().sound.iterdir():
            (folder / path.name).symlink_to(path)
        self.trace(self.fake, quantised(mode))

    def trace(self, stage: Stage, files: QuantisedFile, named_as: Stage | None = None, local: bool = False) -> None:
        """Run a stage on a file. named_as: in whose place its values stand. local: with the fake-quantised ones."""
        given = {"flatbuffer": files.file, "tapped": files.tapped, "plan": files.plan}
        job = model().job(stage.name, self.folder, None, given)
        reference = self.folder / self.fake.name if local else None
        traces = self.folder / (named_as or stage).name
        trace_inputs(job.model_copy(update={"traces": traces, "reference": reference}), Silent())

    def run(self, files: QuantisedFile) -> Outcome:
        """The runtime on a file that may be another than the fake-quantised stage has read."""
        for local in (False, True):
            self.trace(self.runtime, files, local=local)
        return self.judge()

    def judge(self) -> Outcome:
        prepared, rules = model().prepared, load_rules()
        stages = (REAUTHORED, self.fake.name, self.runtime.name)
        inputs = [item.id for item in prepared.inputs]
        facts = PlanFacts.read(quantised(self.mode).plan)

        def why_missing(stage: str, tap: str) -> Absence:
            return facts.why_missing(stage, tap) if stage_named(stage).runs_file else Absence(f"not in {stage}")

        hops = hops_of(stages)
        compared = compare_traces(
            self.folder, {ORACLE, HF, *stages}, inputs, prepared.taps, prepared.model, rules, why_missing, hops
        )
        errors = local_errors(self.folder, compared.hops, inputs, prepared.taps)
        frame = taps_frame(with_local(compared.rows, errors, rules))
        found = {hop.name: summarise_hop(hop, frame, prepared.taps, compared.logits.get(hop.name), 0.9) for hop in hops}
        faults = locate(list(found.values()), frame, prepared.modules, {})
        return Outcome(frame, found, faults[0] if faults else None, faults, [])
