"""The operators of the Hugging Face model, and the taps that they make.

In: a prepared model and its declaration. Out: an `OpGraph`. The taps are found with the very hooks that the stage
traces with.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from harness.align.modules import hf_modules
from harness.align.op_graph import OpGraph
from harness.jobs.prepared import Prepared
from harness.names.taps import LOGITS, block_tap
from harness.spec.model import Model
from harness.spec.route import route_of
from harness.stages.huggingface.stage import attention_taps, load
from harness.stages.torch.capture import module_taps
from harness.stages.torch.op_graph import Taps, exported, graph_of, ordered

# Without a cache, what would be kept is what attention reads.
_KEPT = {"cache.k": ("attn.k_rope", "attn.k"), "cache.v": ("attn.v",)}


def hf_ops(model: Model, prepared: Prepared, length: int) -> OpGraph:
    """The Hugging Face model on `length` tokens, without a cache: what it would keep are its keys and values."""
    dims = prepared.dimensions
    network = load(Path(prepared.checkpoint), torch.float32)
    modules = hf_modules(route_of(model).names(model), fused_gate=dims.fused_gate)
    taps = Taps()
    with ExitStack() as hooks:
        hooks.enter_context(module_taps(network, modules, dims.blocks, dims.hf_layout_of, taps))
        hooks.enter_context(attention_taps(network, modules, dims.blocks, taps))
        program = exported(_Hf(network, taps), (torch.zeros((1, length), dtype=torch.long),))
    graph = graph_of(program, taps, modules.layer)
    for block in range(dims.blocks):
        for kept, same in _KEPT.items():
            maker = next((tap for point in same if (tap := block_tap(block, point)) in graph.taps), None)
            if maker is not None and block_tap(block, kept) not in graph.taps:
                graph.taps[block_tap(block, kept)] = graph.taps[maker]
    return ordered(graph, prepared)


class _Hf(torch.nn.Module):
    def __init__(self, network: Any, taps: Taps) -> None:
        super().__init__()
        self.network, self.taps = network, taps

    def forward(self, tokens: torch.Tensor) -> Any:
        self.taps.begin()
        logits = self.network(tokens, use_cache=False).logits
        self.taps.put(LOGITS, logits)
        return logits, list(self.taps.found.values())
