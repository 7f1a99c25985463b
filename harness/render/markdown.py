"""A run in Markdown, for a pull request or a job summary. In: the record. Out: `summary.md`.

Whatever comes from a model, a prompt or a path is escaped, so that it can neither format, link nor mention.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.plain import one_line
from harness.record.record import Fault, HopResult, Record, write_text
from harness.render.laws import law_words
from harness.render.numbers import compared, percent, worst_excess
from harness.render.recipes import recipe_groups, recipe_words
from harness.render.sentences import (
    breach_words,
    defect_words,
    excess_words,
    further_faults,
    nearest_to_limit,
    sequence_words,
    snr_figure,
    suspicion,
)
from harness.render.speed import SPEED_COLUMNS, speed_rows, speed_words, unsteady_words
from harness.render.words import causes_of, fault_of, text_words, verdict_words, where

SUMMARY_FILE = "summary.md"
_MOST = 10  # findings shown; the report has all
# What formats, mentions, or makes a link or an emoji of a name.
_SPECIAL = re.compile(r"[\\`*_\[\]#!|~>@]|:(?=\S)|(?<=www)\.")


def write_summary(folder: Path, final: Path, record: Record) -> Path:
    """Write `summary.md` into the run folder and return its path. final: where the folder will stay."""
    path = folder / SUMMARY_FILE
    write_text(path, summary(record, final))
    return path


def summary(record: Record, folder: Path) -> str:
    """The whole text. folder: of the run, for the commands."""
    parts = [
        f"## {'PASS' if record.verdict == 'pass' else 'FAIL'} {plain(record.model)}",
        plain(verdict_words(record)),
        "\n".join(_hops(record)),
        *_recipes(record),
        *_speed(record),
        *_first_fault(record, folder),
        *_listed("Findings", _findings(record)),
        *_listed("Known upstream defects", _defects(record)),
        f"Run {code(record.run_id)}{_made_of(record)}. The full report is {code('report.html')} in its folder.",
    ]
    if law_words(record):
        parts.insert(2, plain(law_words(record)))
    if text_words(record):
        parts.insert(2, plain(text_words(record)))
    if record.verdict == "pass" and nearest_to_limit(record):
        parts.insert(2, plain(nearest_to_limit(record)))
    return "\n\n".join(parts) + "\n"


def plain(text: object) -> str:
    """Text that Markdown shows as it is, on one line."""
    escaped = _SPECIAL.sub(r"\\\g<0>", one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def code(text: object) -> str:
    """Text in a fixed font, on one line."""
    return f"<code>{html.escape(one_line(text)).replace('|', '&#124;').replace('@', '&#64;')}</code>"


def _hops(record: Record) -> Iterator[str]:
    yield "| hop | verdict | worst excess | first fault | owner | coverage | KL max | flips above noise |"
    yield "|---|---|---|---|---|---|---|---|"
    for hop in record.hops:
        yield f"| {' | '.join(_hop(record, hop))} |"


def _hop(record: Record, hop: HopResult) -> Sequence[str]:
    fault, logits = fault_of(record, hop), hop.logits
    tap = fault.tap if fault else hop.first_failing_tap
    verdict = "not compared" if not hop.taps_compared else "**FAIL**" if hop.verdict == "fail" else "pass"
    figures = ("-", "-") if logits is None else (compared(logits.kl_max), str(logits.flips_above_noise))
    return (
        code(hop.name),
        verdict,
        f"SNR {snr_figure(hop)} dB" if hop.lowest_snr else plain(breach_words(hop, fault) or worst_excess(hop.worst)),
        code(tap) if tap else "-",
        plain(fault.owner) if fault and fault.owner else "-",
        f"{percent(hop.coverage)} ({hop.taps_compared} of {hop.taps_compared + hop.taps_missing})",
        *figures,
    )


def _recipes(record: Record) -> Iterator[str]:
    """What each recipe costs, and what the runtimes do with its file."""
    lines = [
        f"- {code(group.name)}{plain(recipe_words(group).removeprefix(group.name))}" for group in recipe_groups(record)
    ]
    if lines:
        yield "### Quantised files"
        yield "\n".join(lines)


def _speed(record: Record) -> Iterator[str]:
    """How fast each stage is."""
    rows = speed_rows(record)
    if not rows:
        return
    yield "### Speed"
    lines = [f"| stage | {' | '.join(SPEED_COLUMNS)} |", f"|---|{'---|' * len(SPEED_COLUMNS)}"]
    for row in rows:
        shown = [f"{figure} ({beside})" if beside else figure for figure, beside in row.cells]
        lost = [f"not measured: {row.why_not}", *[""] * (len(SPEED_COLUMNS) - 1)]
        lines.append(f"| {code(row.stage)} | {' | '.join(map(plain, lost if row.why_not else shown))} |")
    yield "\n".join(lines)
    yield plain(f"{speed_words(record)} {unsteady_words(record)}".strip())


def _first_fault(record: Record, folder: Path) -> Iterator[str]:
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            yield f"Stage {code(stage.name)} {plain(stage.status)}: {plain(stage.detail or 'see run.log')}"
    fault = record.first_fault
    if fault is None:
        return
    yield f"### First fault: {code(fault.tap)}"
    yield "\n".join(f"- {line}" for line in _fault_lines(record, fault))
    for title, taps in further_faults(record):
        yield f"{plain(title)}: {', '.join(code(tap) for tap in taps[:_MOST])}"
    run = shlex.quote(str(folder))
    yield f"```sh\nedge-parity explain {run}\nedge-parity explore {run}\n```"


def _fault_lines(record: Record, fault: Fault) -> Iterator[str]:
    yield f"{plain(where(fault))}, on {code(fault.hop)}, input {code(fault.input)}"
    yield plain(excess_words(fault))
    if sequence := sequence_words(fault):
        yield f"where in the sequence: {plain(sequence)}"
    if fault.owner:
        yield f"owner: {plain(fault.owner)}. {plain('; '.join(fault.evidence))}"
    else:
        yield plain(suspicion(record))
    if fault.operator is not None:
        faulty = fault.operator
        inside = f" inside {plain(', '.join(faulty.composites))}" if faulty.composites else ""
        yield f"{plain(faulty.whose)}: {code(faulty.op)}, operator {faulty.index}{inside}: {plain(faulty.why)}"
    for cause in causes_of(record, fault)[:3]:
        change = f" To do: {plain(cause.change)}" if cause.change else ""
        yield f"cause: {code(cause.hypothesis)} explains {percent(cause.explains)}: {plain(cause.detail)}.{change}"
    for version, module in fault.modules.items():
        if module:
            yield f"{plain(version)}: {code(module)}"


def _findings(record: Record) -> list[str]:
    ordered = sorted(record.findings, key=lambda finding: finding.severity)
    return [f"**{finding.severity}** ({finding.kind}): {plain(finding.what)}" for finding in ordered]


def _defects(record: Record) -> list[str]:
    return [
        f"{code(known.id)} {plain(defect_words(known))}: {plain(known.found)}. {plain(known.remedy)}"
        for known in record.known_defects
    ]


def _listed(title: str, lines: Sequence[str]) -> Iterator[str]:
    if lines:
        more = [f"- and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
        yield f"### {title}"
        yield "\n".join([*(f"- {line}" for line in lines[:_MOST]), *more])


def _made_of(record: Record) -> str:
    source = f", weights {plain(record.source.name)}" if record.source else ""
    return f"{source}, variant {plain(record.variant)}"
