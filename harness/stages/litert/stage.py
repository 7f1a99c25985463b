"""The TFLite stages: `tflite-xnnpack` (what ships), `tflite-builtin` (no delegate) and `tflite-reference`.

In: a job with a flatbuffer, its tapped copy and the alignment plan. Out: a trace per input, and the proof
that the tapped copy computes what the untouched file computes: its own outputs, bit for bit.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import numpy as np

from harness.align.plan import AlignmentPlan
from harness.align.views import TapSource, view_tensor
from harness.flatbuffer.signatures import DECODE
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import Step, schedule_of
from harness.jobs.cache_end import last_position, past_the_cache
from harness.jobs.facts import CacheEnd, Facts, LastPosition
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.names.stages import BUILTIN, REFERENCE, XNNPACK, split
from harness.names.taps import LOGITS, split_tap
from harness.store.trace import Trace, TraceWriter

Array = np.ndarray[Any, Any]
TAP_PREFIX = "edge_parity/"
_HIDDEN = np.float32(-0.7) * np.finfo(np.float32).max
CACHE = "kv_cache_"


class TFLiteFacts(Facts):
    """How the tapped copy was proven to compute what the untouched file does."""

    runtime: str  # "ai-edge-litert 2.3.0"
    steps: int  # of all inputs
    steps_checked_against_untouched_file: int


class TFLite:
    """A `Session` of the tapped copy. It never holds that and the untouched file at once."""

    def __init__(self, job: Job) -> None:
        assert job.flatbuffer and job.tapped and job.plan
        self.job, self.plan = job, AlignmentPlan.read(job.plan).sources
        self.inner = split(job.stage)[0] != XNNPACK
        self._end: CacheEnd | None = None
        self._last: LastPosition | None = None
        self._digests: dict[str, list[str]] = {}
        self._steps = self._compared = 0
        self._differing: list[str] = []

    @functools.cached_property
    def _runner(self) -> Runner:
        assert self.job.tapped
        return Runner(self.job, self.job.tapped, preserve=self.inner)

    @functools.cached_property
    def untouched(self) -> Runner:
        """The untouched file, until the first input is traced."""
        assert self.job.flatbuffer
        return Runner(self.job, self.job.flatbuffer, preserve=False)

    def let_untouched_go(self) -> None:
        """It takes the memory that the next one needs."""
        self.__dict__.pop("untouched", None)

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        """Run the untouched file, whose outputs the tapped copy's are compared with as it runs."""
        # A delegate partitions the graph again when tensors are tapped: there every step of every input is checked.
        # Plain kernels take a second a step and run the same operators either way: there every signature is.
        traced = [item for item in inputs if not item.logits_only]
        checked = _using_every_signature(self.job) if self.inner else traced
        runner = self.untouched
        for number, item in enumerate(checked):
            report.progress(number, len(checked) + len(inputs), f"{item.id}, untouched file")
            digests = [_digest(outputs, runner.own_outputs(step)) for step, outputs in runner.drive(item)]
            self._digests[item.id] = digests
        for item in inputs:
            if item.logits_only:
                _trace_logits(runner, item, self.job)
        at_the_end = runner.empty_cache(DECODE), self.job.kv_cache_len, self.job.variant.kv_layout
        self._last = last_position(runner.decode, *at_the_end)
        self._end = past_the_cache(runner.decode, *at_the_end)
        return len(checked)

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        if item.logits_only:
            return  # the untouched file has traced it, while it was there
        self.let_untouched_go()  # before the copy comes
        digests = self._digests.get(item.id)
        steps = traced(self._runner, self.plan, item, self.job, self.inner)
        for index, (step, outputs) in enumerate(steps):
            self._steps += 1
            if digests is not None:
                self._compared += 1
                if _digest(outputs, self._runner.own_outputs(step)) != digests[index]:
                    self._differing.append(f"{item.id}: {step.signature} at position {step.start}")

    def facts(self) -> TFLiteFacts:
        return TFLiteFacts(
            runtime=runtime(),
            steps=self._steps,
            steps_checked_against_untouched_file=self._compared,
            steps_differing_from_untouched_file=self._differing,
            past_the_cache=self._end,
            last_position=self._last,
        )


