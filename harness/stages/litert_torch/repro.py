"""The faulty piece of the re-authored model as a TorchScript file, which torch alone can load.

In: saved evidence and the model's declaration. Out: `module.pt` and the arrays of its input. The model is built again
from its declaration, so that a fixed one gives a repro that shows no fault.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.align.modules import ModuleMap
from harness.errors import UsageError
from harness.explain.evidence_file import MODULE, SavedEvidence, chosen
from harness.explain.functions import Array
from harness.jobs.prepared import Prepared
from harness.names.taps import EMBED, FINAL_NORM, LOGITS, block_tap, split_tap
from harness.spec.route import Load
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.convert import kv_layout
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.model import ReauthoredModel
from harness.stages.litert_torch.modules import own_modules
from harness.stages.litert_torch.stage import attention_taps
from harness.stages.torch.capture import Capture, module_taps


def trace_out(
    saved: SavedEvidence, prepared: Prepared, model: GenerativeModel, target: Path, load: Load | None
) -> dict[str, Array]:
    """Write `module.pt`; returns the arrays of the script. Raises UsageError for what cannot be traced."""
    config = reauthored_config(model, miniature=prepared.miniature, layers=prepared.layers, hlfb=prepared.variant.hlfb)
    own = ReauthoredModel(model, config, prepared.variant)
    network = (load or ReauthoredModel.load)(own, Path(prepared.checkpoint), prepared.kv_cache_len)
    modules = own_modules(model, fused_gate=prepared.dimensions.fused_gate)
    place = _place(saved, modules)
    known = saved.known[place.tap]
    values = known.astype(np.int32) if place.tap == "tokens" else known.astype(np.float32)
    piece = _Piece(network, config, modules, prepared, saved.tap, place, len(values))
    example = torch.from_numpy(values[None])
    trace: Any = torch.jit.trace
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _without_custom_operators():
            warnings.simplefilter("ignore")
            made = piece(example)
            frozen = torch.jit.freeze(trace(piece.eval(), (example,), check_trace=False))
            frozen.save(str(target / MODULE))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(
            f"{saved.tap} of {saved.candidate} cannot be traced ({first}); report the run folder instead"
        ) from None
    picked = chosen(saved, 0, len(values), near=place.near)
    places = np.arange(made.numel()).reshape(tuple(made.shape))[0]
    index = places[picked.pop("positions")]
    if saved.tap.endswith("attn.probs"):
        index = index[..., : saved.expected.shape[-1]]
    return {**picked, "index": index, "input": values[None]}


@contextmanager
def _without_custom_operators() -> Iterator[None]:
    """Within it, litert-torch's own operators are the torch code that they stand for, which torch alone can load."""
    from litert_torch.backend.composite import mark_tensor
    from litert_torch.generative.custom_ops import bmm_4d, dynamic_update_slice

    marks: Any = mark_tensor
    own: list[tuple[Any, str]] = [(bmm_4d, "bmm_4d"), (dynamic_update_slice, "dynamic_update_slice")]
    saved = [(module, name, getattr(module, name)) for module, name in [*own, (marks, "mark_tensor_op")]]
    for module, name in own:
        setattr(module, name, getattr(module, name)._init_fn)
    marks.mark_tensor_op = lambda tensor, **_: tensor
    try:
        yield
    finally:
        for module, name, function in saved:
            setattr(module, name, function)


@dataclass(frozen=True)
class _Place:
    """Where known values enter: as the input of a module, or in place of its output. path: none for tokens.

    near: right before the faulty tap, and not where its block begins.
    """

    tap: str
    path: str | None
    as_output: bool = False
    near: bool = True


def _place(saved: SavedEvidence, modules: ModuleMap) -> _Place:
    """As near to the fault as one known tap allows."""
    block, point = split_tap(saved.tap)
    if saved.tap == EMBED:
        return _Place("tokens", None)
    if saved.tap == LOGITS:
        return _Place(FINAL_NORM, modules.final_norm, as_output=True)
    if saved.tap == FINAL_NORM:
        return _Place(saved.read[0], modules.final_norm)
    entry = next((entry for entry in modules.block if entry.point == point), None)
    if entry is not None and entry.side == "output" and point != "out" and len(saved.read) == 1:
        return _Place(saved.read[0], entry.path.format(block))
    if saved.entering is None:
        raise UsageError(f"{saved.tap}: the evidence lacks what the block read; run the model again")
    return _Place(saved.entering, modules.layer.format(block), near=False)


class _Catch(Capture):
    """Keeps one tap in place of writing all."""

    wanted = ""
    value: Any = None

    def put(self, tap: str, values: torch.Tensor, how: str = "read", at: int = 0) -> None:
        if tap == self.wanted:
            self.value = values


class _Piece(torch.nn.Module):
    """The model from a known tap to the faulty one; what lies before and after is cut off when it is frozen."""

    def __init__(
        self, network: Any, config: Any, modules: ModuleMap, prepared: Prepared, tap: str, place: _Place, length: int
    ) -> None:
        super().__init__()
        self.network = network
        self.config, self.places, self.prepared = config, modules, prepared
        self.tap, self.place, self.length = tap, place, length

    def forward(self, x: torch.Tensor) -> Any:
        from litert_torch.generative.layers import kv_cache

        catch, dims = _Catch(), self.prepared.dimensions
        catch.wanted = self.tap
        tokens = x if self.place.path is None else torch.zeros((1, self.length), dtype=torch.int)
        cache = kv_cache.KVCache.from_model_config(
            self.prepared.kv_cache_len, self.config, kv_layout=kv_layout(self.prepared.variant)
        )
        handle = self._enter(x)
        try:
            with (
                module_taps(self.network, self.places, dims.blocks, dims.layout_of, catch),
                attention_taps(self.network, self.places, dims.blocks, catch),
            ):
                output = self.network(tokens, torch.arange(self.length, dtype=torch.int), cache)
        finally:
            if handle is not None:
                handle.remove()
        block, point = split_tap(self.tap)
        if self.tap == LOGITS:
            return output["logits"]
        if point.startswith("cache."):
            return getattr(output["kv_cache"].caches[block or 0], f"{point[-1]}_cache")
        if catch.value is None:
            raise UsageError(f"{block_tap(block or 0, point)} is not computed by the re-authored model")
        return catch.value

    def _enter(self, x: torch.Tensor) -> Any:
        if self.place.path is None:
            return None
        module = self.network.get_submodule(self.place.path)
        if self.place.as_output:
            return module.register_forward_hook(lambda *_: x)
        return module.register_forward_pre_hook(lambda _, args: (x, *args[1:]))
