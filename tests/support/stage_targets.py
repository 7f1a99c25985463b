"""What a stage's process may do to us; run by test_process.py in processes of their own."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from harness.errors import UsageError
from harness.jobs.reporter import Reporter


def work(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    report.progress(0, 1, "working")
    print("a framework speaks")
    return {"pid": os.getpid(), **payload}


def end_the_server(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """End the process that this one was forked from, as often as it is told; the file counts."""
    with open(payload["count"], "a+") as file:
        file.seek(0)
        times = len(file.read())
        file.write("x")
    if times < payload["times"]:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    return {"times": times}


def nap(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    began = time.time()
    time.sleep(payload["seconds"])
    return {"began": began, "ended": time.time()}


def multiply(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """How many threads there are after a product of two matrices."""
    import numpy as np

    matrix = np.ones((1024, 1024))
    return {"corner": float((matrix @ matrix)[0, 0]), "threads": len(os.listdir("/proc/self/task"))}


def segfault(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def killed(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def hang(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1e6)
    return {}


def fail(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    raise RuntimeError("the model does not like this\nsecond line, the one that matters")


def refuse(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    raise UsageError("no such thing; give another")


def allocate(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    held = bytearray(os.urandom(1 << 20) * payload["mb"])
    time.sleep(0.5)
    return {"held": len(held)}
