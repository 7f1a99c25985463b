"""What a model and an input may be called. Both name folders and files, so neither may lead anywhere.

In: a name. Out: whether it is one. Light: declarations are read with it.
"""

from __future__ import annotations

import re

NAME_RULE = "give 1 to 64 of A-Z a-z 0-9 . _ - and no dot in front"
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


def is_name(name: object) -> bool:
    return isinstance(name, str) and _NAME.fullmatch(name) is not None
