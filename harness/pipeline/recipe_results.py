"""What each recipe made of the weights, for the record. In: results of tasks. Out: a `RecipeResult` each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from harness.jobs.prepared import Prepared
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import FLOAT, Floor, named, split
from harness.pipeline.recipe_files import file_mb, tapped_of
from harness.pipeline.tasks import SENSITIVITY
from harness.price.why import with_causes
from harness.processes.scheduler import Results
from harness.record.faults import Fault
from harness.record.recipes import RecipeResult
from harness.record.sensitivity import Sensitivity


def recipe_results(prepared: Prepared, results: Results, own: Path | None = None) -> list[RecipeResult]:
    """Sizes in 10^6 bytes are of the files as they are now. own: the person's flatbuffer, if one was given."""
    given = [GIVEN_FILE] if named("tap", GIVEN_FILE) in results else []
    return [_result(name, prepared, results, own) for name in (*prepared.recipes, *given)]


def _result(name: str, prepared: Prepared, results: Results, own: Path | None) -> RecipeResult:
    tapped = tapped_of(results, name)
    layers = tapped.layers if tapped is not None else []
    measured = results.get(named(SENSITIVITY, name))
    found = measured.gave(Sensitivity) if measured is not None else None
    return RecipeResult(
        name=name,
        rules=prepared.recipes.get(name, []),
        mb=file_mb(results, name, own),
        float32_mb=file_mb(results, FLOAT),
        family=tapped.family if tapped is not None else "",
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
    if dear.gain is None:  # no tensor is known to take anything from it
        return fault
    change = f"from {_nats(found.kl)} to {_nats(dear.kl)} nats"
    said = f"{dear.tensor} costs most: put back to float alone it takes the mean KL {change}"
    return fault.model_copy(update={"evidence": [*fault.evidence, said]})


def _nats(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.3g}"
