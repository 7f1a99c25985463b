"""Model Explorer files. In: record and taps. Out: `explorer/`, two graphs and six overlays per hop.

The graph has one node per tap, and the same node ids on both sides of a hop: that is what keeps
two panes together. An op-level graph of thirty blocks is a thin line that nobody reads.
Formats: `model_explorer.py`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.judge.shares import limit_of, nearest
from harness.names.taps import BLOCK_INPUT, EMBED, FINAL_NORM, LOGITS, SOURCES, block_tap, split_tap
from harness.record.record import HopResult, Record, write_text
from harness.record.tap_row import TapRow
from harness.render.model_explorer import Collection, Graph, Node, Overlay, OverlayFile, Shown, Threshold, node
from harness.render.numbers import number, tap_figure, tap_value
from harness.render.sentences import module_of
from harness.render.worst import DECODE_EXCESS, LOCAL_EXCESS, SNR, ShownTap, worst_rows

if TYPE_CHECKING:
    import pandas as pd

FOLDER = "explorer"
LIMIT_USED, EXCESS, REL_L2, VERDICT = "limit_used", "excess", "rel_l2", "verdict"
OVERLAYS = (LIMIT_USED, EXCESS, LOCAL_EXCESS, DECODE_EXCESS, SNR, REL_L2, VERDICT)
VERDICT_COLOURS = {"pass": "#cfead8", "fail": "#f2a29b", "missing": "#f5e1a4"}
_NONE, _LITTLE, _SOME, _MUCH, _MOST = "#e8f3ec", "#cfead8", "#f5e1a4", "#f2b98b", "#e8776d"
_END = 1e30  # an upper bound must be a number, and JSON has no infinity
# Upper bounds. A scale to see where error grows, not a verdict: that is an overlay of its own.
_OF_LIMIT = ((0.25, _NONE), (0.5, _LITTLE), (1, _SOME), (10, _MUCH), (_END, _MOST))
_TIMES = ((1.5, _NONE), (3, _LITTLE), (10, _SOME), (100, _MUCH), (_END, _MOST))
_SCALES: Mapping[str, Sequence[tuple[float, str]]] = {
    LIMIT_USED: _OF_LIMIT,
    EXCESS: _TIMES,
    LOCAL_EXCESS: _TIMES,
    DECODE_EXCESS: _TIMES,
    SNR: ((20, _MOST), (40, _MUCH), (80, _SOME), (110, _LITTLE), (_END, _NONE)),
    REL_L2: ((1e-6, _NONE), (1e-5, _LITTLE), (1e-4, _SOME), (1e-2, _MUCH), (_END, _MOST)),
}


def write_explorer(folder: Path, record: Record, frame: pd.DataFrame) -> list[Path]:
    """Write `explorer/` into the run folder, per hop: two graphs and, for both of them, the overlays.

    The graph files are `<hop>.from.graph.json` and `<hop>.to.graph.json`, one collection each: Model
    Explorer binds an overlay to a collection and colours one graph of it, so two panes need two.
    The overlays are `<hop>.<overlay>.json`; bind each once per side, with `graph_id` as model name.
    Returns the paths, each hop's graph files before its overlays.
    """
    target = folder / FOLDER
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for hop in record.hops:
        worst = worst_rows(frame, hop.name)
        if not worst:  # a graph without nodes does not open
            continue
        files: dict[str, object] = {
            f"{side}.graph": graph_collection(record, hop, stage, worst)
            for side, stage in (("from", hop.from_), ("to", hop.to))
        }
        files |= overlays(hop, worst)
        for kind, content in files.items():
            path = target / f"{file_stem(hop)}.{kind}.json"
            write_text(path, json.dumps(content, separators=(",", ":"), allow_nan=False))
            written.append(path)
    return written


def file_stem(hop: HopResult) -> str:
    """`hf-to-reauthored`: a hop's name as a file name. Brackets of a recipe become dots."""
    return "-to-".join(re.sub(r"[^A-Za-z0-9_-]+", ".", stage).strip(".") for stage in (hop.from_, hop.to))


