"""What `module:function` names: so a registry or a task says what runs, and its module is imported where it runs.

In: a name. Out: the function.
"""

from __future__ import annotations

import importlib
from typing import Any


def named_function(where: str) -> Any:
    """Imports its module."""
    module, _, function = where.partition(":")
    return getattr(importlib.import_module(module), function)
