"""The Hugging Face stages: `hf` (float32) and `oracle` (the same code in true float64).

In: a job with a checkpoint folder. Out: a trace per input. One forward pass over the whole sequence,
eager attention, so that probabilities are read and not derived. `hf` runs it several times, each with
another order of summation, so that the noise floor does not rest on one draw of the rounding. With a reference it
runs them as local passes.

A family whose attention cannot be listened to (Falcon) runs its default one, with the fused call taken apart.
Falcon's eager attention is not a substitute: in transformers 5.23 it adds the ALiBi bias twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from harness.align.modules import ModuleMap, hf_modules
from harness.errors import UsageError
from harness.inputs.sampling import sample_of
from harness.jobs.facts import Facts
from harness.jobs.job import Job, JobInput
from harness.jobs.reporter import Reporter
from harness.jobs.session import AS_NAMED, Given
from harness.names.stages import ORACLE
from harness.names.taps import LOGITS, block_tap
from harness.spec.route import route_of
from harness.stages.huggingface.frequencies import rounded_otherwise
from harness.stages.torch.attention import UnfusedAttention, query_rows, rotated
from harness.stages.torch.capture import BlockCounter, Capture, module_taps
from harness.stages.torch.float64 import TrueFloat64
from harness.stages.torch.summation import OtherSummation
from harness.store.trace import NOISE_SAMPLES, Trace, TraceWriter, local, sample
from harness.weights.configs import hf_config
from harness.weights.key_names import names_text

_ATTENTION = "edge_parity_eager"
_OTHER_FREQUENCIES = 1  # the order of summation whose run has other frequencies as well


def orders_of(stage: str) -> range:
    """The orders of summation that a stage runs each input with."""
    return range(1) if stage == ORACLE else range(NOISE_SAMPLES)


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[HuggingFace]:
    """See `harness/jobs/session.py`."""
    torch.set_num_threads(job.threads)
    model = given.published(job)  # before anything that its file could set or replace is used
    mode = TrueFloat64() if job.stage == ORACLE else None
    dtype = torch.float64 if mode else torch.float32
    capture, dims = Capture(), job.dimensions
    modules = hf_modules(route_of(model).names(model), fused_gate=dims.fused_gate)
    with mode or nullcontext(), torch.inference_mode():
        network = load(job.checkpoint, dtype)
        with module_taps(network, modules, dims.blocks, dims.hf_layout_of, capture) as absent:
            yield HuggingFace(job, network, modules, capture, mode, dtype, absent)


class HuggingFaceFacts(Facts):
    """The counts are of the oracle, and say that it is float64 throughout."""

    dtype: str  # "float64"
    torch_calls: int = 0
    narrow_results: dict[str, int] = Field(default_factory=dict)  # function -> results narrower than what it was given
    rounded: dict[str, int] = Field(default_factory=dict)  # function -> results that the model itself rounds


@dataclass(frozen=True)
class HuggingFace:
    """A `Session`. Its traces are those of each order of summation."""

    job: Job
    network: Any
    modules: ModuleMap
    capture: Capture
    mode: TrueFloat64 | None
    dtype: torch.dtype
    absent: list[str]

    def check(self, inputs: Sequence[JobInput], report: Reporter) -> int:
        return 0

    def trace(self, item: JobInput, reference: Trace | None = None) -> None:
        """Raises RuntimeError if float64 is not true."""
        self.capture.reference = reference
        # The text that is measured has no noise floor.
        for order in range(1) if item.logits_only else orders_of(self.job.stage):
            folder = sample(self.job.traces, order)
            self._trace(item, order, folder if reference is None else local(folder))

    def _trace(self, item: JobInput, order: int, folder: Path) -> None:
        sample = sample_of(item, self.job, local=self.capture.reference is not None)
        otherwise = order == _OTHER_FREQUENCIES
        with (
            OtherSummation(order) if order else nullcontext(),
            rounded_otherwise(self.network, whole_step=sample is not None) if otherwise else nullcontext(),
            TraceWriter(folder / item.id, len(item.tokens), item.only, sample) as self.capture.trace,
            attention_taps(self.network, self.modules, self.job.dimensions.blocks, self.capture),
        ):
            _forward(self.network, item.tokens, self.capture)
        if self.mode is not None and self.mode.narrow:
            raise RuntimeError(f"the oracle is not float64 throughout: {dict(self.mode.narrow)} gave narrower results")

    def facts(self) -> HuggingFaceFacts:
        mode, dtype = self.mode, str(self.dtype).removeprefix("torch.")
        if mode is None:
            return HuggingFaceFacts(absent_modules=self.absent, dtype=dtype)
        return HuggingFaceFacts(
            absent_modules=self.absent,
            dtype=dtype,
            torch_calls=mode.calls,
            narrow_results=dict(mode.narrow),
            rounded=dict(mode.rounded),
        )


def load(folder: Any, dtype: torch.dtype) -> Any:
    """The model of an HF folder, from safetensors only, with eager attention that can be listened to if it has one.

    Raises UsageError where transformers drew a parameter at random: a reference of random numbers judges nobody.
    """
    from transformers import AutoModelForCausalLM

    _register_attention()
    config = hf_config(folder)
    kind: Any = AutoModelForCausalLM._model_mapping[type(config)]
    found: Any = AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        attn_implementation=_ATTENTION if kind._supports_attention_backend else "sdpa",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    network, info = found
    drawn = [*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]
    if drawn:
        raise UsageError(f"{folder}: transformers found no values for {names_text(drawn)}; complete the checkpoint")
    return network.eval()


def _forward(network: Any, tokens: list[int], capture: Capture) -> None:
    from transformers import DynamicCache

    # One that keeps every position, as a device's does: left to itself, a layer with a window drops the first ones.
    cache = DynamicCache()
    output = network(torch.tensor([tokens], dtype=torch.long), past_key_values=cache, use_cache=True)
    capture.put(LOGITS, output.logits)
    for block, layer in enumerate(output.past_key_values.layers):
        capture.put(block_tap(block, "cache.k"), layer.keys.transpose(1, 2))  # [1, kv_heads, time, head_dim]
        capture.put(block_tap(block, "cache.v"), layer.values.transpose(1, 2))


_listeners: list[Capture] = []


@contextmanager
def attention_taps(network: Any, modules: ModuleMap, blocks: int, capture: Capture) -> Iterator[None]:
    """Within it, what goes into and comes out of every attention call is written to the trace."""
    if network.config._attn_implementation == _ATTENTION:
        _listeners.append(capture)
        try:
            yield
        finally:
            _listeners.remove(capture)
        return
    counter = BlockCounter(network.get_submodule(modules.layer.format(block)) for block in range(blocks))
    try:
        with UnfusedAttention(counter, capture):
            yield
    finally:
        counter.remove()


def _register_attention() -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

    AttentionInterface.register(_ATTENTION, _attention)
    AttentionMaskInterface.register(_ATTENTION, ALL_MASK_ATTENTION_FUNCTIONS["eager"])


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
) -> Any:
    """The model's own eager attention, overheard. query: `[1, heads, time, head_dim]`."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    for capture in _listeners:
        query = rotated(capture, block_tap(module.layer_idx, "attn.q_rope"), query)
        key = rotated(capture, block_tap(module.layer_idx, "attn.k_rope"), key)
    contexts, tap = [], block_tap(module.layer_idx, "attn.probs")
    for rows in query_rows(query):
        asked, given = (query, args) if rows is None else (query[:, :, rows], _masked(args, rows))
        context, weights = eager(module, asked, key, value, *given, **kwargs)
        for capture in _listeners:
            capture.put(tap, weights.transpose(1, 2), at=rows.start if rows else 0)
        contexts.append(context)
    return (contexts[0] if len(contexts) == 1 else torch.cat(contexts, dim=1)), weights


def _masked(args: tuple[Any, ...], rows: slice) -> tuple[Any, ...]:
    """What attention takes after query, key and value, for some queries alone: the mask is the first of it."""
    mask, *others = args or (None,)
    return (mask if mask is None else mask[..., rows, :], *others)
