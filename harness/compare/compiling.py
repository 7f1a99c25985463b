"""Functions compiled to machine code at their first call.

In: a function of numbers and arrays. Out: the same, compiled; kept on disk where there is a place for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator. options: numba's, e.g. `fastmath`. The function runs without the interpreter's lock."""

    def compile_it(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
            return numba.njit(nogil=True, **options)(function)

    return compile_it
