"""Descend into a flatbuffer from a tap that is wrong to the operator that makes it wrong.

In: a TFLite stage's job and taps. Out: the operators, whose faults they are and why (`harness/operators/search.py`).
The route's own version runs once more, on an input without padding, so that every value there has its counterpart.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from harness.align.feeds import Feed
from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource
from harness.flatbuffer.cut import range_between
from harness.flatbuffer.reader import FlatbufferModel
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import Step, schedule_of
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.results import Descended
from harness.jobs.session import AS_NAMED
from harness.names.sample import Sample
from harness.names.taps import block_tap, split_tap
from harness.operators.evaluate import Evaluator
from harness.operators.matching import RecordedTaps
from harness.operators.search import OpFault, Question, find_fault
from harness.record.record import FaultyOperator
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.litert.local import cache_before, fed_values
from harness.stages.litert.ranges import RangeRunner
from harness.stages.litert.stage import Array, TensorDetails, device_mask
from harness.store.trace import Trace

# Two right float32 computations of one step differ by less, as a share of the tap's largest value.
AGREED = 2e-5


def run(payload: object, report: Reporter) -> dict[str, object]:
    """The process that finds the operators which cause taps. payload: a `Job`. Returns a `Descended`."""
    job = Job.model_validate(payload)
    with costs_only_this_stage():
        return descend(job, AS_NAMED.declared(job), report).model_dump(mode="json")


def descend(job: Job, model: Model, report: Reporter) -> Descended:
    """Find the operators that cause `job.search`.

    A tap is absent where the stage gives the reference's value of it on the reference's values of the taps before it.
    """
    faults = {}
    for number, tap in enumerate(job.search):
        report.progress(number, len(job.search), tap)
        fault = _first_signature(job, model, tap)
        if fault is not None:
            faults[tap] = fault
    return Descended(stage=job.stage, faults=faults)


def _first_signature(job: Job, model: Model, tap: str) -> FaultyOperator | None:
    for item, step, reference, recorded in _places(job, model, split_tap(tap)[0], job.search_at.get(tap)):
        fault = _descend(job, tap, item, step, reference, recorded)
        if fault is not None:
            return fault.recorded(step.signature)
    return None


def _places(
    job: Job, model: Model, block: int | None, decode_at: int | None
) -> Iterator[tuple[JobInput, Step, Trace, RecordedTaps | None]]:
    """A step of each signature, without padding, with the reference's trace and what it computes on the way.

    decode_at: the position whose decode step is looked at alone.

    The reference is the route's own version, or, where the job names a folder of traces, a stage that runs the same
    file.
    """
    if job.reference is not None:
        seen: set[str] = set()
        for item in job.inputs:
            for step in schedule_of(item, job):
                if step.valid == step.size and step.signature not in seen and _holds(sample_of(item, job), step):
                    seen.add(step.signature)
                    yield item, step, Trace.open(job.reference / item.id), None
        return
    item = unpadded_input(job, decode_at)
    with tempfile.TemporaryDirectory(prefix="edge-parity-descend-") as folder:
        alone = job.model_copy(update={"inputs": [item], "traces": Path(folder), "record_at": decode_at})
        if decode_at is None:  # a whole prefill is looked at
            alone.whole_up_to = len(item.tokens)
        recorded = route_of(model).record(alone, model, block)
        reference = Trace.open(Path(folder) / item.id)
        for step in schedule_of(item, job):
            if decode_at in (None, step.start):
                yield item, step, reference, RecordedTaps.of(recorded[step.start])


def _holds(sample: Sample | None, step: Step) -> bool:
    """Whether a trace has every position of a step, of every tap."""
    whole = [(step.start, step.start + step.valid)]
    return sample is None or sample.within(*whole[0]) == whole


def unpadded_input(job: Job, decode_at: int | None = None) -> JobInput:
    """The tokens of the job's longest input, as many as fill the smallest prefill and one step of decode.

    decode_at: as many as end in a decode step there instead, after the whole prefills that fit before it.
    """
    tokens = max((item.tokens for item in job.inputs), key=len)
    smallest, largest = min(job.prefill), max(job.prefill)
    last = smallest if decode_at is None else decode_at
    prefilled = last // largest * largest or (smallest if last >= smallest else 0)
    told = list(itertools.islice(itertools.cycle(tokens), last + 1))
    return JobInput(id="unpadded", tokens=told, decode_tail=len(told) - prefilled)


def _descend(
    job: Job, tap: str, item: JobInput, step: Step, reference: Trace, recorded: RecordedTaps | None
) -> OpFault | None:
    assert job.flatbuffer
    file = FlatbufferModel(job.flatbuffer)
    question = question_of(job, file, tap, item, step, reference)
    if question is None:
        return None
    return find_fault(Evaluator(file), question, RangeRunner(file, job.stage, job.threads), recorded, AGREED)


def question_of(
    job: Job, file: FlatbufferModel, tap: str, item: JobInput, step: Step, reference: Trace
) -> Question | None:
    """The operators between the taps before `tap` and it, with the reference's values of both.

    None where this signature does not have the tap, or the reference does not hold all of its tensor. For the
    probabilities, which lie within a composite, it is what is made of them.
    """
    assert job.plan
    whole = AlignmentPlan.read(job.plan)
    plan = whole.sources[step.signature]
    block, point = split_tap(tap)
    if tap in plan and plan[tap].inner and block is not None and point == "attn.probs":
        tap = block_tap(block, "attn.context")
    if tap not in plan or plan[tap].inner:
        return None
    usable = (feed for feed in whole.feeds[step.signature] if all(name in reference for name in feed.taps))
    feeds = {feed.tensor: feed for feed in usable}
    tensor, signature = plan[tap].tensor, file.signatures[step.signature]
    graph = file.subgraph(signature.subgraph)
    own = feeds.get(tensor) or _own_feed(plan[tap], graph.tensors[tensor].shape)
    if own is None or any(name not in reference for name in own.taps):
        return None
    cut = range_between(file, signature.subgraph, set(feeds) - {tensor}, [tensor])
    given = _signature_inputs(job, item, step, reference, file)
    inputs = {
        index: fed_values(feeds[index], plan, reference, step, job) if index in feeds else given[index]
        for index in cut.inputs
    }
    return Question(cut, inputs, tensor, fed_values(own, plan, reference, step, job))


def _own_feed(source: TapSource, shape: tuple[int, ...]) -> Feed | None:
    """For a tensor that nobody reads, such as the logits: made of its one tap, if it is one."""
    return None if source.view.startswith("split_") else Feed(source.tensor, shape, (source.tap,))


def _signature_inputs(
    job: Job, item: JobInput, step: Step, reference: Trace, file: FlatbufferModel
) -> Mapping[int, Array]:
    signature = file.signatures[step.signature]
    positions = np.arange(step.start, step.start + step.size, dtype=np.int32)
    tokens = np.asarray([item.tokens[step.start : step.start + step.size]], np.int32)
    values = {"tokens": tokens, "input_pos": positions}
    if "mask" in signature.inputs:
        values["mask"] = device_mask(positions, step.valid, job.kv_cache_len)
    details = {name: TensorDetails(dtype=np.float32) for name in signature.inputs}
    values |= cache_before(reference, step, job, details)
    return {index: values[name] for name, index in signature.inputs.items() if name in values}
