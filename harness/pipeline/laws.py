"""The laws in a run: what they are checked on, what each stage's came to, and what of it is a finding.

In: the preparation, task results and what the stages left among the traces. Out: `LawResult`s and findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from harness.jobs.job import JobInput
from harness.jobs.prepared import Prepared
from harness.names.codes import FindingCode
from harness.names.laws import LAW_WORDS, LawName
from harness.names.stages import Stage, present, stage_named
from harness.pipeline.options import Options
from harness.processes.scheduler import Results
from harness.record.laws import LawResult
from harness.record.record import Finding

if TYPE_CHECKING:
    from harness.judge.rules import Rule
    from harness.laws.judging import LawJudge

# Enough for a padded prefill, a cut in it and a miniature's sliding window; each is a decode of every stage.
LAW_TOKENS = 20
WHOLE_TOKENS = 256


def laws_input(prepared: Prepared, options: Options) -> JobInput | None:
    """What the laws are checked on: the first tokens of the longest input, of which the last one is decoded. What
    float32 costs there is known from that input. None where they are not to be checked.

    Of inputs that a file gives the longest is taken as it is, up to a length: a search may have found it. Conversations
    are taken where there is nothing else, as one prompt: laws cut and pad it in ways of their own.
    """
    if not options.laws:
        return None
    whole = [item for item in prepared.inputs if len(item.tokens) <= WHOLE_TOKENS] if options.inputs_file else []
    whole = [item for item in whole if not item.earlier] or whole
    longest = max(whole or prepared.inputs, key=lambda item: len(item.tokens))
    if whole:
        return JobInput(id=longest.id, tokens=longest.tokens, decode_tail=longest.decode_tail)
    return JobInput(id=longest.id, tokens=longest.tokens[:LAW_TOKENS])


def law_results(
    prepared: Prepared, options: Options, results: Results, stages: tuple[str, ...], traces: Path, rules: list[Rule]
) -> list[LawResult]:
    """Every law of every stage, in the order of the pipeline. What was not run says why."""
    asked = laws_input(prepared, options)
    if asked is None:
        return []
    from harness.laws.judging import LawJudge, none_checked, with_inherited

    judge = LawJudge(traces, prepared.model, rules)
    found: list[LawResult] = []
    for stage in map(stage_named, stages):
        if not stage.drives:
            found += none_checked(stage.name, "not applicable", "it cannot be run step by step")
        elif (status := results[stage.name].status) != "ok":
            found += none_checked(stage.name, "not run", f"the stage {'was ' if status == 'skipped' else ''}{status}")
        else:
            found += _judged(judge, stage, asked.id)
    return with_inherited(found, {stage: present(stage_named(stage).reference, stages) for stage in stages})


def _judged(judge: LawJudge, stage: Stage, item: str) -> list[LawResult]:
    """The laws of a stage that ended well. One that took over the traces of its twin has the twin's, bit by bit."""
    from harness.laws.judging import none_checked

    for name in filter(None, (stage.name, stage.twin)):
        try:
            return [one.model_copy(update={"stage": stage.name}) for one in judge.judged(name, item)]
        except FileNotFoundError:
            continue
    return none_checked(stage.name, "not run", "the stage left no word of them")


def law_findings(laws: Sequence[LawResult], results: Results) -> list[Finding]:
    """A law that a stage breaks, with the stages that inherit it; and what was not checked, but for stages that did
    not end, which the record says already."""
    broken = [found for found in laws if found.verdict == "broken" and not found.inherited]
    told = [_broken(stage, list(own), laws) for stage, own in groupby(broken, key=lambda found: found.stage)]
    lost = [found for found in laws if found.verdict == "not run" and results[found.stage].status == "ok"]
    for (stage, why), same in groupby(lost, key=lambda found: (found.stage, found.why)):
        told.append(_not_checked(stage, why, list(same)))
    return told


def _broken(stage: str, own: Sequence[LawResult], laws: Sequence[LawResult]) -> Finding:
    """own: the laws that this stage is the first to break."""
    said = [f"{LAW_WORDS[LawName(found.law)]} ({found.law}), but {found.why}" for found in own]
    heirs = dict.fromkeys(one.stage for one in laws if one.inherited == stage)
    also = f"; {_joined(heirs)} inherit{'s' if len(heirs) == 1 else ''} from it" if heirs else ""
    what = f"{stage} breaks {len(own)} law{'' if len(own) == 1 else 's'}: {'; '.join(said)}{also}"
    return Finding(kind="runtime", code=FindingCode.LAW_BROKEN, severity="error", what=what, stage=stage)


def _not_checked(stage: str, why: str, laws: Sequence[LawResult]) -> Finding:
    named = "its laws" if len(laws) == len(LAW_WORDS) else _joined(found.law for found in laws)
    return Finding(
        kind="runtime",
        code=FindingCode.LAW_NOT_CHECKED,
        severity="error",
        stage=stage,
        what=f"{stage}: {named} could not be checked: {why}",
    )


def _joined(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
