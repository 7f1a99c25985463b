"""What the alignment plan of a flatbuffer says of its taps, over all signatures.

In: `plan.json`, as `harness/pipeline/flatbuffers.py` writes it. Out: names, kinds of operators, why taps are missing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from harness.names.coverage import FUSED_ATTENTION, LISTED, Absence, listed


@dataclass(frozen=True)
class PlanFacts:
    """By tap: the tensor's name, the kind of operator that writes it, and why a signature lacks it.

    inner: taps inside a composite, which a delegate runs as one kernel.
    """

    names: dict[str, str] = field(default_factory=dict)
    ops: dict[str, str] = field(default_factory=dict)
    inner: frozenset[str] = frozenset()
    missing: dict[str, Absence] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> PlanFacts:
        content = json.loads(path.read_text())
        sources = [item for taps in content["sources"].values() for item in taps.items()]
        missing: dict[str, Absence] = {}
        for name, said in (item for taps in content["missing"].values() for item in taps.items()):
            # Of a tap that several signatures lack, a reason that is not listed counts.
            if name not in missing or missing[name].reason:
                missing[name] = Absence(*said)
        return cls(
            names={tap: source["name"] for tap, source in reversed(sources)},
            ops={tap: source["op"] for tap, source in reversed(sources)},
            inner=frozenset(tap for tap, source in sources if source["inner"]),
            missing=missing,
        )

    def why_missing(self, stage: str, tap: str) -> Absence:
        """Why a stage that runs the file lacks a tap, or positions of it."""
        if tap in self.inner and LISTED[FUSED_ATTENTION].holds(stage, tap):
            return listed(FUSED_ATTENTION)
        return self.missing.get(tap, Absence("no such tensor in the flatbuffer"))
