"""An attribute of an object or a module that has another value for a while.

In: the owner, the name and the value. Out: a context; whatever is raised within, the value of before is put back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def set_within(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Raises AttributeError where the owner has no such attribute: there would be nothing to replace."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
