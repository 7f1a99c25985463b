"""The stage `fakequant[R]`: the re-authored model in PyTorch with the weights that a quantised file really holds.

In: a job with a checkpoint folder, a quantised flatbuffer and its alignment plan. Out: a trace per input; where the
file quantises the inputs of its layers, a second one of the same weights with those inputs as they are, which says what
one step of the grid costs.

What it shares with the re-authored stage is all but the numbers: so the hop from there is the price of the recipe, and
the hop to a runtime is the runtime's own error.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from harness.align.family import quantises_input
from harness.align.modules import ModuleMap
from harness.align.plan import AlignmentPlan
from harness.align.weights import LAYER_POINTS, LayerWeight, file_weights
from harness.audit.recipe import audit_layer, told_once
from harness.audit.vectors import held_vectors
from harness.errors import UsageError
from harness.flatbuffer.quantised import Held, held
from harness.flatbuffer.reader import FlatbufferModel, Subgraph, Tensor
from harness.jobs.job import Job
from harness.jobs.session import AS_NAMED, Given
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FAKEQUANT_BUILTIN, split
from harness.names.taps import EMBED, LOGITS, block_tap, split_tap
from harness.record.recipes import QuantisedLayer
from harness.record.record import Finding
from harness.stages.litert_torch.keys import sources_of
from harness.stages.litert_torch.modules import own_modules
from harness.stages.litert_torch.stage import Reauthored
from harness.stages.litert_torch.stage import open_session as open_reauthored
from harness.stages.torch.fake_quantised import LayerNumbers, RowGrid, linear
from harness.stages.torch.fake_session import FakeQuantisedSession, is_audited_here
from harness.system.attributes import set_within

EMBEDDING, HEAD = "tok_embedding", "lm_head"


@dataclass(frozen=True)
class FakeLayer:
    """A layer with the numbers of the file. module: its path in the network. rows: how its input is quantised."""

    module: str
    numbers: LayerNumbers
    bias: torch.Tensor | None
    rows: RowGrid


@dataclass(frozen=True)
class HeldLayer:
    """What the file holds of a layer.

    module: its path in the network. constant: the tensor that holds its weight, as `numbers`.
    divisor: what the converter has divided the weight by.
    """

    weight: LayerWeight
    module: str
    constant: Tensor
    numbers: Held
    bias: torch.Tensor | None
    divisor: float = 1.0

    @property
    def name(self) -> str:
        return self.weight.layer

    def wanted(self, own: Reauthored) -> npt.NDArray[np.float32]:
        """The weight that the file should hold, while the network still has the checkpoint's."""
        weight = own.network.get_submodule(self.module).weight
        assert isinstance(weight, torch.Tensor)
        values: npt.NDArray[np.float32] = weight.detach().numpy()
        return values if self.divisor == 1 else values / np.float32(self.divisor)


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[FakeQuantised]:
    """See `harness/jobs/session.py`."""
    with open_reauthored(job, given) as own:
        layers: list[FakeLayer] = []
        fits: list[QuantisedLayer] = []
        findings: list[Finding] = []
        for each in held_layers(job, own):
            layers.append(faked(job, each))
            if is_audited_here(job):
                told, fitted = audit_layer(each.constant, each.name, each.numbers, each.wanted(own), GIVEN_FILE)
                findings += told
                fits.append(fitted)
        with ExitStack() as replaced:
            for layer in layers:
                _put(own.network.get_submodule(layer.module), layer, replaced)
            _put_vectors(job, own, {layer.module for layer in layers}, replaced)
            yield FakeQuantised(own, layers, fits, told_once(findings, GIVEN_FILE))


class FakeQuantised(FakeQuantisedSession[Reauthored, FakeLayer]):
    """A `Session`."""

    @contextmanager
    def inputs_as_they_are(self) -> Iterator[None]:
        """Within it the inputs of no layer are quantised."""
        with ExitStack() as replaced:
            for layer in self.layers:
                if layer.rows is not RowGrid.NONE:
                    module = self.own.network.get_submodule(layer.module)
                    plain = partial(linear, numbers=layer.numbers, bias=layer.bias, rows=RowGrid.NONE)
                    replaced.enter_context(set_within(module, "forward", plain))
            yield


def _put_vectors(job: Job, own: Reauthored, layers: Collection[str], replaced: ExitStack) -> None:
    """Norms that a file of the user's has otherwise than the checkpoint. Biases of layers are the file's already.

    Of a recipe's own file they are held against the float32 file, see `harness/audit/kept.py`.
    """
    if split(job.stage)[1] != GIVEN_FILE:
        return
    assert job.flatbuffer
    sources = sources_of(own.model, own.config, job.checkpoint, own.network.state_dict())
    for parameter, values in held_vectors(FlatbufferModel(job.flatbuffer), sources, job.checkpoint).items():
        path, _, attribute = parameter.rpartition(".")
        if path not in layers:
            held_here = torch.nn.Parameter(torch.from_numpy(np.array(values, np.float32)), requires_grad=False)
            replaced.enter_context(set_within(own.network.get_submodule(path), attribute, held_here))


