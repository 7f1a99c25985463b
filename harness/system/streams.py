"""Standard output and error, which may be closed, full, open for reading alone, in another encoding, or a pipe that
nobody reads.

In: the streams that the process was started with. Out: streams that a command can print to whatever they lead to.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import sys
from typing import TextIO


class _Printing(io.TextIOWrapper):
    """A stream whose reader may go away: what nobody reads is dropped, so that `explain RUN | head -1` ends with the
    exit code of the command. Any other failure, such as a full disk, is raised once.

    Only what the C code raises is handled here: a signal in the middle of a write of ours would have it written twice.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop_the_rest(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop_the_rest(error)

    def _drop_the_rest(self, error: OSError) -> None:
        """What is still in the buffers, and all that follows, goes nowhere."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            raise error


def prepare_streams() -> None:
    """Make the three standard streams usable. A test that has put its own in their place keeps them."""
    _open_missing()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is original:
            setattr(sys, name, _printing(number, stream))


def _open_missing() -> None:
    """A descriptor that is closed would be given to the next file that is opened, and what is printed with it.

    Where it was closed before a shell ran us in a script, it is the script by now, which can only be read.
    """
    for number in (0, 1, 2):
        try:
            mode = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            continue
        if number and mode == os.O_RDONLY:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            os.close(nowhere)


def _printing(number: int, stream: TextIO) -> TextIO:
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
    raw = io.FileIO(number, "w", closefd=False)
    return _Printing(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",  # what the terminal's encoding lacks is shown as a number
        line_buffering=raw.isatty() or number == 2,
        write_through=number == 2,
    )
