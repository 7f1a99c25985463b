"""The TFLite stages: `tflite-xnnpack` (what ships), `tflite-builtin` (no delegate) and `tflite-reference`.

In: a job with a flatbuffer, its tapped copy and the alignment plan. Out: a trace per input, and the proof
that the tapped copy computes what the untouched file computes: its own outputs, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.views import TapSource, view_tensor
from harness.flatbuffer.signatures import DECODE
from harness.inputs import Step, schedule
from harness.names.stages import BUILTIN, REFERENCE, XNNPACK, split
from harness.spec import GenerativeModel
from harness.stages.cache_end import past_the_cache
from harness.stages.job import Job, JobInput
from harness.stages.report import Reporter
from harness.taps import split_tap
from harness.trace import TraceWriter

Array = np.ndarray[Any, Any]
TAP_PREFIX = "edge_parity/"
_HIDDEN = np.float32(-0.7) * np.finfo(np.float32).max
CACHE = "kv_cache_"


def run(job: Job, model: GenerativeModel | None, report: Reporter) -> dict[str, Any]:
    """Trace every input. Returns facts: the runtime, and the steps whose outputs differed from the untouched file's."""
    assert job.flatbuffer and job.tapped and job.plan
    plan = read_plan(job.plan)
    inner = split(job.stage)[0] != XNNPACK
    # A delegate partitions the graph again when tensors are tapped: there every step of every input is checked.
    # Plain kernels take a second a step and run the same operators either way: there every signature is.
    checked = _using_every_signature(job) if inner else job.inputs
    rounds = len(checked) + len(job.inputs)
    untouched: dict[str, list[str]] = {}
    runner = Runner(job, job.flatbuffer, preserve=False)
    for number, item in enumerate(checked):
        report.progress(number, rounds, f"{item.id}, untouched file")
        untouched[item.id] = [_digest(outputs, runner.own_outputs(step)) for step, outputs in runner.drive(item)]
    end = past_the_cache(runner.decode, runner.empty_cache(DECODE), job.kv_cache_len, job.variant.kv_layout)
    del runner

    runner = Runner(job, job.tapped, preserve=inner)
    differing: list[str] = []
    steps = compared = 0
    for number, item in enumerate(job.inputs):
        report.progress(len(checked) + number, rounds, f"{item.id}, tapped copy")
        for index, (step, outputs) in enumerate(traced(runner, plan, item, job, inner)):
            steps += 1
            if item.id in untouched:
                compared += 1
                if _digest(outputs, runner.own_outputs(step)) != untouched[item.id][index]:
                    differing.append(f"{item.id}: {step.signature} at position {step.start}")
    return {
        "runtime": f"ai-edge-litert {version('ai-edge-litert')}",
        "steps": steps,
        "steps_checked_against_untouched_file": compared,
        "steps_differing_from_untouched_file": differing,
        "past_the_cache": end.model_dump(),
    }


@contextmanager
def loaded(job: Job) -> Iterator[Callable[[JobInput], None]]:
    """Load the tapped copy once, without the untouched file. Yields what traces an input."""
    assert job.tapped and job.plan
    plan, inner = read_plan(job.plan), split(job.stage)[0] != XNNPACK
    runner = Runner(job, job.tapped, preserve=inner)

    def trace(item: JobInput) -> None:
        for _ in traced(runner, plan, item, job, inner):
            pass

    yield trace


def traced(
    runner: Runner, plan: Mapping[str, dict[str, TapSource]], item: JobInput, job: Job, inner: bool
) -> Iterator[tuple[Step, dict[str, Array]]]:
    """Run an input step by step and write its trace, which is whole when the last step has been taken."""
    with TraceWriter(job.traces / item.id, len(item.tokens)) as trace:
        outputs: dict[str, Array] = {}
        for step, outputs in runner.drive(item):
            write_step(trace, plan[step.signature], step, outputs, runner, job, inner)
            yield step, outputs
        _write_cache(trace, plan[step.signature], outputs, job, len(item.tokens))


def _using_every_signature(job: Job) -> list[JobInput]:
    """The shortest inputs that together run every signature that any input runs."""
    chosen: list[JobInput] = []
    seen: set[str] = set()
    for item in sorted(job.inputs, key=lambda item: len(item.tokens)):
        used = {step.signature for step in schedule(len(item.tokens), item.decode_tail, job.prefill, job.kv_cache_len)}
        if not used <= seen:
            seen |= used
            chosen.append(item)
    return chosen


def read_plan(path: Path) -> dict[str, dict[str, TapSource]]:
    """signature -> tap -> where it is."""
    content = json.loads(path.read_text())
    return {
        signature: {tap: TapSource(**source) for tap, source in sources.items()}
        for signature, sources in content["sources"].items()
    }


def tapped_outputs(plan: Mapping[str, Mapping[str, TapSource]]) -> dict[str, dict[str, int]]:
    """Signature -> output name -> tensor, for every tap that is a tensor of a signature's own subgraph."""
    return {
        name: {f"{TAP_PREFIX}{item.tensor}": item.tensor for item in sources.values() if not item.inner}
        for name, sources in plan.items()
    }


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
        self._runners: dict[str, Any] = {}

    def signature(self, name: str) -> Any:
        if name not in self._runners:
            self._runners[name] = self.interpreter.get_signature_runner(name)
        return self._runners[name]

    def own_outputs(self, step: Step) -> list[str]:
        names = self.signature(step.signature).get_output_details()
        return sorted(name for name in names if not name.startswith(TAP_PREFIX))

    def drive(self, item: JobInput) -> Iterator[tuple[Step, dict[str, Array]]]:
        """Every step of an input with all outputs of its signature."""
        cache: dict[str, Array] | None = None
        for step in schedule(len(item.tokens), item.decode_tail, self.job.prefill, self.job.kv_cache_len):
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
        details = self.signature(signature).get_input_details()
        return {n: np.zeros(entry["shape"], entry["dtype"]) for n, entry in details.items() if n.startswith(CACHE)}

    def inner_tensor(self, source: TapSource) -> Array:
        return self.interpreter.get_tensor(source.tensor, source.subgraph)  # type: ignore[no-any-return]

    def arguments(self, step: Step, ids: Sequence[int]) -> dict[str, Array]:
        """ids: of the whole input."""
        details = self.signature(step.signature).get_input_details()
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