def runtime() -> str:
    return f"ai-edge-litert {version('ai-edge-litert')}"


def traced(
    runner: Runner, plan: Mapping[str, dict[str, TapSource]], item: JobInput, job: Job, inner: bool
) -> Iterator[tuple[Step, dict[str, Array]]]:
    """Run an input step by step and write its trace, which is whole when the last step has been taken."""
    with TraceWriter(job.traces / item.id, len(item.tokens), sample=sample_of(item, job)) as trace:
        outputs: dict[str, Array] = {}
        for step, outputs in runner.drive(item):
            write_step(trace, plan[step.signature], step, outputs, runner, job, inner)
            yield step, outputs
        _write_cache(trace, plan[step.signature], outputs, job, len(item.tokens))


def _trace_logits(runner: Runner, item: JobInput, job: Job) -> None:
    """Write the logits of an input as the file itself gives them; of steps that give none, nothing."""
    with TraceWriter(job.traces / item.id, len(item.tokens), item.only) as trace:
        for step, outputs in runner.drive(item):
            if LOGITS in outputs:
                trace.put(LOGITS, outputs[LOGITS][:, : step.valid], step.start)


def _using_every_signature(job: Job) -> list[JobInput]:
    """The shortest inputs that together run every signature that any input runs."""
    chosen: list[JobInput] = []
    seen: set[str] = set()
    for item in sorted((item for item in job.inputs if not item.logits_only), key=lambda item: len(item.tokens)):
        used = {step.signature for step in schedule_of(item, job)}
        if not used <= seen:
            seen |= used
            chosen.append(item)
    return chosen


def tapped_outputs(plan: Mapping[str, Mapping[str, TapSource]]) -> dict[str, dict[str, int]]:
    """Signature -> output name -> tensor, for every tap that is a tensor of a signature's own subgraph."""
    return {
        name: {f"{TAP_PREFIX}{item.tensor}": item.tensor for item in sources.values() if not item.inner}
        for name, sources in plan.items()
    }


class TensorDetails(TypedDict):
    """What the runtime says of a tensor of a signature; there is more."""

    shape: NotRequired[Array]
    dtype: type[np.generic]


class SignatureRunner(Protocol):
    """A signature as ai-edge-litert runs it: arrays by name in, arrays by name out."""

    def __call__(self, **inputs: Array) -> dict[str, Array]: ...
    def get_input_details(self) -> dict[str, TensorDetails]: ...
    def get_output_details(self) -> dict[str, TensorDetails]: ...


