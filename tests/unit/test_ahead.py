"""Work that begins before all tasks have ended."""

import threading
from concurrent.futures import CancelledError

import pytest

from harness.pipeline.background import in_background
from harness.processes.scheduler import TaskResult


class Told:
    """A watcher that remembers what it was told."""

    def __init__(self):
        self.said = []

    def started(self, name):
        self.said.append(("started", name))

    def progress(self, name, done, total, what):
        self.said.append((name, done, total, what))

    def ended(self, result):
        self.said.append(("ended", result.name))


def test_work_begins_when_what_it_needs_has_ended_and_sees_what_ended_before():
    watcher, began = Told(), threading.Event()

    def work(results, _):
        began.set()
        return {name: result.status for name, result in results.items()}

    with in_background(watcher, ("hf", "oracle"), work) as under_way:
        under_way.started("hf")
        under_way.progress("hf", 1, 2, "chat")
        under_way.ended(TaskResult("tap", "ok"))
        under_way.ended(TaskResult("hf", "crashed"))
        assert not began.wait(0.05)
        under_way.ended(TaskResult("oracle", "ok"))
        assert began.wait(10)
        under_way.ended(TaskResult("hf.local", "ok"))
        assert under_way.result() == {"tap": "ok", "hf": "crashed", "oracle": "ok"}
    assert watcher.said[:2] == [("started", "hf"), ("hf", 1, 2, "chat")]
    assert [name for kind, name in watcher.said[2:]] == ["tap", "hf", "oracle", "hf.local"]


def test_what_the_work_raises_is_raised_where_its_result_is_asked_for():
    def work(results, still_wanted):
        raise OSError("no space left")

    with in_background(Told(), ("hf",), work) as under_way:
        under_way.ended(TaskResult("hf", "ok"))
        with pytest.raises(OSError, match="no space left"):
            under_way.result()


def test_work_that_nobody_waits_for_any_more_has_ended_behind_the_with():
    began, over = threading.Event(), threading.Event()

    def work(results, still_wanted):
        began.set()
        try:
            while True:
                still_wanted()
        except CancelledError:
            over.set()
            raise

    with in_background(Told(), ("hf",), work) as under_way:
        under_way.ended(TaskResult("hf", "ok"))
        assert began.wait(10)
    assert over.is_set()


def test_a_result_before_its_tasks_have_ended_is_refused_and_not_waited_for():
    with in_background(Told(), ("hf", "oracle"), lambda results, _: 1) as under_way:
        under_way.ended(TaskResult("hf", "ok"))
        with pytest.raises(RuntimeError, match="oracle did not end"):
            under_way.result()
