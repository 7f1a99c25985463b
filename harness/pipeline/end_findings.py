"""What a run says of the end of the KV cache, by what the stages left.

In: task results. Out: findings of kind "runtime".
"""

from __future__ import annotations

from collections.abc import Collection

from harness.jobs.cache_end import wrong
from harness.jobs.results import facts_of
from harness.names.codes import FindingCode
from harness.names.stages import REAUTHORED, device_order, file_stages, present, runs_file
from harness.processes.scheduler import Results
from harness.record.record import Finding


def cache_findings(results: Results) -> list[Finding]:
    """A position past the KV cache that a stage did not refuse. One finding for stages that do the same."""
    stages: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name in sorted(filter(runs_file, results), key=device_order):
        end = facts_of(results, name).past_the_cache
        if end is not None and not end.refusal:
            stages.setdefault((end.position, tuple(end.overwritten)), []).append(name)
    return [
        Finding(
            kind="runtime",
            code=FindingCode.CACHE_OVERWRITTEN if overwritten else FindingCode.POSITION_NOT_KEPT,
            severity="warning",
            what=_past_the_cache(names, position, overwritten),
        )
        for (position, overwritten), names in stages.items()
    ]


def last_position_findings(results: Results, passing: Collection[str]) -> list[Finding]:
    """The last position of the KV cache, which few inputs reach, where a file gives something else than the re-authored
    model. One finding for stages that do the same.

    passing: the stages whose hops pass. Where one fails, its taps say more. Files whose mask is an input hold nothing
    that this could show.
    """
    reference = facts_of(results, present(REAUTHORED, results)).last_position
    if reference is None:
        return []
    stages: dict[str, list[str]] = {}
    for name in sorted(set(file_stages()).intersection(results, passing), key=device_order):
        own = facts_of(results, name).last_position
        said = wrong(own, reference) if own is not None else ""
        if said:
            stages.setdefault(said, []).append(name)
    at = f"decode at position {reference.position}, the last one of the KV cache, with every slot full"
    return [
        Finding(
            kind="runtime",
            code=FindingCode.LAST_POSITION_DIFFERS,
            severity="error",
            what=f"{' and '.join(names)}: {at}, {said}; the re-authored model does not",
        )
        for said, names in stages.items()
    ]


def _past_the_cache(stages: list[str], position: int, overwritten: tuple[int, ...]) -> str:
    slots = ", ".join(map(str, overwritten))
    does = f"overwrites slot {slots} and goes on with a damaged cache" if slots else "keeps nothing of the token"
    return (
        f"{' and '.join(stages)}: decode at position {position} of a KV cache of {position} does not fail but {does}; "
        f"what drives this file must stop after {position} tokens"
    )
