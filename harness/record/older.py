"""What records of older versions say otherwise, as this version says it.

In: a record's keys and values as they were read. Out: those of this version. This is the one place that reads a
sentence: a record from before there were codes has nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def brought_up_to_date(given: Any) -> Any:
    """A record's content with what older versions lack. What is no record is left for the validation to refuse."""
    if not isinstance(given, Mapping):
        return given
    record = dict(given)
    first = record.pop("first_fault", None)
    if first is not None and not record.get("faults"):  # the first fault was the only one on record
        record["faults"] = [first]
    return record
