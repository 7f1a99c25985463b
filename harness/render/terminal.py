"""A run in the terminal. In: record and taps. Out: lines on a rich console, the same words without one.

Everything is printed as `Text`, never as markup: names, prompts and reasons come from outside.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.names.stages import FLATBUFFER, FLOAT, HF, own_stages, split
from harness.plain import one_line
from harness.record.record import DecodeSteps, Fault, HopResult, KnownDefect, Record
from harness.record.tap_row import TapRow
from harness.render.console import STYLES, cells, line, new_table, verdict_cell, wrapped
from harness.render.generation import summary as generation_summary
from harness.render.hop_tables import in_lines, tables_of
from harness.render.numbers import (
    figure_text,
    floor_text,
    nearest_figure,
    number,
    percent,
    rows_of,
    sort_key,
    tap_figure,
    tap_value,
    worst_excess,
)
from harness.render.recipes import recipe_groups, recipe_words, same_words
from harness.render.said import said_of
from harness.render.sensitivity import sensitivity_words
from harness.render.sentences import (
    MissingGroup,
    defect_words,
    fault_words,
    further_faults,
    headline,
    missing_groups,
    nearest_to_limit,
    sequence_words,
    steps_words,
    suspicion,
)
from harness.render.worst import worst_per_tap

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from harness.compare.runs import RunDiff, TapChange

WORST_TAPS = 3
TAPS_BEFORE, TAPS_AFTER = 4, 4
DIFF_TAPS = 10


def print_summary(record: Record, frame: pd.DataFrame, folder: Path, console: Console) -> None:
    """What a run found, for somebody who has half a minute."""
    _title(record, console)
    _recipe_lines(record, console)
    if record.generation is not None:
        wrapped(console, f"generated: {generation_summary(record.generation)}")
    for table in (_stage_table(record), *tables_of(record)):
        console.print(table)
        line(console, "")
    for hop in record.hops:
        _worst_taps(hop, frame, [one for one in record.steps if one.hop == hop.name], console)
    _missing_lines(record, console)
    for said in said_of(record, frame):
        wrapped(console, said, indent=0)
    _fault_lines(record, frame, console)
    _findings(record, console)
    _known_defects(record, console)
    line(console, "")
    line(console, f"report  {folder / 'report.html'}")
    if record.verdict == "fail":
        line(console, f"next    edge-parity explain {shlex.quote(str(folder))}")
        if record.first_fault is not None:
            line(console, f"graphs  edge-parity explore {shlex.quote(str(folder))}")


def print_explain(record: Record, frame: pd.DataFrame, console: Console) -> None:
    """The first failing tap in depth: where, in which step, and what the taps around it say."""
    _title(record, console)
    fault = record.first_fault
    if fault is None:
        if record.verdict == "pass":
            line(console, "Nothing to explain: the run passed, no tap fails.")
        else:
            line(console, "No tap fails, so there is no first fault. What failed instead:")
            for reason in _other_reasons(record):
                line(console, f"  {reason}")
        _findings(record, console)
        _known_defects(record, console)
        return
    given = fault.input or _failing_input(fault, frame)
    rows = rows_of(frame, hop=fault.hop, input=given)
    at = next((i for i, row in enumerate(rows) if row.tap == fault.tap), None)
    _fault_lines(record, frame, console)
    line(console, "")
    if at is None:
        line(console, f"The taps hold no row for {fault.tap} on input {given}.")
    else:
        console.print(_around_table(rows, at, given))
    _other_hops(record, frame, fault, given, console)
    _findings(record, console)
    _known_defects(record, console)


def print_diff(comparison: RunDiff, console: Console) -> None:
    """What got better or worse from run A to run B."""
    before, after = comparison.run_ids
    line(console, f"{comparison.model}: {before} (A) -> {after} (B)", style="bold")
    if comparison.variant[0] != comparison.variant[1]:
        line(console, f"variant: {_change(*(one_line(name) for name in comparison.variant))}")
    line(console, f"verdict: {_change(*comparison.verdict)}", style=STYLES.get(comparison.verdict[1], ""))
    if comparison.uncompared_inputs:
        names = _some(comparison.uncompared_inputs)
        line(console, f"inputs that differ, left out of the tap comparison: {names}")
    if not comparison.common_inputs:
        line(console, "The runs have no input in common: no tap was compared.", style="yellow")
    if any(side is not None for side in comparison.likelihood):
        nll = _change(*(side if side is None else number(side) for side in comparison.likelihood))
        line(console, f"the reference's NLL on their common text, nats per token: {nll}")
    line(console, "")
    console.print(_diff_hops(comparison))
    line(console, "")
    console.print(_diff_logits(comparison))
    line(console, "")
    for title, style, changes in (
        ("newly failing", "bold red", comparison.newly_failing),
        ("newly missing", "yellow", comparison.newly_missing),
        ("newly passing", "green", comparison.newly_passing),
    ):
        line(console, f"{title}: {len(changes) or 'none'}", style=style if changes else "")
        _tap_changes(changes, console)
    line(console, f"share of the limit changed more than twofold: {comparison.changed_total or 'none'}")
    _tap_changes([change for change in comparison.changed if change.verdict[0] == change.verdict[1]], console)
    for name, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        if keys:
            for hop in dict.fromkeys(hop for hop, _ in keys):
                taps = [tap for of, tap in keys if of == hop]
                line(console, f"taps only in {name}, {one_line(hop)}: {len(taps)} ({_some(taps)})")
    seconds = comparison.stage_seconds.items()
    line(console, "seconds: " + ", ".join(f"{stage} {_change(number(a), number(b))}" for stage, (a, b) in seconds))


def _title(record: Record, console: Console) -> None:
    variant = "" if record.variant == "default" else f"  variant {one_line(record.variant)}"
    line(console, f"{record.verdict.upper()}  {record.model}{variant}", style=STYLES[record.verdict])
    wrapped(console, headline(record), indent=0)
    if record.verdict == "pass":
        wrapped(console, nearest_to_limit(record), indent=0)
    line(console, "")


def _stage_table(record: Record) -> Table:
    table = new_table(
        "stages", [("stage", False), ("status", False), ("seconds", True), ("peak MB", True), ("", False)]
    )
    for stage in record.stages:
        status = (stage.status, STYLES.get(stage.status, "yellow"))
        peak = number(round(stage.peak_rss_mb)) if stage.peak_rss_mb else "-"
        table.add_row(*cells(stage.name, status, f"{stage.seconds:.1f}", peak, one_line(stage.detail)))
    return table


def _recipe_lines(record: Record, console: Console) -> None:
    """Each recipe in a sentence: what it costs, and what the runtimes make of its file."""
    for group in recipe_groups(record):
        wrapped(console, recipe_words(group), indent=0)
        if group.result is not None and (said := sensitivity_words(group.result)):
            wrapped(console, said)
    if recipe_groups(record):
        line(console, "")


def _worst_taps(hop: HopResult, frame: pd.DataFrame, steps: Sequence[DecodeSteps], console: Console) -> None:
    """Of a quantised file's hops only what fails: the table has the rest."""
    worst = worst_per_tap(frame, hop.name)
    compared = [row for row in worst.values() if row.verdict != "missing"]
    top = sorted(compared, key=sort_key, reverse=True)[:WORST_TAPS]
    if top and hop.lowest_snr is None and (hop.verdict == "fail" or split(hop.to)[1] == FLOAT):
        taps = ", ".join(f"{row.tap} {nearest_figure(row)}" for row in top)
        wrapped(console, f"{hop.name} worst: {taps}", indent=0)
    for reason in hop.reasons:
        wrapped(console, f"{hop.name} fails: {reason}", indent=0, style="red")
    if hop.verdict == "fail" and (said := steps_words(steps)):
        wrapped(console, f"{hop.name} {said}", indent=0, style="red")


