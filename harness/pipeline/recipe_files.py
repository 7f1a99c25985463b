"""The quantised files of a run: how large each is, and its family. In: results of tasks. Out: numbers and names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.jobs.results import Converted, Tapped
from harness.names.recipes import GIVEN_FILE
from harness.names.stages import named
from harness.processes.scheduler import Results


def families(results: Results, recipes: Iterable[str]) -> dict[str, str]:
    """The family of each recipe's file, by what it holds."""
    return {name: said.family for name in recipes if (said := tapped_of(results, name)) is not None}


def tapped_of(results: Results, recipe: str) -> Tapped | None:
    """What aligning a recipe's file gave; None where it did not end well."""
    tap = results.get(named("tap", recipe))
    return tap.gave(Tapped) if tap is not None else None


def file_mb(results: Results, recipe: str, own: Path | None = None) -> float | None:
    """Size of a recipe's file in 10^6 bytes, as it is now; None where there is none. own: the person's, if given."""
    if own is not None and recipe == GIVEN_FILE:
        return own.stat().st_size / 1e6
    convert = results.get(named("convert", recipe))
    made = convert.gave(Converted) if convert is not None else None
    return None if made is None else Path(made.flatbuffer).stat().st_size / 1e6
