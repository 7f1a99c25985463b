"""Did the recipe do what it says, and are a quantised file's weights as near to the checkpoint's as their grid allows.

In: a quantised flatbuffer, where its layers are, the recipe's rules and the weights as they should be. Out: findings
that name the layer and the tensor, and how near each weight is.

What a rule asks for is read off the rule alone: ai-edge-quantizer passes over what it does not support without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.align.views import TapSource
from harness.align.weights import LayerWeight, file_weights
from harness.audit.grid import GridFit, fit
from harness.flatbuffer.constants import NARROW
from harness.flatbuffer.quantise import scope_of
from harness.flatbuffer.quantised import Held, grid_words, held
from harness.flatbuffer.reader import FlatbufferModel, Subgraph, Tensor
from harness.names.codes import FindingCode
from harness.names.owners import RECIPE
from harness.names.recipes import Rules
from harness.record.findings import Severity
from harness.record.recipes import QuantisedLayer
from harness.record.record import Finding

_SHOWN = 8
# Less than this of what a weight should be is not that weight: the coarsest recipe (2 bits) has 0.9.
_RELATED = 0.7
_FURTHER = 1.5  # times the nearest numbers' error: 2 bits for a whole channel have a cosine of 0.6, and no fault
_BY_RANGE = "min_max_uniform_quantize"  # its scales are those of the range, and of nothing else
# These round each number to the nearest step of its grid; others shift numbers, or turn the weight, on purpose.
# Not so OCTAV and MSE, whose own files of 8 bits have scales and numbers that are not the best ones.
_ROUNDING = (_BY_RANGE, "float_casting")
_NOTHING = "no_quantize"


@dataclass(frozen=True)
class AskedGrid:
    """What a recipe asks of a layer. dtype: `INT8`, empty for float32. granularity: `CHANNELWISE`, empty for float16.

    algorithm: of ai-edge-quantizer.
    """

    dtype: str = ""
    granularity: str = ""
    algorithm: str = _NOTHING

    def __str__(self) -> str:
        return grid_words(self.dtype, self.granularity)


class Float32Weights:
    """The weights of layers in a float32 file, which another audit holds against the checkpoint bit by bit."""

    def __init__(self, file: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]]) -> None:
        self._file = file
        self._found: dict[str, tuple[Subgraph, int]] = {}
        for graph, weight in file_weights(file, plans):
            self._found.setdefault(weight.layer, (graph, weight.constant))

    def of(self, layer: str) -> npt.NDArray[Any] | None:
        """Mapped, not copied; None for a layer that the file has not."""
        found = self._found.get(layer)
        return None if found is None else held(self._file, *found).whole


def audit_recipe(
    file: FlatbufferModel,
    plans: Mapping[str, Mapping[str, TapSource]],
    rules: Rules,
    recipe: str,
    weight_of: Callable[[str], npt.NDArray[Any] | None],
) -> tuple[list[Finding], list[QuantisedLayer]]:
    """What is wrong with the layers, and how near each is to its weight.

    plans: signature -> tap -> where it is. weight_of: a layer's weight as the float32 file holds it, None if unknown.
    """
    found: list[Finding] = []
    fits: dict[str, QuantisedLayer] = {}
    seen: set[tuple[object, ...]] = set()
    for graph, weight in file_weights(file, plans):
        try:
            numbers = held(file, graph, weight.constant)
        except ValueError as error:
            found.append(_unreadable(graph, weight, recipe, error))
            continue
        audit = _Layer(graph.tensors[weight.constant], weight.layer, numbers, _asked(rules, graph, weight), recipe)
        found += audit.of_grid()
        wanted = None if audit.content in seen else weight_of(weight.layer)
        if wanted is None:
            continue
        seen.add(audit.content)
        if wanted.shape != numbers.whole.shape:
            what = f"is {numbers.whole.shape}, and the checkpoint's {wanted.shape}"
            found.append(audit.finding(FindingCode.RECIPE_WEIGHT_WRONG, what))
            continue
        how_near = fit(numbers, wanted)
        fits.setdefault(weight.layer, audit.fitted(how_near))
        found += audit.of_values(how_near)
    return told_once(found, recipe), list(fits.values())


def signature_findings(
    file: FlatbufferModel, plans: Mapping[str, Mapping[str, TapSource]], recipe: str
) -> list[Finding]:
    """Layers of which signatures hold other numbers: what runs on one is right, and on the other something else."""
    known: dict[str, Held] = {}
    found: list[Finding] = []
    for graph, weight in file_weights(file, plans):
        try:
            numbers = held(file, graph, weight.constant)
        except ValueError:
            continue  # whoever takes its numbers says so
        first = known.setdefault(weight.layer, numbers)
        same = all(np.array_equal(getattr(first, part), getattr(numbers, part)) for part in ("whole", "scale", "zero"))
        if not same:
            what = "has other numbers or scales in one signature than in another"
            constant = graph.tensors[weight.constant]
            found.append(_finding(constant, weight.layer, recipe, FindingCode.RECIPE_WEIGHT_WRONG, what, "error"))
    return told_once(found, recipe)


def audit_layer(
    constant: Tensor, layer: str, numbers: Held, wanted: npt.NDArray[Any], recipe: str
) -> tuple[list[Finding], QuantisedLayer]:
    """The same for one layer of a file whose recipe is not known: what it holds is taken as asked.

    numbers: what the constant holds. wanted: the layer's weight, of the same shape.
    Whether it shifts numbers on purpose cannot be told either, so that numbers which are not the nearest are a warning,
    as long as nobody would do that on purpose: methods that shift numbers stay near the nearest ones.
    """
    audit = _Layer(constant, layer, numbers, AskedGrid(), recipe)
    found = fit(numbers, wanted)
    told = [*audit.of_values(found)]
    if not found.is_nearest and not told:
        what = f"is off by {found.error:.2g} of its norm, and the nearest numbers of its grid by {found.nearest:.2g}"
        rows = "1 row is" if found.far_rows == 1 else f"{found.far_rows} rows are"
        what += f"; {rows} further off than anybody moves them on purpose" if found.far_rows else ""
        what += _farthest(found, numbers)
        severity: Severity = "error" if found.far_rows else "warning"
        told.append(audit.finding(FindingCode.RECIPE_WEIGHT_WRONG, what, severity))
    return told, audit.fitted(found)


def _farthest(found: GridFit, numbers: Held) -> str:
    """Where a blockwise weight is worst, in words; empty where no block is too far off."""
    worst, size = found.farthest, numbers.grid.block
    if worst is None:
        return ""
    begin, many = worst.block * size, f"{found.far_blocks} block{'s are' if found.far_blocks > 1 else ' is'}"
    return (
        f"; {many} too far off, most block {worst.block} of row {worst.row} (numbers {begin} to {begin + size - 1}), "
        f"by {worst.error:.2g} of its norm, and the nearest numbers by {worst.nearest:.2g}"
    )


def _asked(rules: Rules, graph: Subgraph, weight: LayerWeight) -> AskedGrid:
    """By the last rule that matches the layer's operator: its kind, and the names of what it gives."""
    scope = scope_of(graph, weight.operator)
    asked = AskedGrid()
    for rule in rules:
        if rule["operation"] in ("*", weight.operator.kind) and re.search(str(rule["regex"]), scope):
            asked = _grid_of(rule)
    return asked


