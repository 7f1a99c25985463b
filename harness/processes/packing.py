"""In which order tasks keep all cores busy, within the memory there is.

In: tasks with what they need, memory and seconds as estimates. Out: the same in another order. Pure, and the same
tasks give the same order.

What fills the memory leaves the other cores idle, unless something small is left that fits beside it: so orders are
tried, and each is played through as the scheduler would.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from harness.processes.scheduler import Task

_TRIED = 300  # orders; 40 tasks take a tenth of a second
_KEYS: tuple[Callable[[Task], float], ...] = (
    lambda task: -task.seconds,
    lambda task: -task.memory_mb,
    lambda task: -task.seconds * task.memory_mb,
)


def packed(tasks: Sequence[Task], cores: int, memory_mb: float, after: Sequence[Task] = ()) -> list[Task]:
    """The order that ends soonest of those tried. memory_mb: what is left beside the server that forks tasks.

    after: work of this process, which takes a core once what it needs has ended. Of tasks that all fit side by side it
    is the longest first.
    """
    draw = random.Random(0)
    orders = [sorted(tasks, key=key) for key in _KEYS]
    orders += [draw.sample(orders[0], len(orders[0])) for _ in range(_TRIED)]
    return min(orders, key=lambda order: played([*after, *order], cores, memory_mb))


def played(tasks: Sequence[Task], cores: int, memory_mb: float) -> float:
    """Seconds until the last task has ended, where each starts as soon as it may, the first ones first."""
    own = {task.name for task in tasks}
    waiting, running, now = list(tasks), list[tuple[float, Task]](), 0.0
    while waiting or running:
        unfinished = {task.name for task in waiting} | {task.name for _, task in running}
        for task in list(waiting):
            used = sum(other.memory_mb for _, other in running)
            ready = not unfinished.intersection(own.intersection(task.needs))
            fits = len(running) < cores and used + task.memory_mb <= memory_mb
            if ready and (not running or (fits and not any(other.alone for _, other in running) and not task.alone)):
                waiting.remove(task)
                running.append((now + task.seconds, task))
        if not running:
            return float("inf")  # what is waited for never comes: not for this function to say
        now = min(end for end, _ in running)
        running = [(end, task) for end, task in running if end > now]
    return now
