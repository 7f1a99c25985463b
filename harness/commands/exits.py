"""How a command ends: exit codes, the one line of an error, interrupts.

In: what a command does, a message or a signal. Out: a line on stderr, the end of the process.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from harness.errors import UsageError
from harness.plain import one_line, shown
from harness.processes import refusals

WRONG = 2  # the command or an input
FAULT = 4  # of Edge Parity itself: what nobody foresaw
INTERRUPTED = 130
_CLEANING_UP = 5.0  # seconds
_LONGEST = 2000  # characters of the one line; a path may have 4,096, a name in a broken file any number

# What the system refuses for a reason that the person can do something about.
REMEDIES = {
    errno.ENOSPC: "free some space or give another --out",
    errno.EDQUOT: "free some space or give another --out",
    errno.EROFS: "free some space or give another --out",
    errno.EACCES: "change its permissions or give another path",
    errno.EPERM: "change its permissions or give another path",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.ELOOP: "give a path without such links",
    errno.ENOTDIR: "give a path through folders alone",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
    errno.EAGAIN: "raise the limit on processes (ulimit -u) or close other programs",
    errno.EIO: "look after the disk",
    errno.ESTALE: "look after the network's disk",
}

_showing_tracebacks = False


def show_tracebacks(wanted: bool) -> None:
    """What `--debug` asks for: what nobody foresaw is shown with all that led to it."""
    global _showing_tracebacks
    _showing_tracebacks = _showing_tracebacks or wanted


def end_with(command: Callable[[], int | None]) -> NoReturn:
    """Do what a command does and end with its exit code; whatever it raises is one line and an exit code."""
    catch_interrupts()
    code: int | None = FAULT
    try:
        check_surroundings()
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        fail(*explained(error))
    if code == INTERRUPTED:  # Typer turns KeyboardInterrupt into this code
        interrupted("stages ended, nothing written")
    sys.exit(code or 0)


def check_surroundings() -> None:
    """Raises UsageError for what no command can work with: names that are not text, a folder that is gone."""
    for word in sys.argv[1:]:
        _check_text(word, "what was typed")
    try:
        _check_text(os.getcwd(), "the folder this was started in")
    except FileNotFoundError:
        raise UsageError("the folder this was started in is gone; go to one that is there") from None


def _check_text(name: str, what: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        # Records, pages and archives are UTF-8, and such a name could stand in none of them.
        raise UsageError(
            f"{what}, {name!a}, is not UTF-8; rename the file or folder, or make a link to it with a plain name"
        ) from None


def explained(error: BaseException) -> tuple[str, int]:
    """One line that says what was raised and what to do about it, and the exit code."""
    if isinstance(error, UsageError):
        return str(error), WRONG
    if isinstance(error, OSError) and error.errno in REMEDIES:
        if (
            error.filename is None and error.errno == errno.ENOSPC
        ):  # what is printed goes to a file, without a name here
            return f"{os.strerror(errno.ENOSPC)} where the output goes; free some space there", WRONG
        what = error.filename if isinstance(error.filename, (str, bytes, os.PathLike)) else "the system"
        return f"{os.fsdecode(what)}: {os.strerror(error.errno)}; {REMEDIES[error.errno]}", WRONG
    if isinstance(error, MemoryError):
        return "memory ran out in the command itself; close other programs, or give a smaller model", WRONG
    # Typer carries click's exceptions, wherever it takes them from; they know their message and exit code.
    message, exit_code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if message is not None and exit_code is not None:
        said = message().rstrip()
        stop = "" if said.endswith((".", "!", "?", ":", ";")) else "."  # some of click's messages have none
        return f"{said}{stop} See 'edge-parity --help'.", exit_code
    refused = refusals.refused(error)
    return (refused, WRONG) if refused else (unforeseen(error), FAULT)


def unforeseen(error: BaseException) -> str:
    """What nobody foresaw, in one line: what it is, where, and where the rest of it stands."""
    if _showing_tracebacks:
        for line in "".join(traceback.format_exception(error)).splitlines():
            print(shown(line), file=sys.stderr)
    places = traceback.extract_tb(error.__traceback__)
    at = f" at {Path(places[-1].filename).name}:{places[-1].lineno}" if places else ""
    notes = getattr(error, "__notes__", [])
    rest = notes[-1] if notes else "--debug shows its traceback"
    what = one_line(error, 300)
    return f"a fault of Edge Parity itself: {type(error).__name__}{at}{': ' if what else ''}{what}; {rest}"


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
    print(shown(f"edge-parity: interrupted; {what}"), file=sys.stderr, flush=True)
    # Not sys.exit: Python ends with SIGINT instead if the interrupt came while a string was being executed.
    from harness.system.temporary import remove_temporary_folder

    remove_temporary_folder()  # what is registered for the end of Python is not run here
    os._exit(INTERRUPTED)


def warn(message: str) -> None:
    """A line on stderr about something that does not stop the command."""
    print(shown(f"edge-parity: {one_line(message, _LONGEST)}"), file=sys.stderr, flush=True)


def fail(message: str, code: int = WRONG) -> NoReturn:
    """End with one line on stderr."""
    print(shown(f"edge-parity: {one_line(message, _LONGEST)}"), file=sys.stderr)
    sys.exit(code)
