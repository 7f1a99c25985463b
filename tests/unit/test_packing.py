"""The order of tasks: what it keeps, and that memory does not leave a core idle where another order would not."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from harness.processes.packing import packed, played
from harness.processes.scheduler import Task


def task(name: str, seconds: float, memory_mb: float = 100, needs: tuple[str, ...] = (), alone: bool = False) -> Task:
    return Task(name, "", {}, needs=needs, memory_mb=memory_mb, seconds=seconds, alone=alone)


def test_large_tasks_are_paired_with_small_ones():
    large = [task(f"large{n}", 10, 700) for n in range(3)]
    small = [task(f"small{n}", 10, 200) for n in range(3)]
    assert played([*large, *small], cores=2, memory_mb=1000) == 30  # the first large one takes a small one beside it
    assert played(packed([*large, *small], 2, 1000), 2, 1000) == 30
    middle = [task(f"middle{n}", 10, 400) for n in range(2)]
    badly = [*middle, *small, *large]
    assert played(badly, 2, 1000) > played(packed(badly, 2, 1000), 2, 1000)


def test_what_comes_after_some_tasks_has_the_others_beside_it():
    others, needed = ([task(f"{kind}{number}", 10) for number in range(2)] for kind in ("other", "needed"))
    after = task("after", 20, needs=tuple(each.name for each in needed))
    assert played([after, *others, *needed], 2, 1000) == 40
    assert played([after, *packed([*others, *needed], 2, 1000, [after])], 2, 1000) == 30


def test_a_task_for_which_there_is_no_memory_runs_alone():
    assert played([task("huge", 5, 9000), task("small", 5)], cores=2, memory_mb=1000) == 10
    assert played([task("alone", 5, alone=True), task("small", 5)], cores=2, memory_mb=1000) == 10


def test_what_waits_for_itself_is_put_in_some_order():
    circle = [task("a", 1, needs=("b",)), task("b", 1, needs=("a",))]
    assert {each.name for each in packed(circle, 2, 1000)} == {"a", "b"}


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 1200)), min_size=1, max_size=5), st.integers(1, 3))
def test_no_task_is_lost_and_of_few_the_order_is_among_the_best(sizes, cores):
    tasks = [task(str(number), seconds, memory) for number, (seconds, memory) in enumerate(sizes)]
    best = min(played(order, cores, 1000) for order in itertools.permutations(tasks))
    found = packed(tasks, cores, 1000)
    assert sorted(each.name for each in found) == sorted(each.name for each in tasks)
    assert played(found, cores, 1000) == best
