"""What `assert_parity` costs, how often it raises a false alarm, and which mistakes it finds.

    python benchmarks/assert_parity.py [--seeds N]

Cost: the processor time of one call on one thread over that of running candidate and reference once each, the least of
several each: other work on the machine is not in it. False
alarms: layers of torch against the same function in another order of operations, at so many seeds. Mistakes: layers
with a mistake made on purpose. The lists stand in tests/support.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import torch
from layers import NUMPY, REWRITTEN, drawn
from mistaken_layers import MISTAKES

from harness.testing import assert_parity

WIDTH, ROUNDS = 4096, 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for rows in (1, 4, 32, 256):
        print(f"linear {WIDTH} x {WIDTH}, {rows} rows: {cost(rows):.2f} times running both once")
    torch.set_num_threads(threads)
    alarms = [
        f"{name} at seed {seed}"
        for name, make in REWRITTEN.items()
        for seed in range(seeds)
        if not agrees(*drawn(make, seed), numpy=name in NUMPY)
    ]
    print(f"false alarms: {len(alarms)} of {seeds * len(REWRITTEN)} ({len(REWRITTEN)} layers) {alarms}")
    missed, guessed = [], 0
    for name, make in MISTAKES.items():
        candidate, reference, inputs = drawn(make, 0)
        try:
            assert_parity(candidate, reference, *inputs)
            missed.append(name)
        except AssertionError as error:
            guessed += "likely: " in str(error)
    found = len(MISTAKES) - len(missed)
    print(f"mistakes found: {found} of {len(MISTAKES)}, {guessed} with a cause that was tried; missed: {missed}")


def agrees(candidate: Callable[..., Any], reference: Callable[..., Any], inputs: Any, numpy: bool) -> bool:
    try:
        assert_parity(candidate, reference, *inputs, numpy=numpy)
    except AssertionError:
        return False
    return True


def cost(rows: int) -> float:
    torch.manual_seed(0)
    reference, candidate = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, WIDTH)
    candidate.load_state_dict(reference.state_dict())
    x = torch.randn(rows, WIDTH)

    def both() -> None:
        with torch.no_grad():
            candidate(x)
            reference(x)

    assert_parity(candidate, reference, x)  # what is compiled is compiled once
    rounds = [(seconds(both), seconds(lambda: assert_parity(candidate, reference, x))) for _ in range(ROUNDS)]
    return min(asserted for _, asserted in rounds) / min(plain for plain, _ in rounds)


def seconds(run: Callable[[], None]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


if __name__ == "__main__":
    main()
