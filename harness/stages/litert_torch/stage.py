"""The re-authored stage: the litert-torch model in PyTorch, driven as a device drives the flatbuffer.

In: a job with a checkpoint folder. Out: a trace per input. Prefill chunks, padding, KV cache with its layout and
decode steps are those of the TFLite stages, so that a fault in any of them is charged to the step that made it. The
attention mask is always the model's own: where a flatbuffer takes it as an input, what is lost by that is lost there.
With a reference it is a local pass: what the KV cache receives, and so what later steps read of it, is the reference's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.align.layout import canonical_cache
from harness.align.modules import ModuleMap
from harness.errors import UsageError
from harness.inputs.sampling import sample_of
from harness.inputs.tokens import schedule_of
from harness.jobs.cache_end import last_position
from harness.jobs.facts import Facts, LastPosition
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.jobs.session import AS_NAMED, Given
from harness.names.taps import LOGITS, block_tap
from harness.record.record import Finding
from harness.spec.numerics import settle
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.convert import kv_layout
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.keys import sources_of
from harness.stages.litert_torch.model import ReauthoredModel
from harness.stages.litert_torch.modules import own_modules
from harness.stages.torch.attention import probabilities
from harness.stages.torch.capture import BlockCounter, Capture, module_taps
from harness.stages.torch.intercept import Intercept, TorchCall
from harness.store.trace import Trace, TraceWriter, local

Array = np.ndarray[Any, Any]


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[Reauthored]:
    """See `harness/jobs/session.py`."""
    torch.set_num_threads(job.threads)
    model = given.declared(job)
    if not isinstance(model, GenerativeModel):
        other = type(model).__name__
        raise UsageError(f"{job.stage} runs a GenerativeModel, and {model.name} is a {other}; leave it out of --stages")
    config = reauthored_config(model, miniature=job.miniature, layers=job.layers, hlfb=job.variant.hlfb)
    network = given.loaded(ReauthoredModel(model, config, job.variant), job.checkpoint, job.kv_cache_len)
    settle(job.threads)  # the spec's own functions have run since it was loaded
    capture, dims = Capture(), job.dimensions
    modules = own_modules(model, fused_gate=dims.fused_gate)
    with (
        torch.no_grad(),
        module_taps(network, modules, dims.blocks, dims.layout_of, capture) as absent,
        attention_taps(network, modules, dims.blocks, capture),
    ):
        yield Reauthored(job, model, network, config, capture, absent)


class ReauthoredFacts(Facts):
    """What the re-authored model computes in."""

    dtype: str  # "float32"


@dataclass
class Reauthored:
    """A `Session`."""

    job: Job
    model: GenerativeModel
    network: Any
    config: Any
    capture: Capture
    absent: list[str]
    findings: list[Finding] = field(default_factory=list)
    last: LastPosition | None = None

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        """The loaded weights, number by number. They are the same in a local pass."""
        from harness.audit.values import loaded_wrongly

        if self.job.reference is None:
            report.progress(0, len(inputs), "weights by value")
            sources = sources_of(self.model, self.config, self.job.checkpoint, self.network.state_dict())
            self.findings = loaded_wrongly(self.network, sources, self.job.checkpoint)
            cache = empty_cache(self.config, self.job)
            self.last = last_position(self._decode, *(cache, self.job.kv_cache_len, self.job.variant.kv_layout))
        return 0

    def _decode(self, position: int, cache: Mapping[str, Array]) -> dict[str, Array]:
        """One token, whose value does not matter, with a cache that holds the given numbers."""
        full = new_cache(self.config, self.job)
        for block, entry in enumerate(full.caches):
            entry.k_cache.copy_(torch.from_numpy(cache[f"kv_cache_k_{block}"]))
            entry.v_cache.copy_(torch.from_numpy(cache[f"kv_cache_v_{block}"]))
        token, positions = torch.zeros((1, 1), dtype=torch.int), torch.tensor([position], dtype=torch.int)
        return {LOGITS: self.network(token, positions, full)[LOGITS].numpy()}

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        self.trace_into(self.job.traces if reference is None else local(self.job.traces), item, reference)

    def trace_into(self, folder: Path, item: JobInput, reference: Trace | None = None) -> None:
        """Write the trace of one input into another folder than the stage's."""
        self.capture.reference = reference
        sample = sample_of(item, self.job, local=reference is not None)
        with TraceWriter(folder / item.id, len(item.tokens), item.only, sample) as self.capture.trace:
            drive(self.network, self.config, item, self.job, self.capture)

    def facts(self) -> ReauthoredFacts:
        return ReauthoredFacts(
            findings=self.findings, absent_modules=self.absent, last_position=self.last, dtype="float32"
        )


