"""The stage `keras`: the KerasHub model in TensorFlow, driven as a device drives the flatbuffer.

In: a job with a checkpoint folder. Out: a trace per input. Prefill chunks, padding, KV cache and decode steps are those
of the TFLite stages, and each step is the very function that is converted. With a reference it is a local pass: what
the KV cache receives, and so what later steps read of it, is the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UsageError
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import Step, schedule_of
from harness.jobs.cache_end import last_position
from harness.jobs.facts import Facts, LastPosition
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.jobs.session import AS_NAMED, Given
from harness.names.codes import FindingCode
from harness.names.taps import LOGITS, block_tap
from harness.record.record import Finding
from harness.stages.keras.capture import Capture, layer_taps
from harness.stages.keras.declaration import KerasModel
from harness.stages.keras.imports import compute_with, import_keras_hub
from harness.stages.keras.model import sized
from harness.stages.keras.network import CACHE, empty_caches, run_step, variables_of
from harness.stages.keras.points import keras_modules
from harness.store.trace import Trace, TraceWriter, local
from harness.weights.parameters import ParameterSource

Array = np.ndarray[Any, Any]


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[KerasSession]:
    """See `harness/jobs/session.py`."""
    with opened(job, given) as session:
        yield session


@contextmanager
def opened(job: Job, given: Given, change: Callable[[Any], None] = lambda network: None) -> Iterator[KerasSession]:
    """change: is called with the loaded network, before anybody listens to its layers."""
    import_keras_hub()
    compute_with(job.threads)
    model = given.declared(job)
    if not isinstance(model, KerasModel):
        other = type(model).__name__
        raise UsageError(f"{job.stage} runs a KerasModel, and {model.name} is a {other}; leave it out of --stages")
    own = sized(model, miniature=job.miniature, layers=job.layers)
    network = given.loaded(own, job.checkpoint, job.kv_cache_len)
    capture = Capture()
    change(network)
    with layer_taps(network, keras_modules(), job.dimensions.blocks, capture) as absent:
        yield KerasSession(job, model, network, own.parameters(job.checkpoint), capture, absent)


class KerasFacts(Facts):
    """What the Keras model computes in."""

    dtype: str  # "float32"
    backend: str  # "tensorflow 2.21.0"


@dataclass
class KerasSession:
    """A `Session`."""

    job: Job
    model: KerasModel
    network: Any
    sources: list[ParameterSource]
    capture: Capture
    absent: list[str]
    findings: list[Finding] = field(default_factory=list)
    last: LastPosition | None = None

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        """The loaded weights, number by number. They are the same in a local pass."""
        if self.job.reference is None:
            report.progress(0, len(inputs), "weights by value")
            self.findings = loaded_wrongly(variables_of(self.network), self.sources, self.job.checkpoint)
            self.last = last_position(self._decode, self.empty(), self.job.kv_cache_len, "default")
        return 0

    def _decode(self, position: int, cache: Mapping[str, Array]) -> dict[str, Array]:
        return self.call(Step("decode", 1, position, 1), [0], cache)

    def empty(self) -> dict[str, Array]:
        dims = self.job.dimensions
        return empty_caches(dims.blocks, self.job.kv_cache_len, dims.kv_heads, dims.head_dim)

    def call(self, step: Step, tokens: Sequence[int], caches: Mapping[str, Array]) -> dict[str, Array]:
        """One step with a cache, which stays as it is. tokens: those of the step, `size` of them."""
        import tensorflow as tf

        given = tf.constant(np.asarray([tokens], np.int32))
        positions = tf.range(step.start, step.start + step.size, dtype=tf.int32)
        made = run_step(
            self.model, self.network, given, positions, {name: tf.constant(c) for name, c in caches.items()}
        )
        return {name: np.asarray(values) for name, values in made.items()}

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        self.trace_into(self.job.traces if reference is None else local(self.job.traces), item, reference)

    def trace_into(self, folder: Path, item: JobInput, reference: Trace | None = None) -> None:
        self.capture.reference = reference
        sample = sample_of(item, self.job, local=reference is not None)
        with TraceWriter(folder / item.id, len(item.tokens), item.only, sample) as self.capture.trace:
            self.drive(item)
        self.capture.trace = self.capture.reference = None

    def drive(self, item: JobInput) -> None:
        """Run one input as a device does, with `capture` on."""
        caches = self.empty()
        for step in schedule_of(item, self.job):
            tokens = [*item.tokens[step.start : step.start + step.valid], *[0] * (step.size - step.valid)]
            self.capture.start, self.capture.valid = step.start, step.valid
            output = self.call(step, tokens, caches)
            self.capture.put(LOGITS, output[LOGITS])
            caches = {name: output[name] for name in caches}
        self.capture.start, self.capture.valid = 0, len(item.tokens)
        for name, values in caches.items():
            side, _, block = name.removeprefix(CACHE).partition("_")
            self.capture.put(block_tap(int(block), f"cache.{side}"), values)

    def facts(self) -> KerasFacts:
        from importlib.metadata import version

        return KerasFacts(
            findings=self.findings,
            absent_modules=self.absent,
            last_position=self.last,
            dtype="float32",
            backend=f"tensorflow {version('tensorflow')}",
        )


def loaded_wrongly(own: Mapping[str, Array], sources: Sequence[ParameterSource], folder: Path) -> list[Finding]:
    """Every variable that is not, bit for bit, what its sources say; and a warning that names what has no source."""
    from harness.audit.values import differing_parameters, weights_finding

    known = [source for source in sources if source.parameter in own]
    flat = {source.parameter: own[source.parameter] for source in known}
    findings = differing_parameters(flat, known, folder, reshaped=True)
    lost = [source.parameter for source in sources if source.parameter not in own]
    findings += [
        weights_finding(FindingCode.PARAMETER_NOT_LOADED, f"the Keras model has no variable {name}", name)
        for name in lost
    ]
    unknown = sorted(own.keys() - flat.keys())
    if unknown:
        shown = ", ".join(unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        what = f"{len(unknown)} variables of the Keras model are not audited by value: {shown}"
        findings.append(weights_finding(FindingCode.PARAMETERS_NOT_AUDITED, what, severity="warning"))
    return findings