def graph_id(hop: HopResult, stage: str) -> str:
    """`hf->reauthored/hf`: unique over every file of a run."""
    return f"{hop.name}/{stage}"


def graph_collection(record: Record, hop: HopResult, stage: str, worst: Mapping[str, ShownTap]) -> Collection:
    """One stage of a hop as a graph; the other stage's has the same nodes. Label and id are `graph_id`."""
    nodes = [_node(record, stage, tap, sources, worst[tap]) for tap, sources in dataflow(worst).items()]
    identity = graph_id(hop, stage)
    return Collection(label=identity, graphs=[Graph(id=identity, nodes=nodes)])


def dataflow(taps: Iterable[str]) -> dict[str, list[str]]:
    """Tap -> the taps it is computed from, for the taps a model has (in execution order)."""
    present = list(taps)
    have = set(present)
    blocks = sorted({block for block, _ in map(split_tap, present) if block is not None})
    flow = _Flow(have, blocks)
    sources: dict[str, list[str]] = {}
    for tap in present:
        block, point = split_tap(tap)
        if block is not None:
            found = [source for origin in SOURCES.get(point, ()) for source in flow.of(block, origin)]
            sources[tap] = list(dict.fromkeys(found))
        elif tap == FINAL_NORM:
            sources[tap] = flow.last
        elif tap == LOGITS:
            sources[tap] = [FINAL_NORM] if FINAL_NORM in have else flow.last
        else:
            sources[tap] = []
    return sources


class _Flow:
    """What a point is computed from, among the taps that are there. A point that is not is replaced by what it is
    computed from; each is looked up once, block by block, however many are missing."""

    def __init__(self, have: set[str], blocks: Sequence[int]) -> None:
        self._have = have
        self._found: dict[tuple[int, str], list[str]] = {}
        self._into: dict[int, list[str]] = {}  # block -> what its input is
        self.last = [EMBED] if EMBED in have else []
        for block in blocks:
            self._into[block] = self.last
            self.last = self.of(block, "out")

    def of(self, block: int, origin: str) -> list[str]:
        if origin == BLOCK_INPUT:
            return self._into[block]
        if (block, origin) not in self._found:
            tap = block_tap(block, origin)
            further = [] if tap in self._have else [each for name in SOURCES[origin] for each in self.of(block, name)]
            self._found[block, origin] = [tap] if tap in self._have else list(dict.fromkeys(further))
        return self._found[block, origin]


def _node(record: Record, stage: str, tap: str, sources: Sequence[str], shown: ShownTap) -> Node:
    attributes = tap_attributes(record, stage, tap, shown)
    row = shown.row
    return node(tap, split_tap(tap)[1], namespace(tap), attributes, sources, row.shape or "", row.dtype or "")


def namespace(tap: str) -> str:
    """The layer that a tap stands in, `block_7/attn`; empty outside the blocks."""
    block, point = split_tap(tap)
    if block is None:
        return ""
    group = {"attn": "attn", "cache": "attn", "mlp": "mlp"}.get(point.split(".")[0]) if "." in point else None
    return f"block_{block}" + (f"/{group}" if group else "")


def tap_attributes(record: Record, stage: str, tap: str, shown: ShownTap) -> Iterable[tuple[str, str]]:
    row = shown.row
    yield "module", module_of(record, tap, stage) or "-"
    yield "verdict", row.verdict
    if row.verdict == "missing":
        yield "why", row.why
        return
    yield "worst input", row.input
    yield "shape", str(row.shape)
    yield "dtype", str(row.dtype)
    for column in ("excess", "position_excess"):
        yield column, tap_figure(row, column)
    of = f", input {shown.local_input}" if shown.local_input != row.input else ""
    yield LOCAL_EXCESS, tap_figure(row, LOCAL_EXCESS) + of
    if row.decode_position is not None:
        yield DECODE_EXCESS, f"{number(tap_value(row, DECODE_EXCESS))} at position {row.decode_position}"
    for column in ("total_excess", "rel_l2", "noise_floor", "max_abs_err"):
        yield column, number(tap_value(row, column))
    yield "judged by", row.rule
    if row.why:
        yield "why", row.why


