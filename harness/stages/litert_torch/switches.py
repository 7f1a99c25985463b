"""The re-authored model with the numbers of a quantised file in some of its layers, chosen one by one.

In: an open session and what the file holds of each layer. Out: logits for any choice, and each layer's error by itself.
A change in a block leaves the blocks before it as they were: these give what they gave before, and are not run again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from harness.align.layout import split_gate, split_heads
from harness.align.modules import ModuleMap, ModuleTap
from harness.align.weights import LAYER_POINTS
from harness.jobs.job import Job, JobInput
from harness.jobs.session import AS_NAMED
from harness.jobs.switches import Logits, OwnError, SwitchedTensor
from harness.names.taps import EMBED, LOGITS, block_tap
from harness.stages.litert_torch.fakequant import EMBEDDING, HEAD, FakeLayer, faked, held_layers
from harness.stages.litert_torch.modules import own_modules
from harness.stages.litert_torch.stage import Reauthored, new_cache
from harness.stages.litert_torch.stage import open_session as open_reauthored
from harness.stages.torch.fake_quantised import RowGrid, linear
from harness.system.attributes import set_within

_OUTLIERS = 0.01  # of the channels
Forward = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class TensorPart:
    """What is chosen at once: a weight, or the rows of one that are queries, keys, values, gate or up.

    name: the taps that it makes. layers: those whose weight it is: two for one that is embedding and head.
    block: None outside the blocks. rows: which outputs of the layer are its own, `[out]`; None for all.
    """

    name: str
    layer: str
    layers: tuple[FakeLayer, ...]
    block: int | None
    rows: torch.Tensor | None = None

    @property
    def size(self) -> int:
        matrix = self.layers[0].numbers.matrix
        share = 1.0 if self.rows is None else float(self.rows.sum()) / len(self.rows)
        return round(matrix.numel() * share)


def parts_of(own: Reauthored, layers: Sequence[FakeLayer], *, tied: bool, by_layer: bool) -> list[TensorPart]:
    """In execution order. tied: whether embedding and head are one tensor of the file.

    by_layer: without telling apart what one projection makes.
    """
    modules = own_modules(own.model, fused_gate=own.job.dimensions.fused_gate)
    by_module = {layer.module: layer for layer in layers}
    embedding, head = by_module[EMBEDDING], by_module[HEAD]
    parts = [
        TensorPart(f"{EMBED}, {LOGITS}" if tied else EMBED, EMBED, (embedding, head) if tied else (embedding,), None)
    ]
    for block in range(own.job.dimensions.blocks):
        of_block = list(_of_block(own, modules, by_module, block))
        first = [part for part in of_block if part.name == part.layer]
        parts += [replace(part, rows=None) for part in first] if by_layer else of_block
    return parts if tied else [*parts, TensorPart(LOGITS, LOGITS, (head,), None)]


def _of_block(
    own: Reauthored, modules: ModuleMap, by_module: Mapping[str, FakeLayer], block: int
) -> Iterator[TensorPart]:
    first: dict[str, str] = {}
    for entry in modules.block:
        layer = by_module.get(entry.path.format(block))
        if layer is None or entry.side != "output" or entry.point not in LAYER_POINTS:
            continue
        tap = block_tap(block, entry.point)
        own_layer = first.setdefault(layer.module, tap)
        yield TensorPart(tap, own_layer, (layer,), block, _rows(own, entry, layer, block))


def _rows(own: Reauthored, entry: ModuleTap, layer: FakeLayer, block: int) -> torch.Tensor | None:
    """Which rows of a projection that makes several taps are this one's."""
    if not entry.view.startswith("split_"):
        return None
    out, part = layer.numbers.matrix.shape[0], entry.view.removeprefix("split_")
    numbers = torch.arange(out).reshape(1, 1, out)
    if part in ("gate", "up"):
        chosen = split_gate(numbers, part)
    else:
        chosen = split_heads(numbers, part, own.job.dimensions.layout_of(block))
    rows = torch.zeros(out, dtype=torch.bool)
    rows[chosen.flatten()] = True
    return rows


@contextmanager
def open_switches(job: Job, items: Sequence[JobInput], *, from_file: bool, by_layer: bool) -> Iterator[LayerSwitches]:
    """See `harness/jobs/switches.py`. job: of a fake-quantised stage."""
    with open_reauthored(job, AS_NAMED) as own, ExitStack() as within:
        own.capture.idle = True
        layers: list[FakeLayer] = []
        buffers: dict[str, int] = {}
        for each in held_layers(job, own):
            layers.append(faked(job, each))
            buffers[each.name] = each.constant.buffer
        parts = parts_of(own, layers, tied=buffers[EMBED] == buffers[LOGITS], by_layer=by_layer)
        yield LayerSwitches(own, layers, {part.name: part for part in parts}, items, from_file, within)


