"""How a command ends: exit codes, the one line of an error, interrupts.

In: a message or a signal. Out: a line on stderr, the end of the process.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from typing import NoReturn

INTERRUPTED = 130
_CLEANING_UP = 5.0  # seconds


def catch_interrupts() -> None:
    """Turn SIGINT and SIGTERM into KeyboardInterrupt: a terminated run cleans up as an interrupted one does.

    SIGINT counts even where a script's `&` had it ignored.
    """
    interrupt = _Interrupt()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)


class _Interrupt:
    """Raises KeyboardInterrupt, but not again while the first one is being cleaned up after.

    A terminal and a supervisor often both send the signal.
    """

    def __init__(self) -> None:
        self._last = -math.inf

    def __call__(self, *_: object) -> None:
        now = time.monotonic()
        if now - self._last > _CLEANING_UP:
            self._last = now
            raise KeyboardInterrupt


def interrupted(what: str) -> NoReturn:
    """End with code 130 and say what there is and what there is not."""
    print(f"edge-parity: interrupted; {what}", file=sys.stderr, flush=True)
    # Not sys.exit: Python ends with SIGINT instead if the interrupt came while a string was being executed.
    os._exit(INTERRUPTED)


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on stderr."""
    print(f"edge-parity: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