def overlays(hop: HopResult, worst: Mapping[str, ShownTap]) -> dict[str, OverlayFile]:
    """All overlays of a hop, by name. worst: what is shown of each tap."""
    return {name: node_data(hop, worst, name) for name in OVERLAYS}


def node_data(hop: HopResult, worst: Mapping[str, ShownTap], overlay: str) -> OverlayFile:
    """One overlay for both graphs of a hop. worst: what it shows of each tap.

    A file with NaN or Infinity does not open, and a number in its place would be a lie: such a tap
    has no colour in the number overlays and says `fail, not finite` in the verdict overlay. Only an SNR
    without any noise has a word for it.
    """
    results: dict[str, Shown] = {}
    for tap, row in ((tap, shown.row) for tap, shown in worst.items()):
        value = _shown(row, overlay)
        if isinstance(value, str):
            results[tap] = Shown(value=value, bgColor=_NONE if overlay == SNR else VERDICT_COLOURS[row.verdict])
        elif value is not None:
            results[tap] = Shown(value=float(f"{value:.4g}"))
            if colour := _colour(row, overlay):
                results[tap]["bgColor"] = colour
    data = Overlay(name=overlay, results=results)
    if overlay in _SCALES:
        data["thresholds"] = thresholds(overlay)
    return {graph_id(hop, stage): data for stage in (hop.from_, hop.to)}


def thresholds(overlay: str) -> list[Threshold]:
    """Of an overlay of numbers."""
    return [Threshold(value=bound, bgColor=colour) for bound, colour in _SCALES[overlay]]


def scales() -> list[tuple[str, list[tuple[str, str]]]]:
    """What the colours mean: overlays in words, and their steps as words and colour, in the order of their values."""
    named = {
        f"{LIMIT_USED}, {EXCESS}, {LOCAL_EXCESS}, {DECODE_EXCESS}: share of the limit": _OF_LIMIT,
        f"{EXCESS}, {LOCAL_EXCESS}, {DECODE_EXCESS} where there is no limit: times the noise floor": _TIMES,
        f"{SNR}: signal to noise in dB": _SCALES[SNR],
        f"{REL_L2}: relative error": _SCALES[REL_L2],
    }
    found = [(words, [(_step(bound, scale), colour) for bound, colour in scale]) for words, scale in named.items()]
    return [*found, (VERDICT, list(VERDICT_COLOURS.items()))]


def _step(bound: float, scale: Sequence[tuple[float, str]]) -> str:
    return f"up to {bound:g}" if bound != _END else f"above {scale[-2][0]:g}"


def _shown(row: TapRow, overlay: str) -> float | str | None:
    """A finite number, words, or None for a tap without either."""
    if overlay == VERDICT:
        return _verdict(row)
    value = _limit_used(row) if overlay == LIMIT_USED else tap_value(row, overlay)
    if not isinstance(value, float):
        return None
    if overlay == SNR and value == math.inf:
        return "no noise"
    return value if math.isfinite(value) else None


def _colour(row: TapRow, overlay: str) -> str:
    """An excess within its limit is not coloured as if it were past it: short inputs have wider limits.

    Empty where the thresholds colour it.
    """
    limit = _limit_of(row, overlay) if overlay in (EXCESS, LOCAL_EXCESS, DECODE_EXCESS) else None
    if not limit:
        return ""
    used = _of_own_limit(row, overlay)
    return next(colour for bound, colour in _OF_LIMIT if used <= bound or bound == _END)


def _of_own_limit(row: TapRow, column: str) -> float:
    limit, value = _limit_of(row, column), tap_value(row, column)
    return float(value or 0.0) / (limit or 1.0)


def _limit_of(row: TapRow, column: str) -> float | None:
    """A decode step is a single position."""
    return limit_of(row, "position_excess" if column == DECODE_EXCESS else column)


def _limit_used(row: TapRow) -> float | None:
    figure = nearest(row)
    return None if figure is None or figure.limit is None else figure.share


def _verdict(row: TapRow) -> str:
    value = tap_value(row, "excess")
    finite = value is None or (isinstance(value, float) and math.isfinite(value))
    return row.verdict if finite else f"{row.verdict}, not finite"
