"""Record what the re-authored model computes on the way, operator by operator, as the converter takes it apart.

In: a job with one input, and a block. Out: the input's trace, and for each step of its schedule the tensors that are
computed in that block and outside of all blocks, with the parameters they are made of.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.inputs.sampling import sample_of
from harness.jobs.job import Job
from harness.stages.litert_torch.config import reauthored_config
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.loading import load_reauthored
from harness.stages.litert_torch.modules import own_modules
from harness.stages.litert_torch.stage import attention_taps, drive
from harness.stages.torch.capture import Capture, as_array, module_taps
from harness.store.trace import TraceWriter

Array = np.ndarray[Any, Any]
_LARGEST = 1 << 26  # bytes


def record(job: Job, model: GenerativeModel, block: int | None) -> dict[int, list[tuple[str, Array]]]:
    """Trace the job's one input. Returns position of the step's start -> named tensors, in order of computation."""
    from litert_torch.fx_infra import decomp

    torch.set_num_threads(job.threads)
    config = reauthored_config(model, miniature=job.miniature, layers=job.layers, hlfb=job.variant.hlfb)
    network = load_reauthored(model, job.checkpoint, config, job.kv_cache_len)
    modules, dims, capture = own_modules(model, fused_gate=job.dimensions.fused_gate), job.dimensions, Capture()
    layers = [network.get_submodule(modules.layer.format(number)) for number in range(dims.blocks)]
    names = {parameter.data_ptr(): name for name, parameter in network.named_parameters()}
    # torch.export takes the fused attention of the processor apart before the converter sees it.
    fused = torch._decomp.get_decompositions([torch.ops.aten._scaled_dot_product_flash_attention_for_cpu])
    recorder = _Recorder({**fused, **decomp.pre_lower_decomp()}, names, capture, job.record_at)
    (item,) = job.inputs
    sample = sample_of(item, job)
    with (
        torch.no_grad(),
        module_taps(network, modules, dims.blocks, dims.layout_of, capture),
        attention_taps(network, modules, dims.blocks, capture),
        TraceWriter(job.traces / item.id, len(item.tokens), sample=sample) as trace,
        _deaf_to([layer for number, layer in enumerate(layers) if number != block], recorder),
        recorder,
    ):
        capture.trace = trace
        drive(network, config, item, job, capture)
    return recorder.steps


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self, rules: dict[Any, Any], parameters: dict[int, str], capture: Capture, only_at: int | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules = rules
        self.parameters = parameters
        self.capture = capture
        self.only_at = only_at
        self.deaf = False
        self.steps: dict[int, list[tuple[str, Array]]] = {}
        self._counted = 0
        self._seen: set[tuple[int, str]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.deaf:
            return func(*args, **kwargs)
        # As torch.export and the converter do: first by the rules, then what is made of other operators anyway.
        for take_apart in (self.rules.get(func), func.decompose):
            if take_apart is not None:
                with self:
                    made = take_apart(*args, **kwargs)
                if made is not NotImplemented:
                    return made
        self._keep_parameters(args)
        result = func(*args, **kwargs)
        self._counted += 1
        for value in result if isinstance(result, (tuple, list)) else (result,):
            self._keep(f"{func} {self._counted}", value)
        return result

    def _keep_parameters(self, args: tuple[Any, ...]) -> None:
        for value in args:
            if isinstance(value, torch.Tensor) and value.data_ptr() in self.parameters:
                name = self.parameters[value.data_ptr()]
                place = (self.capture.start, f"{name} {tuple(value.shape)}")
                if place not in self._seen:
                    self._seen.add(place)
                    self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        if self.only_at not in (None, self.capture.start):
            return
        if not isinstance(value, torch.Tensor) or value.numel() * value.element_size() > _LARGEST:
            return
        # A copy: the model may reuse the memory.
        self.steps.setdefault(self.capture.start, []).append((name, np.array(as_array(value))))


@contextlib.contextmanager
def _deaf_to(layers: list[torch.nn.Module], recorder: _Recorder) -> Iterator[None]:
    def set_to(deaf: bool) -> Any:
        def hook(*_: Any) -> None:
            recorder.deaf = deaf

        return hook

    handles = [layer.register_forward_pre_hook(set_to(True)) for layer in layers]
    handles += [layer.register_forward_hook(set_to(False)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
