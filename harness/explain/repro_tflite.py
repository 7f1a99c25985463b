"""The faulty range of a flatbuffer as a file of its own, with the values that it was given in the run.

In: saved evidence and the run's flatbuffer. Out: `cut.tflite` and the arrays of its inputs. The inputs are read from
the flatbuffer itself, driven through the run's schedule up to the step that shows the fault.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource
from harness.errors import UsageError
from harness.explain.evidence_file import CUT, SavedEvidence, chosen
from harness.explain.functions import Array
from harness.flatbuffer.cut import Range, range_between, write_cut
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.tap import write_tapped
from harness.inputs.tokens import Step, schedule_of, step_at
from harness.jobs.job import Job, JobInput
from harness.jobs.prepared import Prepared
from harness.stages.litert.stage import TAP_PREFIX, Runner, as_tap


def cut_out(saved: SavedEvidence, prepared: Prepared, run: Mapping[str, Any], target: Path) -> dict[str, Array]:
    """Write `cut.tflite`; returns the arrays of the script. Raises UsageError when the flatbuffer is gone."""
    flatbuffer, plan_file = Path(run["flatbuffer"]), Path(run["plan"])
    for path in (flatbuffer, plan_file):
        if not path.is_file():
            raise UsageError(f"{path} is gone, which this run used; run the model again")
    item = next(item for item in prepared.inputs if item.id == saved.input)
    step = _step(item, prepared, saved.worst)
    sources, model = AlignmentPlan.read(plan_file).sources[step.signature], FlatbufferModel(flatbuffer)
    source = sources[saved.tap]
    cut, carriers = _range(model, source, sources, saved.read, step.signature)
    names = {f"in{number}": index for number, index in enumerate(cut.inputs)}
    write_cut(flatbuffer, target / CUT, cut, names, {"out": source.tensor})
    job = _job(saved, prepared, flatbuffer, plan_file)
    values = _values(job, model, item, step, {carriers[index] for index in cut.inputs})
    shape = model.subgraph(source.subgraph).tensors[source.tensor].shape
    places = as_tap(saved.tap, np.arange(int(np.prod(shape))).reshape(shape), source, job)[0, : step.valid]
    picked = chosen(saved, step.start, step.start + step.valid)
    index = places[picked.pop("positions") - step.start]
    if source.view == "probs":
        index = index[..., : saved.expected.shape[-1]]
    inputs = {f"in/{name}": values[carriers[index_]] for name, index_ in names.items()}
    return {**inputs, **picked, "index": index}


def _step(item: JobInput, prepared: Prepared, worst: int) -> Step:
    step = step_at(schedule_of(item, prepared), worst)
    assert step is not None, "every position is computed once"
    return step


def _range(
    model: FlatbufferModel, source: TapSource, sources: Mapping[str, TapSource], read: list[str], signature: str
) -> tuple[Range, dict[int, int]]:
    """(the operators between the known taps and the fault, tensor of the cut -> tensor of the signature's subgraph)"""
    main = model.signatures[signature].subgraph
    if not source.inner:
        known = {sources[tap].tensor for tap in read if tap in sources and not sources[tap].inner}
        cut = range_between(model, source.subgraph, known - {source.tensor}, [source.tensor])
        return cut, {index: index for index in cut.inputs}
    composite = next(op for op in model.subgraph(main).operators if op.decomposition == source.subgraph)
    cut = range_between(model, source.subgraph, (), [source.tensor])
    outside = dict(zip(model.subgraph_inputs(source.subgraph), composite.inputs, strict=True))
    return cut, {index: outside[index] for index in cut.inputs}


def _job(saved: SavedEvidence, prepared: Prepared, flatbuffer: Path, plan: Path) -> Job:
    return Job(
        stage=saved.candidate,
        spec_file="",
        spec_variable="",
        checkpoint=Path(prepared.checkpoint),
        dimensions=prepared.dimensions,
        points=prepared.points,
        inputs=prepared.inputs,
        prefill=prepared.prefill,
        kv_cache_len=prepared.kv_cache_len,
        whole_up_to=prepared.whole_up_to,
        variant=prepared.variant,
        traces=flatbuffer.parent,
        flatbuffer=flatbuffer,
        plan=plan,
        threads=1,
    )


def _values(job: Job, model: FlatbufferModel, item: JobInput, step: Step, tensors: set[int]) -> dict[int, Array]:
    """Tensors of a signature's subgraph as they are at one step of an input."""
    assert job.flatbuffer
    signature = model.signatures[step.signature]
    given = {index: name for name, index in signature.inputs.items()}
    made = {f"{TAP_PREFIX}{index}": index for index in tensors - given.keys()}
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / "tapped.tflite"
        write_tapped(job.flatbuffer, copy, {step.signature: made} if made else {})
        runner = Runner(job, copy, preserve=False)
        cache = runner.empty_cache(step.signature)
        for done, outputs in runner.drive(item):
            if done == step:
                break
            cache = {name: outputs[name] for name in cache}
        arguments = {**runner.arguments(step, item.tokens), **cache}
        found = {index: outputs[name] for name, index in made.items()}
        del runner
    return {**found, **{index: arguments[name] for index, name in given.items() if index in tensors}}
