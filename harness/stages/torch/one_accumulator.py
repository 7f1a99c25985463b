"""Sums in float32 taken term by term, each in one accumulator, as the kernels of a device take them.

In: float32 arrays. Out: products and sums, in place. Vectorised over outputs and sequential over terms, as those
kernels are; about the cost of a matrix product. The first call compiles, and the result is kept on disk.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.compare.compiling import compiled

_COLUMNS = 64  # outputs that are worked on at once
_ROWS = 16  # rows whose accumulators stay in the nearest cache
_STEP = 8  # terms that are added while an accumulator is in a register

# "contract" alone: a product and its addition may be one instruction, as in those kernels. The order of the additions
# is the point, so nothing else may be moved.
_SAME_ORDER = {"contract"}


@compiled(fastmath=_SAME_ORDER)
def products(x: Any, weight: Any, out: Any, backwards: bool) -> None:
    """x `[rows, terms]` by weight `[columns, terms]` into out `[rows, columns]`. backwards: from the last term."""
    rows, terms = x.shape
    columns = weight.shape[0]
    given = x[:, ::-1].copy() if backwards else x
    block = np.zeros((terms, _COLUMNS), np.float32)
    total = np.zeros((rows, _COLUMNS), np.float32)
    for start in range(0, columns, _COLUMNS):
        width = min(_COLUMNS, columns - start)
        for i in range(terms):
            term = terms - 1 - i if backwards else i
            for j in range(width):
                block[i, j] = weight[start + j, term]
        total[:] = 0
        for first in range(0, rows, _ROWS):
            _add(given, block, total, first, min(first + _ROWS, rows))
        for row in range(rows):
            for j in range(width):
                out[row, start + j] = total[row, j]


@compiled(fastmath=_SAME_ORDER)
def _add(x: Any, block: Any, total: Any, first: int, last: int) -> None:
    """Every term of rows first:last onto their accumulators, in order."""
    terms = block.shape[0]
    whole = terms - terms % _STEP
    for i in range(0, whole, _STEP):
        for row in range(first, last):
            x0, x1, x2, x3 = x[row, i], x[row, i + 1], x[row, i + 2], x[row, i + 3]
            x4, x5, x6, x7 = x[row, i + 4], x[row, i + 5], x[row, i + 6], x[row, i + 7]
            for j in range(_COLUMNS):
                value = total[row, j]
                value += x0 * block[i, j]
                value += x1 * block[i + 1, j]
                value += x2 * block[i + 2, j]
                value += x3 * block[i + 3, j]
                value += x4 * block[i + 4, j]
                value += x5 * block[i + 5, j]
                value += x6 * block[i + 6, j]
                value += x7 * block[i + 7, j]
                total[row, j] = value
    for i in range(whole, terms):
        for row in range(first, last):
            for j in range(_COLUMNS):
                total[row, j] += x[row, i] * block[i, j]


@compiled()
def sums(x: Any, out: Any, backwards: bool) -> None:
    """x `[rows, terms]` summed into out `[rows]`. backwards: from the last term to the first."""
    rows, terms = x.shape
    for row in range(rows):
        total = np.float32(0)
        for i in range(terms):
            total += x[row, terms - 1 - i if backwards else i]
        out[row] = total