def _grid_of(rule: Mapping[str, Any]) -> AskedGrid:
    if rule["algorithm_key"] == _NOTHING:
        return AskedGrid()
    config = (rule.get("op_config") or {}).get("weight_tensor_config") or {}
    if not config:
        return AskedGrid()
    dtype = f"{config.get('dtype', 'INT')}{config.get('num_bits', 8)}"
    granularity = str(config.get("granularity", "TENSORWISE")) if dtype.startswith("INT") else ""
    return AskedGrid(dtype, granularity, str(rule["algorithm_key"]))


class _Layer:
    """A layer of one signature, and what is wrong with how it is held."""

    def __init__(self, constant: Tensor, layer: str, numbers: Held, asked: AskedGrid, recipe: str) -> None:
        self.constant, self.layer, self.held = constant, layer, numbers
        self.asked, self.recipe = asked, recipe

    @property
    def content(self) -> tuple[object, ...]:
        """What says that two signatures hold the same: they share numbers, and each has scales of its own."""
        grid = (self.held.scale.tobytes(), self.held.zero.tobytes(), self.held.grid)
        return self.layer, self.constant.buffer, *grid

    def fitted(self, found: GridFit) -> QuantisedLayer:
        grid = self.held.grid
        return QuantisedLayer(
            layer=self.layer,
            tensor=self.constant.name,
            grid=str(grid),
            bits=grid.bits,
            size=self.held.whole.size,
            error=found.error,
            nearest=found.nearest,
            best=found.best,
            cosine=found.cosine,
            saturated=found.saturated,
        )

    def of_grid(self) -> Iterator[Finding]:
        grid = self.held.grid
        dtype = "" if grid.dtype == "FLOAT32" else grid.dtype
        if (dtype, grid.granularity) == (self.asked.dtype, self.asked.granularity):
            return
        code = FindingCode.RECIPE_NOT_APPLIED if not dtype else FindingCode.RECIPE_DIFFERS
        yield self.finding(code, f"is {grid}, and the recipe asks for {self.asked}")

    def of_values(self, found: GridFit) -> Iterator[Finding]:
        if found.scales_wrong:
            what = f"has {found.scales_wrong} of {found.channels} scales that are zero, negative or not finite"
            yield self.finding(FindingCode.RECIPE_SCALE_WRONG, what)
        elif not np.isfinite(found.error) or (found.cosine < _RELATED and found.error > _FURTHER * found.nearest):
            what = f"is not this checkpoint's weight (cosine {found.cosine:.2f})"
            yield self.finding(FindingCode.RECIPE_WEIGHT_WRONG, what)
        elif self.asked.algorithm in _ROUNDING or self.held.grid.dtype not in NARROW:
            yield from self._of_error(found)
        if found.wide:
            what = f"uses less than half of the steps in {found.wide} of {found.channels} channels or blocks"
            yield self.finding(FindingCode.RECIPE_SCALE_WIDE, what, "warning")

    def _of_error(self, found: GridFit) -> Iterator[Finding]:
        nearest = f"{found.nearest:.2g}"
        if found.spans_off and self.asked.algorithm == _BY_RANGE:
            what = f"has {found.spans_off} of {found.channels} scales that are not those of its numbers' range"
            yield self.finding(FindingCode.RECIPE_SCALE_WRONG, f"{what}, and is off by {found.error:.2g} of its norm")
        elif not found.is_nearest:
            what = f"is off by {found.error:.2g} of its norm, and the nearest numbers of its own grid by {nearest}"
            count = f"; {found.beyond} of {self.held.whole.size} numbers are not the nearest" if found.beyond else ""
            zero = ", and zero points are not 0" if found.off_zero else ""
            yield self.finding(FindingCode.RECIPE_WEIGHT_WRONG, what + count + zero + _farthest(found, self.held))
        elif found.nearest > 2 * found.best and found.nearest > 1e-6:
            what = f"is off by {nearest} of its norm, and with other scales of the same kind by {found.best:.2g}"
            yield self.finding(FindingCode.RECIPE_SCALE_WRONG, what)

    def finding(self, code: FindingCode, what: str, severity: Severity = "error") -> Finding:
        return _finding(self.constant, self.layer, self.recipe, code, what, severity)


