"""What each recipe made of the weights, for the record. In: results of tasks. Out: a `RecipeResult` each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted, Tapped
from harness.names.stages import FLOAT, Floor, named, split
from harness.pipeline.tasks import SENSITIVITY
from harness.price.why import with_causes
from harness.processes.scheduler import Results
from harness.record.faults import Fault
from harness.record.recipes import RecipeResult
from harness.record.sensitivity import Sensitivity


def recipe_results(prepared: Prepared, results: Results) -> list[RecipeResult]:
    """Sizes in 10^6 bytes are of the files as they are now."""
    return [_result(name, prepared, results) for name in prepared.recipes]


def _result(name: str, prepared: Prepared, results: Results) -> RecipeResult:
    tap = results.get(named("tap", name))
    tapped = tap.gave(Tapped) if tap is not None else None
    layers = tapped.layers if tapped is not None else []
    measured = results.get(named(SENSITIVITY, name))
    found = measured.gave(Sensitivity) if measured is not None else None
    return RecipeResult(
        name=name,
        rules=prepared.recipes[name],
        mb=_file_mb(results, name),
        float32_mb=_file_mb(results, FLOAT),
        layers=layers,
        sensitivity=with_causes(found, layers) if found is not None else None,
    )


def with_dearest(fault: Fault, recipes: Sequence[RecipeResult]) -> Fault:
    """A fault of a recipe's price with the tensor that costs most, where that was measured, as evidence."""
    if fault.between.floor is not Floor.PRICE:
        return fault
    found = next((one.sensitivity for one in recipes if one.name == split(fault.between.candidate)[1]), None)
    if found is None or not found.tensors:
        return fault
    dear = max(found.tensors, key=lambda one: -math.inf if one.gain is None else one.gain)
    change = f"from {_nats(found.kl)} to {_nats(dear.kl)} nats"
    said = f"{dear.tensor} costs most: put back to float alone it takes the mean KL {change}"
    return fault.model_copy(update={"evidence": [*fault.evidence, said]})


def _nats(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.3g}"


def _file_mb(results: Results, recipe: str) -> float | None:
    convert = results.get(named("convert", recipe))
    made = convert.gave(Converted) if convert is not None else None
    return None if made is None else Path(made.flatbuffer).stat().st_size / 1e6
