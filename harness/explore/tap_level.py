"""A hop as two graphs of taps. In: record and taps of a run, and the hop asked for. Out: the view that shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.explore.panes import Pane, View, as_json
from harness.names.taps import split_tap
from harness.plain import clean, one_line
from harness.record.record import HopResult, Record
from harness.render.explorer import EXCESS, LIMIT_USED, VERDICT, graph_collection, graph_id, namespace, overlays
from harness.render.model_explorer import Collection, Graph, Overlay
from harness.render.numbers import share_of
from harness.render.words import fault_of
from harness.render.worst import LOCAL_EXCESS, SNR, worst_rows

if TYPE_CHECKING:
    import pandas as pd

REFERENCE, CANDIDATE = "reference", "candidate"  # the page has them for titles


def choose_hop(record: Record, frame: pd.DataFrame, asked: str | None = None) -> HopResult:
    """The hop asked for, else that of the first fault, else the first that fails, else the first with compared taps.

    Raises UsageError for a hop that the run does not have, or of which nothing was compared.
    """
    if asked is not None:
        return _asked(record, frame, asked)
    drawn = [hop for hop in record.hops if _rows(frame, hop)]
    if not drawn:
        raise UsageError(f"run {record.run_id} compared no tap on any hop{_lost(record)}; there is not a graph to open")
    first = record.first_fault.hop if record.first_fault else ""
    return min(drawn, key=lambda hop: (hop.name != first, hop.verdict != "fail"))


def tap_view(record: Record, frame: pd.DataFrame, hop: HopResult) -> View:
    """Reference on the left, candidate on the right, opened at the first fault of the hop.

    A hop without one opens at the tap that comes nearest to its limit.
    """
    worst = worst_rows(frame, hop.name)
    place, tap = where_to_open(record, hop)
    if tap not in worst:
        place, tap = "", ""
    results = {name: content[graph_id(hop, hop.to)] for name, content in overlays(hop, worst).items()}
    shown = first_overlay(record, hop, tap, results)
    # Both panes know the nodes of both, so each document serves either.
    documents = {name: as_json(dict.fromkeys((hop.from_, hop.to), content)) for name, content in results.items()}

    def pane(stage: str, label: str) -> Pane:
        (graph,) = graph_collection(record, hop, stage, worst)["graphs"]
        content = as_json(Collection(label=label, graphs=[Graph(id=stage, nodes=graph["nodes"])]))
        return Pane(label, stage, content, documents, shown, node=tap, layers=_layers_around(tap, worst))

    return View(pane(hop.from_, REFERENCE), pane(hop.to, CANDIDATE), view_words(record, hop, place, tap))


def view_words(record: Record, hop: HopResult, place: str, tap: str) -> str:
    """What is shown, on one line. place: what is to be seen at that tap."""
    at = f", at {place} {tap}" if tap else ""
    return one_line(f"{record.model}, run {record.run_id}: {hop.name}{at}")


def where_to_open(record: Record, hop: HopResult) -> tuple[str, str]:
    """What is to be seen, in words, and its tap; both empty where nothing was compared."""
    fault = fault_of(record, hop)
    if fault is not None:
        return "its first fault", fault.tap
    if hop.first_failing_tap:
        return "its first failing tap", hop.first_failing_tap
    if hop.lowest_snr is not None:
        return "its lowest SNR", hop.lowest_snr.tap
    worst = [figure for figure in (hop.worst, hop.worst_position) if figure is not None]
    return ("the tap nearest to its limit", max(worst, key=share_of).tap) if worst else ("", "")


def first_overlay(record: Record, hop: HopResult, tap: str, overlays: Mapping[str, Overlay]) -> str:
    """The one that points at the fault: local excess where it was judged, else what was. overlays: name -> content.

    A tap that holds NaN has no number: there the verdicts are what shows it.
    """
    fault = fault_of(record, hop)
    wanted = [SNR] if hop.hop.by_snr else [EXCESS]
    if fault is not None and fault.local_excess is not None and math.isfinite(fault.local_excess):
        wanted = [LOCAL_EXCESS, *wanted]
    if hop.verdict == "pass" and wanted == [EXCESS]:
        wanted = [LIMIT_USED]
    return next((name for name in wanted if tap in overlays[name]["results"]), VERDICT)


def _asked(record: Record, frame: pd.DataFrame, asked: str) -> HopResult:
    names = [hop.name for hop in record.hops]
    if asked not in names:
        known = f"its hops are {', '.join(names)}; give one of them, in quotes" if names else "it compared nothing"
        raise UsageError(clean(f"--hop {asked} is not a hop of run {record.run_id}: {known}"))
    hop = record.hop(asked)
    if not _rows(frame, hop):
        others = [other.name for other in record.hops if _rows(frame, other)]
        remedy = f"give another: {', '.join(others)}" if others else "run the model again"
        raise UsageError(clean(f"nothing was compared on {asked}{_lost(record, hop)}; {remedy}"))
    return hop


def _rows(frame: pd.DataFrame, hop: HopResult) -> bool:
    return bool((frame["hop"] == hop.name).any())


def _lost(record: Record, hop: HopResult | None = None) -> str:
    """Which stages ended badly, of a hop or of the whole run."""
    mine = {stage for one in ([hop] if hop else record.hops) for stage in (one.from_, one.to)}
    ended = [
        stage for stage in record.stages if stage.status in ("crashed", "timeout") and (not hop or stage.name in mine)
    ]
    said = ", ".join(f"stage {stage.name} {'timed out' if stage.status == 'timeout' else 'crashed'}" for stage in ended)
    return f" ({said})" if said else ""


def _layers_around(tap: str, taps: Iterable[str]) -> tuple[str, ...]:
    """All layers of the block that a tap stands in."""
    block, _ = split_tap(tap)
    mine: Sequence[str] = [other for other in taps if block is not None and split_tap(other)[0] == block]
    return tuple(dict.fromkeys(layer for other in mine if (layer := namespace(other))))
