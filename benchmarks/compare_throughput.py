"""How fast two tensors are compared, next to what reading them costs and to what others take.

    python benchmarks/compare_throughput.py [--repeats 15] [--elements 16777216] [--row 2048]

Prints medians in GB/s (10^9 bytes of both arrays per second) of

    dot         numpy.dot of the two arrays: one multiply-add per pair, about as fast as they can be read
    ours        harness.compare.metrics.position_stats: all statistics, per position
    polygraphy  Comparator.compare_accuracy with CompareFunc.simple, on run results holding the same arrays
    numpy       max, mean, median and cosine in plain NumPy

and the ratios ours/dot (promise: at least 0.5) and ours/polygraphy (promise: at least 50). The methods take turns
within each repetition, so that a busy machine slows all of them alike; the slow two run fewer times. The promises
are for float32, the dtype of the stages; float64, the oracle's, is measured too, and there numpy.dot may use every
core. Short rows (`--row 16`) cost more per byte: the statistics of a position are 64 bytes by themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.compare import metrics

Array = np.ndarray[Any, Any]


def dot(reference: Array, candidate: Array) -> object:
    return np.dot(reference.ravel(), candidate.ravel())


def ours(reference: Array, candidate: Array) -> object:
    return metrics.position_stats(reference, candidate)


def plain_numpy(reference: Array, candidate: Array) -> object:
    error = np.abs(candidate - reference)
    norms = np.linalg.norm(reference.ravel()) * np.linalg.norm(candidate.ravel())
    return error.max(), error.mean(), np.median(error), dot(reference, candidate) / norms


def polygraphy(reference: Array, candidate: Array) -> object:
    from polygraphy.comparator import Comparator, CompareFunc, RunResults
    from polygraphy.comparator.struct import IterationResult
    from polygraphy.logger import G_LOGGER

    results = RunResults()
    results.append(("reference", [IterationResult({"tap": reference})]))
    results.append(("candidate", [IterationResult({"tap": candidate})]))
    quiet = contextlib.redirect_stdout(io.StringIO())
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), quiet, warnings.catch_warnings(action="ignore"):
        return Comparator.compare_accuracy(results, compare_func=CompareFunc.simple(atol=1e-3, rtol=1e-3))


def seconds(method: Callable[[Array, Array], object], reference: Array, candidate: Array) -> float:
    start = time.perf_counter()
    method(reference, candidate)
    return time.perf_counter() - start


def measure(reference: Array, candidate: Array, repeats: int, others: bool) -> dict[str, float]:
    """Median GB/s of each method."""
    same = reference.dtype == candidate.dtype
    # numpy.dot would copy one side to the other's dtype first: that is not reading, so it is left out
    fast = {"dot": dot, "ours": ours} if same else {"ours": ours}
    slow = {"polygraphy": polygraphy, "numpy": plain_numpy} if others else {}
    spent: dict[str, list[float]] = {name: [] for name in (*fast, *slow)}
    for method in (fast | slow).values():  # compiles, imports, touches every page
        method(reference[:, :8], candidate[:, :8])
    seconds(ours, reference, candidate)
    for turn in range(repeats):
        due = fast | slow if turn % 5 == 0 else fast
        for name, method in due.items():
            spent[name].append(seconds(method, reference, candidate))
    size = reference.nbytes + candidate.nbytes
    return {name: size / statistics.median(times) / 1e9 for name, times in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of comparing two tensors")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--elements", type=int, default=1 << 24, help="per array; default 16777216, 134 MB of pairs")
    parser.add_argument("--row", type=int, default=2048, help="elements per position")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    wide = rng.standard_normal((1, options.elements // options.row, options.row))
    noisy = wide + 1e-5 * rng.standard_normal(wide.shape)
    for left, right in ((np.float32, np.float32), (np.float64, np.float32), (np.float64, np.float64)):
        reference, candidate = wide.astype(left), noisy.astype(right)
        others = left == right == np.float32
        speed = measure(reference, candidate, options.repeats, others)
        size = (reference.nbytes + candidate.nbytes) / 1e6
        print(f"{reference.dtype}/{candidate.dtype}, {size:.0f} MB of pairs, rows of {options.row}")
        for name, rate in speed.items():
            print(f"  {name:<11}{rate:8.2f} GB/s")
        for other, promise in (("dot", 0.5), ("polygraphy", 50.0)):
            if other in speed:
                note = f"   (promise: {promise:g})" if others else ""
                print(f"  ours/{other:<11}{speed['ours'] / speed[other]:8.2f}{note}")


if __name__ == "__main__":
    main()
