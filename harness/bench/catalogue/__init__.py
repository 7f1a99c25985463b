"""The catalogue of faults: each a line of a table.

In: nothing. Out: `all_faults`, and those that a glob selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from harness.bench.catalogue import flatbuffer, quantised
from harness.bench.mistake import KINDS, Mistake
from harness.names.stages import BUILTIN, XNNPACK
from harness.spec.route import every_route

# Models without a known defect, for which every failing comparison is a false alarm.
CLEAN = (
    *("deepseek", "gemma2", "llama3_2", "openelm", "phi2", "phi3", "phi4"),
    *("qwen2_5", "qwen3", "smollm2", "tiny_llama"),
)
# Of those, models whose first layers run at full width as well: what width does to float32 is not a fault either.
WIDE = ("qwen2_5", "smollm2", "tiny_llama")
WIDE_LAYERS = 2
WIDE_SEEDS = 2  # at most: the stages take seconds there

# Models that are quantised by every recipe, and the kernels on which that must raise no alarm: on builtin ones Gemma 3
# has a defect.
_BOTH = (XNNPACK, BUILTIN)
QUANTISED_CLEAN = dict.fromkeys((*CLEAN, "amd_llama", "hammer", "smollm"), _BOTH) | {"gemma3": (XNNPACK,)}
QUANTISED_SEEDS = 1  # by each of the recipes: four files, each on two sets of kernels, take as long as many seeds


def all_faults() -> tuple[Mistake, ...]:
    """By kind, in the order of the pipeline. Ids are `kind/name`, unique."""
    made = [*(fault for route in every_route() for fault in route.faults()), *flatbuffer.FAULTS, *quantised.FAULTS]
    return tuple(sorted(made, key=lambda fault: KINDS.index(fault.kind)))


def selected(models: Sequence[str] = (), pattern: str = "*") -> list[Mistake]:
    """Those of some models, or of all, whose id or name fits a glob."""
    return [
        fault
        for fault in all_faults()
        if (not models or fault.model in models)
        and (fnmatchcase(fault.id, pattern) or fnmatchcase(fault.id.split("/")[1], pattern))
    ]
