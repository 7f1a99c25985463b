"""The local pass of a TFLite stage: what each tap becomes in the flatbuffer when the taps before it are a reference's.

In: a job with a flatbuffer, its plan and the folder of a reference's traces. Out: a local trace per input. The
flatbuffer is cut through at every tap, so that one call of a signature computes all taps of all blocks, each from
the reference's values, with the kernels that ship.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.align.feeds import Feed, plan_feeds
from harness.align.layout import layout_cache
from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource, tensor_of
from harness.flatbuffer.reader import FlatbufferModel
from harness.flatbuffer.tap import write_severed
from harness.flatbuffer.writing import graft
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import Step, schedule_of
from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.names.stages import BUILTIN
from harness.names.taps import block_tap, split_tap
from harness.stages.litert.stage import (
    CACHE,
    TAP_PREFIX,
    Array,
    Runner,
    TensorDetails,
    as_tap,
    is_cache,
    runtime,
    tapped_outputs,
    write_step,
)
from harness.store.trace import Trace, TraceWriter, local

FED_PREFIX = "edge_parity/fed/"
SEVERED_HEAD = "severed.head"
Feeds = Mapping[str, list[Feed]]


@contextmanager
def open_local(job: Job) -> Iterator[LocalTFLite]:
    """The session of a local pass. See `harness/jobs/session.py`."""
    assert job.flatbuffer and job.plan and job.reference
    plan = AlignmentPlan.read(job.plan)
    known = [set(Trace.open(job.reference / item.id).taps) for item in job.inputs]
    present = set.intersection(*known) if known else set()
    local(job.traces).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=local(job.traces), prefix=".cut-") as folder:
        path = Path(folder) / "severed.tflite"
        feeds = _severed(job, path, plan, present)
        runner = Runner(job, path, preserve=job.stage == BUILTIN)
        yield LocalTFLite(job, runner, plan.sources, feeds, present)
        del runner


class LocalFacts(Facts):
    """How far the file was cut."""

    runtime: str  # "ai-edge-litert 2.3.0"
    taps_not_held_by_reference: list[str]  # that no value of the reference replaces


@dataclass(frozen=True)
class LocalTFLite:
    """A `Session` of the file that is cut through at every tap. present: the taps that the reference holds."""

    job: Job
    runner: Runner
    plan: Mapping[str, dict[str, TapSource]]
    feeds: Feeds
    present: set[str]

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        return 0

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        assert reference is not None, "a local pass takes a reference"
        _trace(self.runner, item, self.job, self.plan, self.feeds, reference)

    def facts(self) -> LocalFacts:
        taps = {tap for sources in self.plan.values() for tap in sources}
        return LocalFacts(runtime=runtime(), taps_not_held_by_reference=sorted(taps - self.present))


def _severed(job: Job, path: Path, plan: AlignmentPlan, present: set[str]) -> Feeds:
    """Write the severed flatbuffer; returns what is to be fed.

    The head that was written with the tapped copy serves if the reference holds every tap that it is cut at.
    """
    assert job.flatbuffer and job.tapped
    head = job.tapped.with_name(SEVERED_HEAD)
    if head.exists() and all(set(feed.taps) <= present for entries in plan.feeds.values() for feed in entries):
        graft(head, job.tapped, path)
        return plan.feeds
    file = FlatbufferModel(job.flatbuffer)
    feeds = {
        name: plan_feeds(file.subgraph(file.signatures[name].subgraph), sources, present)
        for name, sources in plan.sources.items()
    }
    write_severed(job.flatbuffer, path, tapped_outputs(plan.sources), fed_inputs(feeds))
    return feeds


def fed_inputs(feeds: Feeds) -> dict[str, dict[str, int]]:
    """Signature -> input name -> tensor, as `write_severed` takes them."""
    return {name: {f"{FED_PREFIX}{feed.tensor}": feed.tensor for feed in entries} for name, entries in feeds.items()}


def _trace(
    runner: Runner,
    item: JobInput,
    job: Job,
    plan: Mapping[str, dict[str, TapSource]],
    feeds: Feeds,
    reference: Trace,
) -> None:
    inner = job.stage == BUILTIN
    caches: dict[str, Array] = {}
    sample = sample_of(item, job, local=True)
    with TraceWriter(local(job.traces) / item.id, len(item.tokens), sample=sample) as trace:
        for step in schedule_of(item, job):
            run_signature = runner.signature(step.signature)
            details = run_signature.get_input_details()
            before = cache_before(reference, step, job, details)
            sources = plan[step.signature]
            values = {
                f"{FED_PREFIX}{feed.tensor}": fed_values(feed, sources, reference, step, job)
                for feed in feeds[step.signature]
            }
            outputs = run_signature(**runner.arguments(step, item.tokens), **before, **values)
            write_step(trace, sources, step, outputs, runner, job, inner)
            keep_cache(caches, sources, outputs, reference, step, job)
        for tap, rows in caches.items():
            trace.put(tap, rows[:, : trace.length])


def cache_before(reference: Trace, step: Step, job: Job, details: Mapping[str, TensorDetails]) -> dict[str, Array]:
    """The KV cache as the reference had written it before a step; zeros after that."""
    found = {}
    for name, entry in details.items():
        if not name.startswith(CACHE):
            continue
        part, block = name.removeprefix(CACHE).split("_")
        values = _rows(reference.load(block_tap(int(block), f"cache.{part}")), 0, step.start, job.kv_cache_len)
        found[name] = np.ascontiguousarray(layout_cache(values, part, job.variant.kv_layout), entry["dtype"])
    return found


def fed_values(feed: Feed, plan: Mapping[str, TapSource], reference: Trace, step: Step, job: Job) -> Array:
    """A tensor made of the reference's values at a step's positions; zeros in rows of padding, and in those of a long
    input that the reference does not hold."""
    taps = {}
    for source in (plan[tap] for tap in feed.taps):
        values = _in_float32(reference, source.tap)
        if is_cache(source.tap):
            rows = _rows(values, 0, step.start + step.valid, job.kv_cache_len)
        else:
            rows = _rows(values, step.start, step.valid, step.size)
        if source.view == "probs":
            room = job.kv_cache_len - rows.shape[-1]
            rows = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, room)])
        taps[source.view] = rows
    block, _ = split_tap(feed.taps[0])
    layout = job.dimensions.layout_of(block or 0)
    return tensor_of(taps, plan[feed.taps[0]], feed.shape, layout, job.variant.kv_layout)


def _in_float32(reference: Trace, tap: str) -> Array:
    """What a file can be given of a reference: the exact one has float64."""
    return np.asarray(reference.load(tap), np.float32)


def _rows(values: Array, start: int, count: int, size: int) -> Array:
    """`count` positions from `start` in an array of `size` positions, `[1, size, ...]`."""
    rows = np.zeros((1, size, *values.shape[2:]), values.dtype)
    rows[:, :count] = values[:, start : start + count]
    return rows


def keep_cache(
    caches: dict[str, Array],
    sources: Mapping[str, TapSource],
    outputs: Mapping[str, Array],
    reference: Trace,
    step: Step,
    job: Job,
) -> None:
    """Gather what each step made of the KV cache: the rows that it wrote, and earlier rows that it changed.

    The next step is given the reference's cache again, so that a row which a step destroys would be lost otherwise.
    """
    for tap, source in sources.items():
        if not is_cache(tap):
            continue
        after = as_tap(tap, outputs[f"{TAP_PREFIX}{source.tensor}"], source, job)
        kept = caches.setdefault(tap, np.zeros_like(after))
        stop = step.start + step.valid
        kept[:, step.start : stop] = after[:, step.start : stop]
        before = _in_float32(reference, tap)[:, : step.start]
        changed = np.any(after[:, : step.start] != before, axis=(0, 2, 3))
        kept[:, : step.start][:, changed] = after[:, : step.start][:, changed]
