"""What records of older versions say otherwise, as this version says it.

In: a record's keys and values as they were read. Out: those of this version. This is the one place that reads a
sentence: a record from before there were codes has nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.names.figures import FLOOR

if TYPE_CHECKING:
    import pandas as pd

# `excess 9.1 > 4`: a limit that a tap breaks, as it has always been said.
_BREAK = re.compile(r"(\w+) (nan|-?inf|-?[\d.]+(?:e[+-]?\d+)?) [<>] (-?[\d.]+(?:e[+-]?\d+)?)")
_FIRST_AT = ", first at "


def brought_up_to_date(given: Any) -> Any:
    """A record's content with what older versions lack. What is not a record is left for the validation to refuse."""
    if not isinstance(given, Mapping):
        return given
    record = dict(given)
    first = record.pop("first_fault", None)
    if first is not None and not record.get("faults"):  # the first fault was the only one on record
        record["faults"] = [first]
    for key, brought in (("faults", _fault), ("known_defects", _known_defect)):
        if isinstance(record.get(key), list):
            record[key] = [brought(part) if isinstance(part, Mapping) else part for part in record[key]]
    return record


def _fault(fault: Mapping[str, Any]) -> Mapping[str, Any]:
    """With the figures whose limits it breaks, which stood in its `reason` alone: `noise_floor 0.2 > 0.001`."""
    if "broken" in fault:
        return fault
    limits = _limits(fault.get("reason"))
    alone = limits[FLOOR] if list(limits) == [FLOOR] else None
    floor = None if alone is None or math.isnan(alone[0]) else {"value": alone[0], "limit": alone[1]}
    return {**fault, "broken": list(limits), "floor": floor}


def _known_defect(known: Mapping[str, Any]) -> Mapping[str, Any]:
    """With its hop, which stood in its `place` alone: `hf->reauthored, first at logits`."""
    if "hop" in known:
        return known
    hop, first_at, _ = str(known.get("place", "")).partition(_FIRST_AT)
    return {**known, "hop": hop if first_at else ""}


def with_broken(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of taps with the figures whose limits they break, which stood in their `why` alone."""
    if "broken" in frame:
        return frame
    pairs = zip(frame["why"], frame["verdict"], strict=True)
    limits = [_limits(why) if verdict == "fail" else {} for why, verdict in pairs]
    floors = [found[FLOOR][1] if FLOOR in found else math.nan for found in limits]
    return frame.assign(broken=[", ".join(found) for found in limits], noise_floor_limit=floors)


def _limits(said: object) -> dict[str, tuple[float, float]]:
    """Figure -> (its value, the limit that it breaks), of a sentence that says nothing else; else nothing."""
    parts = [_BREAK.fullmatch(part) for part in said.split("; ")] if isinstance(said, str) else []
    try:
        return {part[1]: (float(part[2]), float(part[3])) for part in parts if part} if all(parts) else {}
    except ValueError:  # "1.2.3", in a record that somebody else made
        return {}
