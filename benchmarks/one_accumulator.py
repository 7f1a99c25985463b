"""Sums term by term in one accumulator: their error over that of torch's library, and their cost over its own.

The promise: about the cost of a matrix product. One core each, in the same run.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from harness.stages.torch.one_accumulator import products, sums

TERMS = (576, 1536, 2048, 2560, 4096, 5632, 10240, 16384)
ROWS, COLUMNS = 192, 1024


def seconds(call: Callable[[], object]) -> float:
    """The least of five, after one that compiles."""
    call()
    took = []
    for _ in range(5):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return min(took)


def off(made: np.ndarray, exact: torch.Tensor) -> float:
    return float(np.sqrt(np.square(made - exact.numpy()).mean()))


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print(f"{ROWS} rows, {COLUMNS} outputs; error and time over torch's")
    print("terms   error of a projection   error of a mean of squares   time of a projection")
    for terms in TERMS:
        x = torch.randn(ROWS, terms, generator=generator)
        weight = torch.randn(COLUMNS, terms, generator=generator)
        out, mean, squares = np.empty((ROWS, COLUMNS), np.float32), np.empty(ROWS, np.float32), x * x

        def own(x: torch.Tensor = x, weight: torch.Tensor = weight, out: np.ndarray = out) -> None:
            products(x.numpy(), weight.numpy(), out, False)

        def library(x: torch.Tensor = x, weight: torch.Tensor = weight) -> torch.Tensor:
            return torch.nn.functional.linear(x, weight)

        times = seconds(own) / seconds(library)
        exact = x.double() @ weight.double().T
        sums(squares.numpy(), mean, False)
        square = squares.double().mean(-1)
        errors = off(out, exact) / off(library().numpy(), exact)
        means = off(mean / np.float32(terms), square) / off(squares.mean(-1).numpy(), square)
        print(f"{terms:5}   {errors:21.2f}   {means:26.1f}   {times:20.2f}")


if __name__ == "__main__":
    main()
