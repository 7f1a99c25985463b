"""Which parameters of a test belong to the fast part, which only CI takes, and which the sweep alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def slow_but(quick: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """All values as parameters, slow ones but for those in `quick`."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def further_but(usual: Collection[Any], values: Collection[Any], rest: Iterable[Any] = ()) -> list[Any]:
    """All values as parameters, only those in `usual` part of `make test`; those in `rest` are of the sweep."""
    marked = [value if value in usual else pytest.param(value, marks=pytest.mark.further) for value in values]
    return marked + sweep_but([], [value for value in rest if value not in values])


def sweep_but(usual: Collection[Any], values: Iterable[Any]) -> list[Any]:
    """All values as parameters, of the sweep but for those in `usual`."""
    return [value if value in usual else pytest.param(value, marks=pytest.mark.sweep) for value in values]
