"""Errors that end a command with one clear line instead of a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """The command or an input is wrong: exit code 2.

    The message names the thing and the remedy on one line, e.g.
    `no model 'smolm2': did you mean 'smollm2'? 'edge-parity list' shows all`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class TaskFaultError(Exception):
    """A process of ours broke off with what nobody foresaw; its log has the traceback."""
