"""A re-authored model so small that a run takes milliseconds, to see whether it reacts to its config.

In: a litert-torch `ModelConfig` of a miniature's sizes. Out: logits. Weights are random but follow from a
parameter's name and shape alone, so that two models differ only where their configs make them differ.
"""

from __future__ import annotations

import copy
import zlib
from typing import Any

from harness.audit.probes import LENGTH, WINDOW
from harness.weights.configs import without_initial_weights

CACHE = 8


class Tiny:
    """Builds and runs one class of model with changing configs."""

    def __init__(self, model_class: Any) -> None:
        self.model_class = model_class
        self._values: dict[tuple[str, tuple[int, ...]], Any] = {}

    def build(self, config: Any) -> Any:
        """The model with its random weights, in eval mode."""
        with without_initial_weights():
            network = self.model_class(config, CACHE)
        # Parameters that are tied share their memory, and are given the same values: those of the later name.
        tied: dict[int, Any] = {}
        for name, parameter in network.named_parameters(remove_duplicate=False):
            tied[parameter.data_ptr()] = self._value(name, tuple(parameter.shape))
        for parameter in network.parameters():
            parameter.data = tied[parameter.data_ptr()]
        return network.eval()

    def run(self, network: Any, config: Any) -> Any:
        """Logits `[1, time, vocabulary]` of a few fixed tokens."""
        import torch
        from litert_torch.generative.layers import kv_cache

        tokens = torch.arange(1, LENGTH + 1, dtype=torch.int).unsqueeze(0)
        cache = kv_cache.KVCache.from_model_config(CACHE, config)
        return network(tokens, torch.arange(LENGTH, dtype=torch.int), cache)["logits"]

    def _value(self, name: str, shape: tuple[int, ...]) -> Any:
        import torch

        key = (name, shape)
        if key not in self._values:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            wide = 1.0 if len(shape) < 2 else 2 * shape[-1] ** -0.5
            self._values[key] = wide * torch.randn(shape, generator=generator)
        return self._values[key]


def probe_config(config: Any) -> Any:
    """A miniature's config with windows that a few tokens outgrow."""
    small = copy.deepcopy(config)
    blocks = small.block_configs if isinstance(small.block_configs, (list, tuple)) else [small.block_configs]
    for block in blocks:
        if block.attn_config.sliding_window_size is not None:
            block.attn_config.sliding_window_size = WINDOW
    return small