class Runner:
    """One interpreter, driven through the schedule that a device would use."""

    def __init__(self, job: Job, path: Path, *, preserve: bool) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        resolver = {
            XNNPACK: OpResolverType.AUTO,
            BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            REFERENCE: OpResolverType.BUILTIN_REF,
        }[split(job.stage)[0]]
        self.job = job
        self.interpreter = Interpreter(
            str(path),
            num_threads=job.threads,
            experimental_op_resolver_type=resolver,
            experimental_preserve_all_tensors=preserve,
        )
        self._runners: dict[str, SignatureRunner] = {}
        self._inputs: dict[str, dict[str, TensorDetails]] = {}

    def signature(self, name: str) -> SignatureRunner:
        if name not in self._runners:
            self._runners[name] = self.interpreter.get_signature_runner(name)
        return self._runners[name]

    def inputs(self, name: str) -> dict[str, TensorDetails]:
        """What a signature takes, asked once: the runtime looks up every tensor."""
        if name not in self._inputs:
            self._inputs[name] = self.signature(name).get_input_details()
        return self._inputs[name]

    def own_outputs(self, step: Step) -> list[str]:
        names = self.signature(step.signature).get_output_details()
        return sorted(name for name in names if not name.startswith(TAP_PREFIX))

    def drive(self, item: JobInput) -> Iterator[tuple[Step, dict[str, Array]]]:
        """Every step of an input with all outputs of its signature."""
        cache: dict[str, Array] | None = None
        for step in schedule_of(item, self.job):
            run_signature = self.signature(step.signature)
            cache = self.empty_cache(step.signature) if cache is None else cache
            outputs = run_signature(**self.arguments(step, item.tokens), **cache)
            yield step, outputs
            cache = {name: outputs[name] for name in cache}

    def decode(self, position: int, cache: Mapping[str, Array]) -> dict[str, Array]:
        """One token, whose value does not matter, at any position. Raises RuntimeError where the runtime refuses it."""
        arguments = self.arguments(Step(DECODE, 1, position, 1), [0] * (position + 1))
        return dict(self.signature(DECODE)(**arguments, **cache))

    def empty_cache(self, signature: str) -> dict[str, Array]:
        details = self.inputs(signature)
        return {n: np.zeros(entry["shape"], entry["dtype"]) for n, entry in details.items() if n.startswith(CACHE)}

    def inner_tensor(self, source: TapSource) -> Array:
        return self.interpreter.get_tensor(source.tensor, source.subgraph)  # type: ignore[no-any-return]

    def arguments(self, step: Step, ids: Sequence[int]) -> dict[str, Array]:
        """ids: of the whole input."""
        details = self.inputs(step.signature)
        tokens = np.zeros((1, step.size), details["tokens"]["dtype"])
        tokens[0, : step.valid] = ids[step.start : step.start + step.valid]
        positions = np.arange(step.start, step.start + step.size, dtype=details["input_pos"]["dtype"])
        arguments = {"tokens": tokens, "input_pos": positions}
        if "mask" in details:
            arguments["mask"] = device_mask(positions, step.valid, self.job.kv_cache_len)
        return arguments


def device_mask(positions: Array, valid: int, kv_cache_len: int) -> Array:
    """The mask that a runtime feeds where it is an input: one for all layers, causal, and no window.

    As LiteRT-LM fills it (runtime/executor, `InitializeAttentionMask` and `FillAttentionMask`): -0.7 times the
    largest float32 where hidden, 0 where seen, and all hidden in rows of padding.

    positions: `[step size]`. Returns float32 `[1, 1, step size, kv_cache_len]`.
    """
    seen = np.arange(kv_cache_len)[None, :] <= positions[:, None]
    seen[valid:] = False
    return np.where(seen, np.float32(0), _HIDDEN)[None, None]


def _digest(outputs: dict[str, Array], names: list[str]) -> str:
    state = hashlib.blake2b(digest_size=16)
    for name in names:
        state.update(np.ascontiguousarray(outputs[name]).data)
    return state.hexdigest()


def write_step(
    trace: TraceWriter,
    sources: dict[str, TapSource],
    step: Step,
    outputs: dict[str, Array],
    runner: Runner,
    job: Job,
    inner: bool,
) -> None:
    for tap, source in sources.items():
        if is_cache(tap) or (source.inner and not inner):
            continue
        if not trace.kept(tap, step.start, step.start + step.valid):
            continue  # reading what lies inside a composite copies all of it
        tensor = runner.inner_tensor(source) if source.inner else outputs[f"{TAP_PREFIX}{source.tensor}"]
        values = as_tap(tap, tensor, source, job)
        if source.view == "probs":
            values = values[..., : trace.length]  # the cache is longer than the sequence
        trace.put(tap, values[:, : step.valid], step.start)


def _write_cache(
    trace: TraceWriter, sources: dict[str, TapSource], outputs: dict[str, Array], job: Job, length: int
) -> None:
    for tap, source in sources.items():
        if is_cache(tap):
            tensor = outputs[f"{TAP_PREFIX}{source.tensor}"]
            values = as_tap(tap, tensor, source, job)
            trace.put(tap, values[:, :length])


def as_tap(tap: str, tensor: Array, source: TapSource, job: Job) -> Array:
    block, _ = split_tap(tap)
    return view_tensor(tensor, source, job.dimensions.layout_of(block or 0), job.variant.kv_layout)


def is_cache(tap: str) -> bool:
    """Whether a tap is the KV cache itself, which is read once when the input has ended."""
    return split_tap(tap)[1].startswith("cache.")
