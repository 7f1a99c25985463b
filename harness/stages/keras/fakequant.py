"""The stage `fakequant[R]` of the Keras route: the Keras model with the numbers that a quantised file really holds.

In: a job with a checkpoint folder, a quantised flatbuffer and its alignment plan. Out: a trace per input; where the
file quantises the inputs of its layers, a second one of the same weights with those inputs as they are.

Linear layers, the embedding and the head compute what `harness/stages/torch/fake_quantised.py` says; all else is the
code of the stage `keras`. What the file holds of norms and positions is put into the variables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.align.family import quantises_input
from harness.align.plan import AlignmentPlan
from harness.align.weights import LAYER_POINTS, LayerWeight, file_weights
from harness.audit.kept import stands_for
from harness.audit.recipe import audit_layer, told_once
from harness.audit.values import ExpectedValues
from harness.audit.vectors import held_vectors
from harness.errors import UsageError
from harness.flatbuffer.quantised import Held, constant, dequantised, held
from harness.flatbuffer.reader import FlatbufferModel, Subgraph, Tensor
from harness.flatbuffer.reads import read_constants
from harness.flatbuffer.signatures import DECODE
from harness.jobs.job import Job
from harness.jobs.session import AS_NAMED, Given
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FAKEQUANT_BUILTIN, split
from harness.names.taps import EMBED, LOGITS, block_tap, split_tap
from harness.record.recipes import QuantisedLayer
from harness.record.record import Finding
from harness.stages.keras.capture import layers_of
from harness.stages.keras.points import BLOCK, EMBEDDING, FINAL, keras_modules
from harness.stages.keras.stage import KerasSession, opened
from harness.stages.torch.fake_quantised import LayerNumbers, RowGrid, linear
from harness.stages.torch.fake_session import FakeQuantisedSession, is_audited_here
from harness.weights.parameters import ParameterSource

Array = np.ndarray[Any, Any]


@dataclass
class FakeLayer:
    """What a layer computes with the numbers of the file. name: the tap that it makes. rows: how its input is
    quantised. plain: whether its input is left as it is all the same."""

    name: str
    numbers: LayerNumbers
    bias: Any  # a tensor of torch, or None
    rows: RowGrid
    plain: bool = False

    def product(self, x: Array, out: Sequence[int]) -> Any:
        """x: float32 `[1, time, ...]`. Returns a tensor of TensorFlow, `[1, time, *out]`."""
        import tensorflow as tf
        import torch

        given = torch.from_numpy(np.array(x, np.float32).reshape(*x.shape[:2], -1))
        with torch.inference_mode():
            made = linear(given, self.numbers, self.bias, RowGrid.NONE if self.plain else self.rows)
        return tf.constant(made.numpy().reshape(*x.shape[:2], *out))

    def rows_of(self, tokens: Array) -> Any:
        """The rows of an embedding, float32 `[1, time, width]`."""
        import tensorflow as tf

        return tf.constant(self.numbers.values().numpy().astype(np.float32)[np.asarray(tokens)])


@contextmanager
def open_session(job: Job, given: Given = AS_NAMED) -> Iterator[FakeQuantised]:
    """See `harness/jobs/session.py`. Raises UsageError for a layer whose weight the file does not hold."""
    layers: list[FakeLayer] = []
    fits: list[QuantisedLayer] = []
    findings: list[Finding] = []

    def change(network: Any) -> None:
        found = held_layers(job)
        if is_audited_here(job):
            for layer in found.values():
                told, fitted = audit_layer(layer.constant, layer.name, layer.held, layer.wanted(network), GIVEN_FILE)
                findings.extend(told)
                fits.append(fitted)
        layers.extend(put_numbers(job, network, found))

    with opened(job, given, change) as own:
        put_rest(job, own)
        yield FakeQuantised(own, layers, fits, told_once(findings, GIVEN_FILE))


class FakeQuantised(FakeQuantisedSession[KerasSession, FakeLayer]):
    """A `Session`."""

    @contextmanager
    def inputs_as_they_are(self) -> Iterator[None]:
        """Within it the inputs of no layer are quantised."""
        for layer in self.layers:
            layer.plain = True
        try:
            yield
        finally:
            for layer in self.layers:
                layer.plain = False


@dataclass(frozen=True)
class HeldLayer:
    """What the file holds of a layer. held: of its constant. bias: float64, or None. scale: what the converter has
    multiplied weight and bias by."""

    name: str
    constant: Tensor
    held: Held
    bias: Array | None
    scale: float
    rows: RowGrid

    def wanted(self, network: Any) -> Array:
        """The weight that the file should hold, `[out, in]`, while the network still has the checkpoint's."""
        known = layers_of(network)
        if self.name in (EMBED, LOGITS):
            return np.array(known[EMBEDDING].embeddings)
        layer = known[layer_path(self.name)]
        flat = np.array(layer.kernel).reshape(-1, int(np.prod(_out_shape(layer))))
        return np.ascontiguousarray(flat.T) * np.float32(self.scale)

    def faked(self) -> FakeLayer:
        import torch

        here = self.held if self.scale == 1 else self.held.times(1 / self.scale)
        if self.rows is RowGrid.NONE:  # dequantised as the runtime does it
            numbers = LayerNumbers(torch.from_numpy(here.values).to(torch.float32), None)
        else:
            numbers = LayerNumbers.of(here)
        bias = None if self.bias is None else torch.from_numpy(self.bias / self.scale).float()
        return FakeLayer(self.name, numbers, bias, self.rows)


