"""The tokens that the published model goes on with: greedy, in float32, over a KV cache.

In: a `DrawRequest`. Out: a `Drawn`. Every stage is fed these tokens, so that all decode the same sequence. A stop token
is a token like any other here: what comes after it has to agree as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.jobs.prepared import ModelRequest
from harness.jobs.reporter import Reporter, costs_only_this_stage
from harness.jobs.results import Drawn
from harness.spec.code import spec_code
from harness.spec.load import load_spec, module_name
from harness.spec.model import SpecRef
from harness.spec.patched import watching
from harness.spec.rests import rests_of
from harness.spec.witness import Seen
from harness.stages.huggingface.stage import load


def draw(payload: object, report: Reporter) -> dict[str, object]:
    """Complete the inputs of a `ModelRequest` that lack tokens. Returns a `Drawn`.

    In a process of its own, which runs the spec file, since that may change what torch computes with.
    """
    request = ModelRequest.model_validate(payload)
    prepared, file, modules = request.prepared, Path(request.spec_file), frozenset(sys.modules)
    seen, since, tokens = Seen(), time.time_ns(), {}
    with seen.watching(), costs_only_this_stage():
        with watching() as watched:
            load_spec(SpecRef(file, request.spec_variable, {}))
        watched.undo()
        code = spec_code(module_name(file), modules)
        torch.set_num_threads(1)  # the same tokens on any number of cores
        with torch.inference_mode():
            network = load(Path(prepared.checkpoint), torch.float32)
            for number, item in enumerate(prepared.to_draw):
                report.progress(number, len(prepared.to_draw), item.id)
                tokens[item.id] = greedy(network, item.tokens, item.drawn, prepared.dimensions.tokens)
    rests = rests_of(seen, code, since, Path(request.cache_root))
    return Drawn(tokens=tokens, rests=rests).model_dump(mode="json")


def greedy(network: Any, tokens: Sequence[int], steps: int, known: int) -> list[int]:
    """The `steps` most likely tokens after `tokens`, one after the other, of the first `known` of the vocabulary.

    A model that takes no KV cache (OpenELM) is given all tokens so far each time.
    """
    from transformers import DynamicCache

    cache, found, given = DynamicCache(), list[int](), list(tokens)
    for _ in range(steps):
        output = network(torch.tensor([given], dtype=torch.long), past_key_values=cache, use_cache=True)
        found.append(int(output.logits[0, -1, :known].argmax()))
        takes_cache = output.past_key_values is cache
        cache, given = (cache, found[-1:]) if takes_cache else (DynamicCache(), [*tokens, *found])
    return found