@dataclass
class LayerSwitches:
    """`Switches` of the re-authored model. within: left when it is closed.

    resumes: whether blocks before a changed one give what they gave, and are not run again.
    """

    own: Reauthored
    layers: Sequence[FakeLayer]
    parts: Mapping[str, TensorPart]
    items: Sequence[JobInput]
    from_file: bool
    within: ExitStack
    resumes: bool = True
    _kept: dict[str, list[Any]] = field(default_factory=dict)  # input -> what each block gave
    _numbers: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # module -> its own weight and bias

    def __post_init__(self) -> None:
        for layer in self.layers:
            module = self._module(layer)
            self._numbers[layer.module] = (module.weight, getattr(module, "bias", None))
        modules = own_modules(self.own.model, fused_gate=self.own.job.dimensions.fused_gate)
        paths = (modules.layer.format(number) for number in range(self.own.job.dimensions.blocks))
        self._blocks: list[Any] = [self.own.network.get_submodule(path) for path in paths]

    @property
    def tensors(self) -> Sequence[SwitchedTensor]:
        return [SwitchedTensor(part.name, part.layer, part.size) for part in self.parts.values()]

    def float_logits(self) -> Logits:
        assert not self._kept, "it comes before the layers are switched"
        for item in self.items:
            yield item, self._run(item)

    def base_logits(self) -> Logits:
        for layer in self.layers:
            self.within.enter_context(set_within(self._module(layer), "forward", self._forward(layer, self.from_file)))
        for item in self.items:
            with self._keeping(item):
                yield item, self._run(item)

    @contextmanager
    def _keeping(self, item: JobInput) -> Iterator[None]:
        """What each block gives is kept for `changed_logits`."""
        kept = self._kept[item.id] = []

        def keep(_: Any, __: Any, output: Any) -> None:
            kept.append(output)

        handles = [block.register_forward_hook(keep) for block in self._blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def changed_logits(self, name: str) -> Logits:
        part = self.parts[name]
        with ExitStack() as within:
            for layer in part.layers:
                within.enter_context(set_within(self._module(layer), "forward", self._mixed(layer, part.rows)))
            for item in self.items:
                with self._resumed(item, part):
                    yield item, self._run(item)

    @contextmanager
    def _resumed(self, item: JobInput, part: TensorPart) -> Iterator[None]:
        """Blocks before the part give what they gave: all of them for the head alone, none for the embedding."""
        after_all = 0 if part.layers[0].module == EMBEDDING else len(self._blocks)
        stop = after_all if part.block is None else part.block
        stop = stop if self.resumes else 0
        with ExitStack() as within:
            for block, output in zip(self._blocks[:stop], self._kept[item.id], strict=False):
                within.enter_context(set_within(block, "forward", partial(_given, output)))
            yield

    def _run(self, item: JobInput) -> Any:
        count = len(item.tokens)
        cache = new_cache(self.own.config, self.own.job.model_copy(update={"kv_cache_len": count}))
        tokens = torch.tensor([item.tokens], dtype=torch.int)
        output = self.own.network(tokens, torch.arange(count, dtype=torch.int), cache)
        return output[LOGITS].numpy()

    def _module(self, layer: FakeLayer) -> Any:
        return self.own.network.get_submodule(layer.module)

    def _forward(self, layer: FakeLayer, from_file: bool) -> Forward:
        """What a layer computes with the numbers of the file, or with its own."""
        if from_file and layer.rows is not RowGrid.NONE:
            return partial(linear, numbers=layer.numbers, bias=layer.bias, rows=layer.rows)
        if not from_file:
            return partial(_computed, self._module(layer), *self._numbers[layer.module])
        bias = None if layer.bias is None else torch.nn.Parameter(layer.bias, requires_grad=False)
        weight = torch.nn.Parameter(layer.numbers.matrix, requires_grad=False)
        return partial(_computed, self._module(layer), weight, bias)

    def _mixed(self, layer: FakeLayer, rows: torch.Tensor | None) -> Forward:
        """The other way than in the base, on some of its outputs."""
        other = self._forward(layer, not self.from_file)
        if rows is None:
            return other
        same = self._forward(layer, self.from_file)
        return lambda x: torch.where(rows, other(x), same(x))

    def own_errors(self) -> dict[str, OwnError]:
        assert not self._kept, "it comes before the layers are switched"
        seen: dict[str, list[torch.Tensor]] = {layer.module: [] for layer in self.layers}
        handles = [
            self._module(layer).register_forward_pre_hook(lambda _, args, into=seen[layer.module]: into.append(args[0]))
            for layer in self.layers
        ]
        try:
            for item in self.items:
                self._run(item)
        finally:
            for handle in handles:
                handle.remove()
        return {name: self._own_error(part, seen) for name, part in self.parts.items()}

    def _own_error(self, part: TensorPart, seen: Mapping[str, list[torch.Tensor]]) -> OwnError:
        layer = part.layers[-1]  # the head of a tensor that is both: there its error meets the logits
        x = torch.cat(seen[layer.module], dim=1)[0]
        rows = slice(None) if part.rows is None else part.rows
        right = self._forward(layer, False)(x).to(torch.float64)[..., rows]
        total = _squares(self._forward(layer, True)(x).to(torch.float64)[..., rows] - right)
        error = math.sqrt(total / norm) if (norm := _squares(right)) else math.inf if total else 0.0
        if layer.module == EMBEDDING:
            return OwnError(error, 0.0, 0.0)
        off = (layer.numbers.values() - self._numbers[layer.module][0].to(torch.float64))[rows]
        wide = x.to(torch.float64)
        by_weights = _squares(torch.nn.functional.linear(wide, off))
        channels = off.square().sum(0) * wide.square().sum(0)
        most = channels.topk(max(1, round(_OUTLIERS * len(channels)))).values.sum()
        quantised = layer.rows is not RowGrid.NONE and total > 0
        return OwnError(
            error,
            max(0.0, 1 - by_weights / total) if quantised else 0.0,
            float(most / channels.sum()) if float(channels.sum()) else 0.0,
        )


def _squares(values: torch.Tensor) -> float:
    return float(values.square().sum())


def _given(output: Any, *_: Any, **__: Any) -> Any:
    return output


def _computed(module: Any, weight: Any, bias: Any, *args: Any) -> torch.Tensor:
    """What a module of this kind computes with other numbers."""
    with ExitStack() as within:
        within.enter_context(set_within(module, "weight", weight))
        if bias is not None:
            within.enter_context(set_within(module, "bias", bias))
        return type(module).forward(module, *args)  # type: ignore[no-any-return]
