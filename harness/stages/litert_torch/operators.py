"""The operators of the re-authored model, and the taps that they make.

In: a prepared model and its declaration. Out: an `OpGraph`. The taps are found with the very hooks that the stage
traces with.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from harness.align.op_graph import OpGraph
from harness.jobs.prepared import Prepared
from harness.names.taps import LOGITS, block_tap
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.convert import kv_layout
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.modules import own_modules
from harness.stages.litert_torch.packages import PACKAGES
from harness.stages.litert_torch.stage import attention_taps
from harness.stages.torch.capture import module_taps
from harness.stages.torch.op_graph import Taps, exported, graph_of, ordered

_MARKS = frozenset({f"{PACKAGES.own}.mark_tensor"})  # of a composite's border


def reauthored_ops(model: GenerativeModel, prepared: Prepared, length: int) -> OpGraph:
    """The re-authored model on `length` tokens and an empty KV cache, as it is converted."""
    from litert_torch.generative.layers import kv_cache

    dims = prepared.dimensions
    config = reauthored_config(model, miniature=prepared.miniature, layers=prepared.layers, hlfb=prepared.variant.hlfb)
    network = load_reauthored(model, Path(prepared.checkpoint), config, prepared.kv_cache_len)
    modules = own_modules(model, fused_gate=dims.fused_gate)
    cache = kv_cache.KVCache.from_model_config(prepared.kv_cache_len, config, kv_layout=kv_layout(prepared.variant))
    arguments = (torch.zeros((1, length), dtype=torch.int), torch.arange(length, dtype=torch.int), cache)
    taps = Taps()
    with ExitStack() as hooks:
        hooks.enter_context(module_taps(network, modules, dims.blocks, dims.layout_of, taps))
        hooks.enter_context(attention_taps(network, modules, dims.blocks, taps))
        program = exported(_Reauthored(network, taps), arguments)
    return ordered(graph_of(program, taps, modules.layer, PACKAGES.own, _MARKS), prepared)


class _Reauthored(torch.nn.Module):
    def __init__(self, network: Any, taps: Taps) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, tokens: torch.Tensor, input_pos: torch.Tensor, kv_cache: Any) -> Any:
        self.taps.begin()
        output = self.network(tokens, input_pos, kv_cache)
        self.taps.put(LOGITS, output["logits"])
        for block, entry in enumerate(output["kv_cache"].caches):
            self.taps.put(block_tap(block, "cache.k"), entry.k_cache)
            self.taps.put(block_tap(block, "cache.v"), entry.v_cache)
        return output, list(self.taps.found.values())