def _unreadable(graph: Subgraph, weight: LayerWeight, recipe: str, error: ValueError) -> Finding:
    what = f"cannot be read ({error})"
    return _finding(
        graph.tensors[weight.constant], weight.layer, recipe, FindingCode.RECIPE_WEIGHT_WRONG, what, "error"
    )


def _finding(constant: Tensor, layer: str, recipe: str, code: FindingCode, what: str, severity: Severity) -> Finding:
    name = constant.name.split(";")[0].rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    return Finding(
        kind="weights",
        code=code,
        severity=severity,
        what=f"the weight of {layer} in the {recipe} flatbuffer ({name}) {what}",
        owner=f"{RECIPE} {recipe}" if severity == "error" else "",
        key=layer,
    )


def told_once(found: Sequence[Finding], recipe: str) -> list[Finding]:
    """Each layer once, though its signatures call the tensor by other names; of many of one kind the first few, and how
    many more there are."""
    once: dict[tuple[str, str], Finding] = {}
    for finding in found:
        once.setdefault((finding.code, finding.key), finding)
    by_code: dict[str, list[Finding]] = {}
    for finding in once.values():
        by_code.setdefault(finding.code, []).append(finding)
    told: list[Finding] = []
    for group in by_code.values():
        told += group[:_SHOWN]
        if len(group) > _SHOWN:
            more = f"the same of {len(group) - _SHOWN} more layers of the {recipe} flatbuffer"
            told.append(group[0].model_copy(update={"what": more, "key": ""}))
    return told
