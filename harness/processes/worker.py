"""The inside of a stage's process: redirect output, run the function, send back what came of it."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from harness.errors import UsageError, told
from harness.processes import refusals
from harness.system.named_function import named_function

# Stages run side by side, a core each: threads of NumPy's linear algebra would spin while they wait for a core that
# another stage has. It reads this once, when it is imported: here comes before that in every process of a stage.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
_PR_SET_PDEATHSIG = 1
_PROGRESS_EVERY = 0.1  # seconds


class _PipeReporter:
    """Sends progress, at most ten times a second."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._last = 0.0

    def progress(self, done: float, total: float, what: str) -> None:
        now = time.monotonic()
        if now - self._last >= _PROGRESS_EVERY or done == 0:
            self._last = now
            self._pipe.send(("progress", (done, total, what)))

    def requests(self) -> Iterator[object]:
        with contextlib.suppress(EOFError):
            while True:
                yield json.loads(self._pipe.recv_bytes())

    def answer(self) -> None:
        self._pipe.send(("answer", None))


def main(name: str, target: str, payload: object, pipe: Connection, log: str, parent: int) -> None:
    """Run `module:function` as a task. Everything the frameworks print goes to `log`."""
    die_with_parent(parent)
    let_warnings_be()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        with contextlib.suppress(OSError):  # a full disk: the task itself may need none of it
            print(f"--- {name} ---", flush=True)
        if refusals.failure:
            raise UsageError(refusals.failure)
        value = named_function(target)(payload, _PipeReporter(pipe))
        pipe.send(("done", {"value": value, "peak_rss_mb": peak_rss_mb()}))
        code = 0
    except UsageError as error:
        pipe.send(("usage", str(error)))
    except BaseException as error:
        said = refusals.refused(error)
        pipe.send(("usage", said) if said else ("error", told(error)))
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        pipe.close()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        # Native libraries can hang or crash while they are torn down, after the work is done and sent.
        os._exit(code)


def let_warnings_be() -> None:
    """PYTHONWARNINGS=error is for a person's own code: what frameworks warn of goes to the log and stops nothing."""
    if any(action == "error" for action, *_ in warnings.filters):
        kept: Any = [entry for entry in warnings.filters if entry[0] != "error"]
        warnings.filters[:] = kept  # type: ignore[index]
        warnings.simplefilter("default", append=True)  # which also has Python forget what it made of the old ones


def nothing() -> None:
    """Started and ended to learn that processes can be started."""


def peak_rss_mb(pid: int | str | None = "self") -> float:
    """The largest resident set of a process so far, in MB (10^6 bytes); 0 once it is gone.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


def die_with_parent(parent: int) -> None:
    """Ask Linux to end this process when the one that forked it ends, so that a killed run leaves nothing behind."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.path.exists(f"/proc/{parent}") and os.path.exists("/proc/self"):
        os._exit(1)