def new_cache(config: Any, job: Job) -> Any:
    from litert_torch.generative.layers import kv_cache

    return kv_cache.KVCache.from_model_config(job.kv_cache_len, config, kv_layout=kv_layout(job.variant))


def empty_cache(config: Any, job: Job) -> dict[str, Array]:
    """The KV cache by the names that a flatbuffer gives it, as NumPy arrays of zeros."""
    entries = enumerate(new_cache(config, job).caches)
    sides = ((block, side, getattr(entry, f"{side}_cache")) for block, entry in entries for side in ("k", "v"))
    return {f"kv_cache_{side}_{block}": values.numpy() for block, side, values in sides}


def drive(network: Any, config: Any, item: JobInput, job: Job, capture: Capture) -> None:
    """Run one input as a device does, with `capture` on."""
    cache = new_cache(config, job)
    for step in schedule_of(item, job):
        tokens = torch.zeros((1, step.size), dtype=torch.int)
        tokens[0, : step.valid] = torch.tensor(item.tokens[step.start : step.start + step.valid])
        positions = torch.arange(step.start, step.start + step.size, dtype=torch.int)
        capture.start, capture.valid = step.start, step.valid
        output = network(tokens, positions, cache)
        capture.put(LOGITS, output["logits"])
        cache = output["kv_cache"]
    capture.start, capture.valid = 0, len(item.tokens)
    for block, entry in enumerate(cache.caches):
        capture.put(block_tap(block, "cache.k"), canonical_cache(entry.k_cache, "k", job.variant.kv_layout))
        capture.put(block_tap(block, "cache.v"), canonical_cache(entry.v_cache, "v", job.variant.kv_layout))


@contextmanager
def attention_taps(network: Any, modules: ModuleMap, blocks: int, capture: Capture) -> Iterator[None]:
    """Overhear every attention: q and k after rope where it begins, probabilities where they are made.

    The Generative API hands both to `sdpa_with_kv_update`. The probabilities exist as a tensor only in
    models with a softcap; elsewhere they are derived from the very arguments of the fused call.
    """
    from litert_torch.generative.layers import sdpa_with_kv_update as attention

    block = BlockCounter(network.get_submodule(modules.layer.format(number)) for number in range(blocks))
    original = attention.sdpa_with_kv_update

    def overheard(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        forced = [
            capture.exchange(block_tap(block.current, point), values)
            for point, values in (("attn.q_rope", query), ("attn.k_rope", key))
        ]
        query, key = (own if put is None else put for own, put in zip((query, key), forced, strict=True))
        if capture.idle:  # nobody listens, and deriving the probabilities takes as long as attention itself
            return original(query, key, *args, **kwargs)
        with _Probabilities(block, capture, query.shape[1]):
            return original(query, key, *args, **kwargs)

    attention.sdpa_with_kv_update = overheard
    try:
        yield
    finally:
        attention.sdpa_with_kv_update = original
        block.remove()


class _Probabilities(Intercept):
    def __init__(self, block: BlockCounter, capture: Capture, time: int) -> None:
        super().__init__()
        self.block = block
        self.capture = capture
        self.time = time

    def called(self, call: TorchCall) -> Any:
        func, args, kwargs = call
        result = func(*args, **kwargs)
        if not self.capture.keeps(block_tap(self.block.current, "attn.probs"), self.time):
            return result  # deriving them takes as long as attention itself
        if func is torch.nn.functional.scaled_dot_product_attention:
            self._put(probabilities(*args, **kwargs), "derived")
        elif func is torch.nn.functional.softmax:
            self._put(result, "read")
        return result

    def _put(self, values: torch.Tensor, how: str) -> None:
        """values: `[1, heads, time, cache length]`, or with the transposed layout `[1, kv_heads, group * time, ...]`.

        The device's cache is longer than the sequence so far.
        """
        values = values.reshape(1, -1, self.time, values.shape[-1])
        trace = self.capture.trace
        length = trace.length if trace is not None else values.shape[-1]
        self.capture.put(block_tap(self.block.current, "attn.probs"), values.transpose(1, 2)[..., :length], how)
