"""Products of few rows with a float32 weight, summed in float64 without making the weight wide.

In: rows in float64 and a weight in float32. Out: the products in float64. To make a weight of 4,096 x 4,096 wide takes
longer than to multiply it with a row; read as it lies, it takes about as long as the float32 layer does.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from harness.compare.compiling import compiled

Array = np.ndarray[Any, Any]
FEW_ROWS = 4  # from more on, a matrix product with pieces of the weight made wide is quicker
# In float64 it does not matter in which order terms are added: the sum is exact to far below float32.
_ANY_ORDER = {"reassoc", "contract"}


def wide_products(x: Array, weight: Array, threads: int) -> Array:
    """x: float64 `[rows, terms]`. weight: float32 `[columns, terms]`. Returns float64 `[rows, columns]`."""
    out = np.empty((len(x), len(weight)))
    bounds = [len(weight) * part // threads for part in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda ends: _columns(x, weight, out, *ends), pairwise(bounds)))
    return out


@compiled(fastmath=_ANY_ORDER)
def _columns(x: Any, weight: Any, out: Any, first: int, last: int) -> None:
    """Those from `first` up to `last`. A row of the weight stays in the nearest cache for all rows of x."""
    for column in range(first, last):
        for row in range(x.shape[0]):
            total = 0.0
            for term in range(x.shape[1]):
                total += x[row, term] * np.float64(weight[column, term])
            out[row, column] = total
