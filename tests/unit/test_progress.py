"""What is said while a run is under way, where stderr is not a terminal."""

import sys

from harness.commands.progress import PlainProgress
from harness.processes.scheduler import TaskResult


def test_a_line_is_written_in_one_piece(monkeypatch):
    """A signal that came between a line and its end would have its own message on the same line."""
    pieces = []
    monkeypatch.setattr(sys.stderr, "write", pieces.append)
    with PlainProgress() as progress:
        progress.model("smollm2", 1, 2)
        progress.started("hf")
        progress.ended(TaskResult("hf", "crashed", detail="killed by SIGSEGV"))
    assert pieces == ["model 1 of 2: smollm2\n", "hf: started\n", "hf: crashed: killed by SIGSEGV\n"]
