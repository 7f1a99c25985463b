"""A tokenizer by which a text is a list of ids, `<504><3575>`: so an engine that takes text is given exact tokens.

In: ids or texts. Out: the other, and the tokenizer.json. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_ONE = "<[0-9]+>"


def tokenizer_of_ids(count: int) -> bytes:
    """A tokenizer.json that knows the ids up to `count`, and puts nothing before or after them."""
    content: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": _ONE}, "behavior": "Isolated", "invert": False},
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": {f"<{one}>": one for one in range(count)}, "unk_token": "<0>"},
    }
    return json.dumps(content).encode()


def text_of(ids: Sequence[int]) -> str:
    return "".join(f"<{one}>" for one in ids)


def ids_of(text: str) -> list[int]:
    """Raises ValueError for a text that is not a list of ids."""
    if not re.fullmatch(f"(?:{_ONE})*", text):
        raise ValueError(f"{text[:40]!r} is not a list of ids")
    return [int(one[1:-1]) for one in re.findall(_ONE, text)]