def held_layers(job: Job, own: Reauthored) -> Iterator[HeldLayer]:
    """What the file holds of each layer, in execution order.

    Raises UsageError for a layer of the model that the file does not hold, or holds in another shape.
    """
    assert job.flatbuffer
    assert job.plan
    file = FlatbufferModel(job.flatbuffer)
    modules = own_modules(own.model, fused_gate=job.dimensions.fused_gate)
    found = set()
    for graph, weight in file_weights(file, AlignmentPlan.read(job.plan).sources):
        module = _module_of(weight.layer, modules)
        if weight.layer not in found and module is not None:
            found.add(weight.layer)
            yield _held_layer(file, graph, weight, module, own)
    lacking = [layer for layer in _layers_of(modules, job.dimensions.blocks) if layer not in found]
    if lacking:
        raise UsageError(
            f"{job.stage}: which constants of {job.flatbuffer} are the weight of {lacking[0]} cannot be told"
            + (f", nor those of {len(lacking) - 1} more layers" if len(lacking) > 1 else "")
        )


def _held_layer(file: FlatbufferModel, graph: Subgraph, weight: LayerWeight, module: str, own: Reauthored) -> HeldLayer:
    try:
        numbers = held(file, graph, weight.constant)
        bias = None if weight.bias is None else torch.from_numpy(held(file, graph, weight.bias).values).float()
    except ValueError as error:
        raise UsageError(f"{own.job.stage}: the weight of {weight.layer} in {file.path}: {error}") from None
    layer = HeldLayer(weight, module, graph.tensors[weight.constant], numbers, bias, _divisor(own, graph, weight))
    network_has = layer.wanted(own).shape
    if numbers.whole.shape != network_has:
        shapes = f"{numbers.whole.shape} in {file.path}, and {network_has} in the re-authored model"
        raise UsageError(f"{own.job.stage}: the weight of {layer.name} is {shapes}")
    return layer


def faked(job: Job, layer: HeldLayer) -> FakeLayer:
    rows = _rows(job, layer.weight, layer.numbers)
    held_here = layer.numbers if layer.divisor == 1 else layer.numbers.times(layer.divisor)
    if rows is RowGrid.NONE:  # dequantised as the runtime does it
        numbers = LayerNumbers(torch.from_numpy(held_here.values).to(torch.float32), None)
    else:
        numbers = LayerNumbers.of(held_here)
    return FakeLayer(layer.module, numbers, layer.bias, rows)


def _divisor(own: Reauthored, graph: Subgraph, weight: LayerWeight) -> float:
    """What the converter has divided a weight by: the head's by the softcap of the logits, if its division is gone.

    `tanh(x W^T / c) * c` becomes `tanh(x (W / c)^T) * c`.
    """
    softcap = own.config.final_logit_softcap
    if weight.layer != LOGITS or not softcap:
        return 1.0
    (result,) = weight.operator.outputs
    return float(softcap) if any(op.kind == "TANH" for op in graph.consumers().get(result, [])) else 1.0


def _rows(job: Job, weight: LayerWeight, numbers: Held) -> RowGrid:
    """How the runtime quantises the input of a layer, see `harness/stages/torch/fake_quantised.py`."""
    if not quantises_input(weight, numbers.grid):
        return RowGrid.NONE
    if split(job.stage)[0] != FAKEQUANT_BUILTIN:
        return RowGrid.FROM_LEAST
    return RowGrid.FROM_LEAST_HALVES_AWAY if numbers.grid.block else RowGrid.AROUND_ZERO


def _module_of(layer: str, modules: ModuleMap) -> str | None:
    """The module that makes a tap; None for one that the re-authored model has not apart."""
    block, point = split_tap(layer)
    if block is None:
        return {EMBED: EMBEDDING, LOGITS: HEAD}[layer]
    return next((tap.path.format(block) for tap in modules.block if tap.point == point and tap.side == "output"), None)


def _layers_of(modules: ModuleMap, blocks: int) -> Iterator[str]:
    """The layers of the re-authored model, each called by the first tap that it makes."""
    yield EMBED
    for block in range(blocks):
        seen: set[str] = set()
        for tap in modules.block:
            if tap.point in LAYER_POINTS and tap.side == "output" and tap.path not in seen:
                seen.add(tap.path)
                yield block_tap(block, tap.point)
    yield LOGITS


def _put(module: torch.nn.Module, layer: FakeLayer, replaced: ExitStack) -> None:
    """Give a module the numbers of the file: as parameters, or as what it computes where its input is quantised."""
    matrix = torch.nn.Parameter(layer.numbers.matrix, requires_grad=False)
    replaced.enter_context(set_within(module, "weight", matrix))
    if layer.bias is not None:
        replaced.enter_context(set_within(module, "bias", torch.nn.Parameter(layer.bias, requires_grad=False)))
    if layer.rows is not RowGrid.NONE:
        faked = partial(linear, numbers=layer.numbers, bias=layer.bias, rows=layer.rows)
        replaced.enter_context(set_within(module, "forward", faked))