def _missing_lines(record: Record, console: Console) -> None:
    """What is missing, once for all hops of which the same is to be said."""
    hops: dict[str, list[str]] = {}
    for hop in record.hops:
        if groups := missing_groups(hop):
            hops.setdefault("; ".join(map(_missing_words, groups)), []).append(hop.name)
    for said, names in hops.items():
        wrapped(console, f"{same_words(names)}: {said}", indent=0, style="yellow")


def _missing_words(group: MissingGroup) -> str:
    patterns = f"{_some(group.patterns)} - " if group.patterns else ""
    return f"{group.count} {'tap' if group.count == 1 else 'taps'} missing: {patterns}{group.why}"


def _some(names: Sequence[str], most: int = 4, cut: int = 60) -> str:
    """cut: how many characters of a name are shown at most; 0 for all of a name that is the project's own."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(one_line(name, cut) for name in names[:most]) + more


def _failing_input(fault: Fault, frame: pd.DataFrame) -> str:
    rows = rows_of(frame, hop=fault.hop, tap=fault.tap)
    failing = [row for row in rows if row.verdict == "fail"] or rows
    return failing[0].input if failing else ""


def _fault_lines(record: Record, frame: pd.DataFrame, console: Console) -> None:
    fault = record.first_fault
    if fault is None:
        return
    given = fault.input or _failing_input(fault, frame)
    rows = rows_of(frame, hop=fault.hop, tap=fault.tap, input=given)
    line(console, "")
    line(console, f"first fault  {fault.tap}", style="bold red")
    wrapped(console, fault_words(record, rows[0] if rows else None))
    facts = [
        ("hop", fault.hop),
        ("what", fault.where),
        ("block", "outside the blocks" if fault.block is None else str(fault.block)),
        ("input", given),
        ("sequence", sequence_words(fault)),
        *_fault_figures(fault, rows),
        ("judged by", rows[0].rule if rows else "-"),
        ("because", fault.reason or (rows[0].why if rows else "")),
        *((version, fault.modules.get(version)) for version in (HF, *own_stages(), FLATBUFFER)),
        ("op", fault.op),
        ("signature", fault.signature),
    ]
    for name, fact in facts:
        if fact:
            line(console, f"  {name:<11}{one_line(fact)}")
    owner = f"Owner: {fault.owner}. {'; '.join(fault.evidence)}." if fault.owner else suspicion(record)
    wrapped(console, owner)
    _why_lines(record, console)
    for title, others in further_faults(record):
        wrapped(console, f"{title}: {_some(others, 6, cut=0)}.")


def _why_lines(record: Record, console: Console) -> None:
    """The causes that close the gap, and what to change."""
    for entry in record.diagnosis:
        where = f" at {entry.tap}" if record.first_fault and entry.tap not in ("", record.first_fault.tap) else ""
        share = f"{percent(entry.explains)} of the error"
        wrapped(console, f"Why{where}: {one_line(entry.detail, 400)} ({one_line(entry.hypothesis)}, {share}).")
        if entry.change:
            wrapped(console, f"To fix it: {one_line(entry.change, 200)}.")
    for reason in record.unexplained:
        wrapped(console, f"Not explained: {one_line(reason, 200)}.")


def _fault_figures(fault: Fault, rows: Sequence[TapRow]) -> list[tuple[str, str]]:
    """What the tap is judged by. Where float32 itself fails, an excess over it says nothing."""
    if floor := floor_text(fault):
        return [("floor", f"noise floor {floor}")]
    kernels = fault.between.by_snr
    first = ("SNR", _fault_snr(rows)) if kernels else ("excess", _fault_excess(fault, rows))
    return [first, ("local", _local_words(fault))]


def _local_words(fault: Fault) -> str:
    """What was introduced at the tap; empty where no local pass could tell."""
    if fault.local_excess is None:
        return ""
    position = number(fault.local_position_excess)
    return f"excess {number(fault.local_excess)} introduced here, at its worst position {position}"


def _fault_excess(fault: Fault, rows: Sequence[TapRow]) -> str:
    if not rows:
        return number(fault.excess)
    excess, position = (tap_figure(rows[0], column) for column in ("excess", "position_excess"))
    return f"{excess}, at its worst position {position}"


def _fault_snr(rows: Sequence[TapRow]) -> str:
    return f"{number(tap_value(rows[0], 'snr_db'))} dB" if rows else "-"


def _around_table(rows: Sequence[TapRow], at: int, given: str) -> Table:
    names = ("excess", "worst position", "rel_l2")
    title = f"around it, in execution order, on input {one_line(given, 40)}"
    table = new_table(title, [("", False), ("tap", False), ("verdict", False), *((name, True) for name in names)])
    table.columns[1].no_wrap = True  # a tap's name in two pieces is not a name
    for i, row in enumerate(rows[max(0, at - TAPS_BEFORE) : at + TAPS_AFTER + 1], start=max(0, at - TAPS_BEFORE)):
        figures = [tap_figure(row, name) for name in ("excess", "position_excess")]
        rel_l2 = number(tap_value(row, "rel_l2"))
        table.add_row(*cells(">" if i == at else "", row.tap, verdict_cell(row.verdict), *figures, rel_l2))
    return table


def _other_hops(record: Record, frame: pd.DataFrame, fault: Fault, given: str, console: Console) -> None:
    line(console, "")
    others = [hop for hop in record.hops if hop.name != fault.hop]
    if not others:
        line(console, f"owned by the step {fault.hop}, the only one in this run")
        return
    line(console, f"owned by the step {fault.hop}; the same tap in the other steps:")
    for hop in others:
        rows = rows_of(frame, hop=hop.name, tap=fault.tap, input=given)
        if not rows:
            line(console, f"  {hop.name}: not in this run")
            continue
        said = f"excess {tap_figure(rows[0], 'excess')}" if rows[0].verdict != "missing" else rows[0].why
        line(console, f"  {hop.name}: {rows[0].verdict}, {said}")


def _other_reasons(record: Record) -> Iterable[str]:
    for stage in record.stages:
        if stage.status in ("crashed", "timeout"):
            yield f"stage {stage.name} {stage.status}: {stage.detail or 'see run.log'}"
    for hop in record.hops:
        for reason in hop.reasons:
            yield f"{hop.name}: {reason}"


def _findings(record: Record, console: Console) -> None:
    for finding in record.findings:
        style = "red" if finding.severity == "error" else "yellow"
        wrapped(console, f"{finding.severity} ({finding.kind}): {finding.what}", indent=0, style=style)


def _known_defects(record: Record, console: Console) -> None:
    """Each defect once, with every place where the run was bound to show it."""
    places: dict[str, list[KnownDefect]] = {}
    for known in record.known_defects:
        places.setdefault(known.id, []).append(known)
    for name, shown in places.items():
        first = shown[0]
        line(console, "")
        line(console, f"known upstream defect  {name}", style="yellow")
        wrapped(console, f"{first.title}. {first.cause}")
        for known in shown:
            line(console, f"  {'listed':<11}{known.place}; {known.measured}")
            line(console, f"  {'here':<11}{defect_words(known)}: {known.found}")
        for heading, text in (("versions", first.versions_differ), ("remedy", first.remedy)):
            if text:
                wrapped(console, f"{heading}: {text}")
        if first.remedy_command:
            line(console, f"  {'passes':<11}{first.remedy_command}")


def _change(*sides: object) -> str:
    return " -> ".join(dict.fromkeys("absent" if value is None else str(value) for value in sides))


def _diff_hops(comparison: RunDiff) -> Table:
    names = ("verdict", "worst excess", "coverage")
    table = new_table("hops, A -> B", [("hop", False), *((name, False) for name in names)], min_first=16)
    for hop in comparison.hops:
        pairs = [
            hop.verdict,
            [worst and worst_excess(worst) for worst in hop.worst],
            [percent(value) for value in hop.coverage],
        ]
        changes = [_change(*pair).replace(" -> ", "\n-> ") for pair in pairs]
        style = STYLES.get(hop.verdict[1] or "", "yellow")
        table.add_row(*cells(in_lines(hop.hop), (changes[0], style), *changes[1:]))
    return table


def _diff_logits(comparison: RunDiff) -> Table:
    names = ("max abs err", "KL max", "flips above noise")
    table = new_table("logits, A -> B", [("hop", False), *((name, False) for name in names)], min_first=16)
    for hop in comparison.hops:
        pairs = [
            [number(side and getattr(side, name)) for side in hop.logits]
            for name in ("max_abs_err", "kl_max", "flips_above_noise")
        ]
        changes = [_change(*pair).replace(" -> ", "\n-> ") for pair in pairs]
        table.add_row(*cells(in_lines(hop.hop), *changes))
    return table


def _tap_changes(changes: Sequence[TapChange], console: Console) -> None:
    for change in changes[:DIFF_TAPS]:
        figures = _change(*(figure and figure_text(figure) for figure in change.figures))
        verdict = f"{_change(*change.verdict)}, " if change.verdict[0] != change.verdict[1] else ""
        line(console, f"  {change.hop}  {change.tap}  {verdict}{figures}")
    if len(changes) > DIFF_TAPS:
        line(console, f"  and {len(changes) - DIFF_TAPS} more")
