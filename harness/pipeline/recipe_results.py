"""What each recipe made of the weights, for the record. In: results of tasks. Out: a `RecipeResult` each."""

from __future__ import annotations

from pathlib import Path

from harness.jobs.prepared import Prepared
from harness.jobs.results import Converted, Tapped
from harness.names.stages import FLOAT, named
from harness.processes.scheduler import Results
from harness.record.recipes import RecipeResult


def recipe_results(prepared: Prepared, results: Results) -> list[RecipeResult]:
    """Sizes in 10^6 bytes are of the files as they are now."""
    return [_result(name, prepared, results) for name in prepared.recipes]


def _result(name: str, prepared: Prepared, results: Results) -> RecipeResult:
    tap = results.get(named("tap", name))
    tapped = tap.gave(Tapped) if tap is not None else None
    return RecipeResult(
        name=name,
        rules=prepared.recipes[name],
        mb=_file_mb(results, name),
        float32_mb=_file_mb(results, FLOAT),
        layers=tapped.layers if tapped is not None else [],
    )


def _file_mb(results: Results, recipe: str) -> float | None:
    convert = results.get(named("convert", recipe))
    made = convert.gave(Converted) if convert is not None else None
    return None if made is None else Path(made.flatbuffer).stat().st_size / 1e6