def held_layers(job: Job) -> dict[str, HeldLayer]:
    """What the file holds of each layer, by its name, in execution order. Raises UsageError for what cannot be told."""
    assert job.flatbuffer
    assert job.plan
    file, sources = FlatbufferModel(job.flatbuffer), AlignmentPlan.read(job.plan).sources
    found: dict[str, HeldLayer] = {}
    for graph, weight in file_weights(file, sources):
        if weight.layer not in found:
            scaled = any(plan[weight.layer].scaled for plan in sources.values() if weight.layer in plan)
            found[weight.layer] = _held(job, file, graph, weight, job.dimensions.head_dim**-0.5 if scaled else 1.0)
    lacking = [name for name in layer_names(job.dimensions.blocks) if name not in found]
    if lacking:
        more = f", nor those of {len(lacking) - 1} more layers" if len(lacking) > 1 else ""
        raise UsageError(
            f"{job.stage}: which constants of {job.flatbuffer} are the weight of {lacking[0]} cannot be told{more}"
        )
    return found


def put_numbers(job: Job, network: Any, held_here: Mapping[str, HeldLayer]) -> list[FakeLayer]:
    """Give each layer the numbers of the file. Returns the layers, in execution order."""
    found, known = {name: layer.faked() for name, layer in held_here.items()}, layers_of(network)
    for name in layer_names(job.dimensions.blocks):
        if name not in (EMBED, LOGITS):
            _put(known[layer_path(name)], found[name], job)
    _put_embedding(known[EMBEDDING], found[EMBED], found[LOGITS])
    return list(found.values())


def put_rest(job: Job, own: KerasSession) -> None:
    """Norms, positions and epsilons that the file has otherwise than the checkpoint and the config."""
    assert job.flatbuffer
    file, known = FlatbufferModel(job.flatbuffer), layers_of(own.network)
    linear_paths = {layer_path(name) for name in layer_names(job.dimensions.blocks) if name not in (EMBED, LOGITS)}
    rest = [s for s in own.sources if s.parameter.rpartition("/")[0] not in {*linear_paths, EMBEDDING}]
    for parameter, values in {
        **held_vectors(file, rest, job.checkpoint),
        **narrowed(file, rest, job.checkpoint),
    }.items():
        path, _, attribute = parameter.rpartition("/")
        variable = getattr(known[path], _ATTRIBUTES.get(attribute, attribute))
        variable.assign(values.reshape(variable.shape))
    norms = [known[path] for path in norm_paths(job.dimensions.blocks)]
    for norm, epsilon in zip(norms, epsilons(file, len(norms)), strict=False):
        norm.epsilon = epsilon


_ATTRIBUTES = {"embeddings": "position_embeddings"}  # of a layer -> how it calls its variable


def norm_paths(blocks: int) -> list[str]:
    """Of the norms, in execution order."""
    names = ("self_attention_layer_norm", "feedforward_layer_norm")
    return [*(f"{BLOCK.format(block)}/{name}" for block in range(blocks) for name in names), FINAL]


def narrowed(file: FlatbufferModel, sources: Sequence[ParameterSource], folder: Path) -> dict[str, Array]:
    """What the file has in fewer bits, of norms as whole numbers and of tables in float16 too: parameter -> the values,
    float32."""
    halves = [read.values for read in read_constants(file, "FLOAT16") if read.values.ndim == 2]
    expected, found = ExpectedValues(folder), {}
    for source in sources:
        wanted = expected.of(source)
        with np.errstate(over="ignore"):
            half = wanted.astype(np.float16).astype(np.float32)
        if any(values.shape == half.shape and np.array_equal(values, half) for values in halves):
            found[source.parameter] = half
        elif (whole := stands_for(file, wanted)) is not None:
            found[source.parameter] = whole[0].astype(np.float32)
    return found


