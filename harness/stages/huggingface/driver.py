"""The Hugging Face stages step by step, on the KV cache of transformers, which grows with every call.

In: an open session of `hf` or `oracle`. Out: a `Driver`. It runs the valid tokens of a step alone: nothing is padded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from harness.inputs.tokens import Step
from harness.jobs.driver import Abilities, Array, Cache, Called, SizesOfJob, step_tokens
from harness.jobs.job import Job
from harness.names.taps import block_tap
from harness.stages.huggingface.stage import HuggingFace
from harness.stages.torch.threads import threads_set


@dataclass(frozen=True)
class HuggingFaceDriver(SizesOfJob):
    """A `Driver`."""

    session: HuggingFace
    can: ClassVar[Abilities] = Abilities(pads=False, slots=False, signatures=False)

    def named_by(self) -> Job:
        return self.session.job

    def fresh(self) -> Cache:
        from transformers import DynamicCache

        return DynamicCache()  # keeps every position, as a device's does: see `stage.py`

    def call(self, step: Step, tokens: Sequence[int], cache: Cache) -> Called:
        held = cache.length if isinstance(cache, _Recomputed) else cache.get_seq_length()
        if held != step.start:
            raise ValueError(f"{step.signature} at position {step.start}, and the cache holds {held}")
        own = step_tokens(step, tokens, pads=False)
        if isinstance(cache, _Recomputed):
            whole = [*cache.tokens, *own]
            output = self._forward(whole, self.fresh())
            return Called(output.logits[0, held:].numpy(), _Recomputed(whole, output.past_key_values.layers))
        given = _copy(cache)
        output = self._forward(own, given)
        if output.past_key_values is not given and held == 0:
            return Called(output.logits[0].numpy(), _Recomputed(own, output.past_key_values.layers))
        return Called(output.logits[0].numpy(), output.past_key_values)

    def _forward(self, tokens: list[int], cache: Any) -> Any:
        with torch.inference_mode():  # again: whoever opens another stage in this process leaves it
            given = torch.tensor([tokens], dtype=torch.long)
            return self.session.network(given, past_key_values=cache, use_cache=True)

    def slots(self, cache: Cache) -> dict[str, Array]:
        sides = [(block, layer) for block, layer in enumerate(cache.layers) if getattr(layer, "is_initialized", True)]
        return {
            block_tap(block, f"cache.{side}"): values.transpose(1, 2).clone().numpy()
            for block, layer in sides
            for side, values in (("k", layer.keys), ("v", layer.values))
        }

    @contextmanager
    def with_threads(self, threads: int) -> Iterator[HuggingFaceDriver]:
        with threads_set(threads):
            yield self


@contextmanager
def open_driver(session: HuggingFace) -> Iterator[HuggingFaceDriver]:
    """See `harness/jobs/driver.py`."""
    with session.capture.nobody_listens():
        yield HuggingFaceDriver(session)


@dataclass(frozen=True)
class _Recomputed:
    """What stands for the cache of a published model that takes none, and gives its keys and values all the same: a
    step then runs all the tokens so far."""

    tokens: list[int]
    layers: Any

    @property
    def length(self) -> int:
        return len(self.tokens)


def _copy(cache: Any) -> Any:
    """A cache that transformers may add to: a layer of it joins its tensors and new ones into others, and so the ones
    that are handed in stay."""
    from transformers import DynamicCache

    own = DynamicCache()
    own.layers = [copy(layer) for layer in cache.layers]
    return own
