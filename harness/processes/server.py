"""The one process that has imported the frameworks, and that torch stages are forked from.

In: a log. Out: processes within moments, where importing takes each of them four seconds. One server serves all runs of
this process; whoever ends it ends the stages that it was asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from harness.processes import worker

POLL = 0.2  # seconds between looks at what goes on
# What the server that forks torch stages holds for as long as it is there: the frameworks, 605 MB measured.
MEMORY_MB = 600
DYING = 2.0  # seconds in which a process that has closed its sockets has surely ended


class ServerLostError(Exception):
    """The server that forks torch stages ended, was started again, and ended again."""


_ready = threading.Event()
_warming = threading.Event()
_asking: threading.Thread | None = None


def warm_up(log: Path) -> None:
    """Have the server import the frameworks while stages that do not need them run already.

    It answers once it has: starting a process through it earlier would block whoever asks.
    """
    if _warming.is_set():
        return
    _warming.set()
    context = started(log)

    def ask() -> None:
        with contextlib.suppress(Exception):  # the server was ended while it imported
            first = context.Process(target=worker.nothing, daemon=True)
            first.start()
            first.join()
        _ready.set()

    global _asking
    _asking = threading.Thread(target=ask, daemon=True)
    _asking.start()


def is_warming() -> bool:
    """Whether it has been started: it holds its memory from then on."""
    return _warming.is_set()


def is_ready() -> bool:
    """Whether processes can be asked of it."""
    return _ready.is_set()


def wait_until_warm() -> None:
    """Until the server that forks torch stages has imported the frameworks."""
    while not _ready.wait(POLL):
        pass


def has_ended(patience: float = 0.0) -> bool:
    """Whether the server that forks torch stages has ended, or does so within `patience` seconds."""
    from multiprocessing import forkserver

    server: Any = getattr(forkserver, "_forkserver", None)
    until = time.monotonic() + patience
    while True:
        pid = getattr(server, "_forkserver_pid", None)
        try:  # without taking its exit status away from multiprocessing
            if pid is None or os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
        except ChildProcessError:
            return True
        if time.monotonic() >= until:
            return False
        time.sleep(POLL / 10)


def restart(log: Path) -> None:
    """End it, if it has not ended, and start another. log: where it says things."""
    end()
    warm_up(log)


def started(log: Path) -> Any:
    """The way to start processes through it; it is started if it is not there yet. log: where it says things."""
    from multiprocessing import forkserver

    atexit.unregister(end)
    atexit.register(end)  # left alone, it takes seconds to tear the frameworks down
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.jobs.preload"])
    with output_to(log), _signals_held():  # between its start and our knowing its process id, nobody could end it
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _signals_held() -> Any:
    """Ctrl-C and SIGTERM wait until this is over."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    in_charge = threading.current_thread() is threading.main_thread() and None not in before.values()
    if in_charge:
        for number in before:
            signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        if in_charge:
            for number, handler in before.items():
                signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])


def end() -> None:
    """End the server that forks torch stages, at once: while it imports frameworks it does not notice that we left."""
    from multiprocessing import forkserver

    _ready.clear()
    _warming.clear()
    server: Any = getattr(forkserver, "_forkserver", None)
    while True:
        pid = getattr(server, "_forkserver_pid", None)
        if pid is not None:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
                server._stop()
        # Whoever asks for a process of a server that has ended starts another, which says things on the terminal.
        if _asking is None or not _asking.is_alive():
            break
        _asking.join(POLL / 10)


@contextlib.contextmanager
def output_to(log: Path) -> Any:
    """What a starting process says before it can redirect itself goes to the log, not to the terminal."""
    saved = [os.dup(1), os.dup(2)]
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.dup2(file, 1)
        os.dup2(file, 2)
        yield
    finally:
        for number, copy in enumerate(saved, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(file)
