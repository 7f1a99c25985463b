"""Errors that end a command with one clear line instead of a traceback."""

from __future__ import annotations

import re

_LONGEST = 400  # characters of what an exception says
_QUOTED_PATH = re.compile(r'"[^"\n]*/([^"/\n]+)"')
_HINT = re.compile(r"^(Use tlparse|Set TORCH|You can suppress|For more information|Note that )")


class UsageError(Exception):
    """The command or an input is wrong: exit code 2.

    The message names the thing and the remedy on one line, e.g.
    `no model 'smolm2': did you mean 'smollm2'? 'edge-parity list' shows all`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TaskFaultError(Exception):
    """A process of ours broke off with what nobody foresaw; its log has the traceback."""


class ProcessLostError(Exception):
    """A process that all others of a command rest on crashed, or took too long: exit code 3."""


def told(error: BaseException) -> str:
    """What an exception says, on one line: its kind, and the first line of its text that means something.

    Frameworks say first what happened, and last what to type to see more of it. A line that ends in a colon only
    introduces the next one. Quoted paths are cut to their last part, and what is longer than a screen in its middle.
    """
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not _HINT.match(line)]
    shown = lines[:1]
    while shown and shown[-1].endswith(":") and len(shown) < min(3, len(lines)):
        shown.append(lines[len(shown)])
    text = _QUOTED_PATH.sub(r'"\1"', " ".join(shown))
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 3]} ... {text[-_LONGEST // 2 :]}"
    return f"{type(error).__name__}: {text}"
