"""Constants that hold part of a parameter, or several: queries alone, or gate and up in one.

In: constants, and the tensors of a checkpoint. Out: for each constant the rows of which tensors it is made of, bit by
bit. Exporters fuse and split projections as they see fit; a converter that takes rows in another order does neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from harness.audit.values import Array, ExpectedValues, bits

_HEAD = 32  # numbers that are compared before the whole is
_SHORTEST = 8  # rows of a slice; fewer are found by accident


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor of the checkpoint. at: the constant's row that the first of them is."""

    key: str
    start: int
    stop: int
    at: int = 0


def find_pieces(constants: Sequence[Array], expected: ExpectedValues, keys: Sequence[str]) -> list[list[Piece]]:
    """Per constant: the tensors that it is a stretch of, or those that it holds whole, one after the other.

    Empty for a constant that is neither. Each tensor is read once, and only if some constant is as wide.
    """
    as_rows = [_rows(values) for values in constants]
    found: list[list[Piece]] = [[] for _ in constants]
    for key in dict.fromkeys(keys):
        shape = expected.shape(key)
        wide = [at for at, rows in enumerate(as_rows) if rows is not None and rows.shape[1:] == shape[1:]]
        tensor = _rows(expected.values(key)) if wide else None
        if tensor is None:
            continue
        for at in wide:
            rows = as_rows[at]
            assert rows is not None
            found[at] += _pieces(rows, tensor, key)
    return [_consistent(pieces, rows) if rows is not None else [] for pieces, rows in zip(found, as_rows, strict=True)]


def covers(pieces: Sequence[Piece], key: str, rows: int) -> bool:
    """Whether pieces hold all rows of a tensor."""
    end = 0
    for piece in sorted((piece for piece in pieces if piece.key == key), key=lambda piece: piece.start):
        if piece.start > end:
            return False
        end = max(end, piece.stop)
    return end >= rows


def _rows(values: Array) -> Array | None:
    """`[rows, width]` or `[rows]`, without dimensions of size one; None for anything else."""
    squeezed = np.squeeze(values)
    return squeezed if squeezed.ndim in (1, 2) else None


def _pieces(constant: Array, tensor: Array, key: str) -> Iterator[Piece]:
    if _SHORTEST <= len(constant) <= len(tensor):
        for start in _places(tensor, constant):
            yield Piece(key, start, start + len(constant))
    elif len(constant) > len(tensor):
        for at in _places(constant, tensor):
            yield Piece(key, 0, len(tensor), at)


def _places(whole: Array, part: Array) -> Iterator[int]:
    """The first row of `whole` at which `part` stands there; at most one."""
    starts = whole[: len(whole) - len(part) + 1]
    same = (
        bits(starts[..., :_HEAD]) == bits(part[0][..., :_HEAD]) if starts.ndim == 2 else bits(starts) == bits(part[:1])
    )
    for start in np.flatnonzero(same.all(axis=-1) if same.ndim == 2 else same):
        if np.array_equal(bits(whole[start : start + len(part)]), bits(part)):
            yield int(start)
            return


def _consistent(pieces: list[Piece], rows: Array) -> list[Piece]:
    """Pieces that are the whole constant each, or that together are, one after the other."""
    stretches = [piece for piece in pieces if piece.stop - piece.start == len(rows)]
    if stretches:
        return stretches
    chosen: list[Piece] = []
    end = 0
    while end < len(rows):
        following = [piece for piece in pieces if piece.at == end and piece.key not in {p.key for p in chosen}]
        if not following:
            return []
        chosen.append(following[0])
        end += following[0].stop
    return chosen