def epsilons(file: FlatbufferModel, norms: int) -> list[float]:
    """What the norms of a signature add to the variance, where the file shows it of as many as there are.

    A converter that rounds every number to float16 rounds these too: of 1e-5 it keeps 1.001e-5.
    """
    graph = file.subgraph(file.signatures[DECODE].subgraph)
    writers = graph.producers()
    found = []
    for op in graph.operators:
        if op.kind == "RSQRT" and (sum_of := writers.get(op.inputs[0])) is not None and sum_of.kind == "ADD":
            values = [constant_of(file, graph, index) for index in sum_of.inputs]
            found += [float(held.reshape(-1)[0]) for held in values if held is not None and held.size == 1]
    return found if len(found) == norms else []


def constant_of(file: FlatbufferModel, graph: Subgraph, index: int) -> Array | None:
    """The numbers of a constant, or of one that is dequantised; None for what is computed."""
    op = graph.producers().get(index)
    if op is not None:
        return constant_of(file, graph, op.inputs[0]) if op.kind == "DEQUANTIZE" else None
    return constant(file, graph, index)


def layer_names(blocks: int) -> Iterator[str]:
    """The layers of the Keras model that have a weight, each called by the tap that it makes."""
    points = [tap.point for tap in keras_modules().block if tap.point in LAYER_POINTS and tap.side == "output"]
    yield EMBED
    for block in range(blocks):
        yield from (block_tap(block, point) for point in points)
    yield LOGITS


def layer_path(name: str) -> str:
    """Of a layer in a block, by its tap."""
    block, point = split_tap(name)
    return next(tap.path.format(block) for tap in keras_modules().block if tap.point == point and tap.side == "output")


def _held(job: Job, file: FlatbufferModel, graph: Subgraph, weight: LayerWeight, scale: float) -> HeldLayer:
    try:
        numbers = held(file, graph, weight.constant)
        bias = None if weight.bias is None else dequantised(file, graph, weight.bias)
    except ValueError as error:
        raise UsageError(f"{job.stage}: the weight of {weight.layer} in {file.path}: {error}") from None
    rows = rows_of(job, file, graph, weight, numbers)
    at = graph.tensors[weight.constant]
    return HeldLayer(weight.layer, at, numbers, None if bias is None else bias[0], scale, rows)


def rows_of(job: Job, file: FlatbufferModel, graph: Subgraph, weight: LayerWeight, numbers: Held) -> RowGrid:
    """How the runtime quantises the input of a layer, see `harness/stages/torch/fake_quantised.py`."""
    if not quantises_input(weight, numbers.grid):
        return RowGrid.NONE
    if split(job.stage)[0] != FAKEQUANT_BUILTIN:
        return RowGrid.FROM_LEAST
    from_least = numbers.grid.block or file.options(graph.index, weight.operator.index).get("asymmetricQuantizeInputs")
    return RowGrid.FROM_LEAST_HALVES_AWAY if from_least else RowGrid.AROUND_ZERO


def _put(layer: Any, fake: FakeLayer, job: Job) -> None:
    """Replace what a linear layer computes. Raises UsageError for a weight of another shape."""
    kernel = layer.kernel
    out = _out_shape(layer)
    wanted = (int(np.prod(out)), int(np.prod(kernel.shape)) // int(np.prod(out)))
    has = tuple(fake.numbers.matrix.shape)
    if has != wanted:
        raise UsageError(
            f"{job.stage}: the weight of {fake.name} is {has} in the file, and {wanted} in the Keras model"
        )

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        made = fake.product(np.asarray(inputs), out)
        return made if layer.activation is None else layer.activation(made)

    object.__setattr__(layer, "call", call)


def _out_shape(layer: Any) -> tuple[int, ...]:
    """What a linear layer gives for each token: `(width,)`, or `(heads, head_dim)`."""
    shape = tuple(int(size) for size in layer.kernel.shape)
    made: Callable[[], Mapping[str, Any]] = layer.get_config
    equation = str(made().get("equation", ""))
    result, kernel = equation.rpartition("->")[2], equation.partition(",")[2].partition("->")[0]
    kept = [size for size, letter in zip(shape, kernel, strict=False) if letter in result] if equation else shape[-1:]
    return tuple(kept)


def _put_embedding(layer: Any, embed: FakeLayer, head: FakeLayer) -> None:
    """The file has a weight for either use of the one table."""
    width = int(head.numbers.matrix.shape[0])

    def call(inputs: Any, reverse: bool = False) -> Any:
        return head.product(np.asarray(inputs), (width,)) if reverse else embed.rows_of(np.asarray(inputs))

    object.__setattr__(layer, "call", call)
