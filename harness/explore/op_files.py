"""Graphs of operators as Model Explorer reads them, with what a run says of their taps.

In: a `Side` of a hop: its `OpGraph`, that of the other side, and what is shown of each tap. Out: the content of JSON
files. Pure.

The operator that makes a tap has the tap's name as its id, on both sides: that keeps two panes together. All others
have the ids of their own framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from harness.align.op_graph import INPUTS, OpGraph, belonging, drawn, made_by
from harness.names.stages import runs_file
from harness.names.taps import split_tap
from harness.record.record import HopResult, Record
from harness.render.explorer import graph_id as tap_graph_id
from harness.render.explorer import tap_attributes
from harness.render.model_explorer import Collection, Graph, NodeLinks, Overlay, OverlayFile, Shown, node
from harness.render.numbers import sort_key
from harness.render.worst import ShownTap

PARTNER = "partner"
ALONE = "#c9b6e4"
_TOGETHER = "#e3edf7"
PARTNER_COLOURS = {"compared": _TOGETHER, "no partner": ALONE}
_SEVERITY = ("pass", "missing", "fail")


@dataclass(frozen=True)
class Side:
    """One side of a hop. other: the graph of the other side. worst: tap -> what is shown of it.

    overlays: by name, what each says of the taps. faults: operator -> what is wrong with it.
    """

    record: Record
    hop: HopResult
    stage: str
    graph: OpGraph
    other: OpGraph
    worst: Mapping[str, ShownTap]
    overlays: Mapping[str, Overlay]
    faults: Mapping[str, str]

    @property
    def graph_id(self) -> str:
        """`hf->reauthored/hf/operators`: unique over every file of a run."""
        return f"{tap_graph_id(self.hop, self.stage)}/operators"

    @cached_property
    def ids(self) -> dict[str, str]:
        return node_ids(self.graph, self.stage)

    @cached_property
    def partners(self) -> dict[str, str]:
        """Tap -> the operator that makes it on the other side, in words."""
        labels = {op.id: f"{op.label} ({op.id})" for op in self.other.ops}
        return {tap: labels[maker] for tap, maker in self.other.taps.items()}

    def alone(self, tap: str) -> str:
        """Why a tap has no partner on the other side; empty for one that has."""
        shown = self.worst.get(tap)
        if shown is None:
            return "not compared"
        if shown.row.verdict == "missing":
            return shown.row.why
        return "" if tap in self.partners else "no operator of the other side makes it"


def node_ids(graph: OpGraph, stage: str) -> dict[str, str]:
    """Operator -> id of its node: the first tap that it makes, or a name that only graphs of the same file have."""
    made, version = made_by(graph), "flatbuffer" if runs_file(stage) else stage
    return {op.id: made[op.id][0] if op.id in made else f"{version} {op.id}" for op in graph.ops}


def graph_file(side: Side) -> Collection:
    """A collection of one graph; its label is the graph's id."""
    made, owned = made_by(side.graph), belonging(side.graph)
    ops, doubles = drawn(side.graph)
    ids = side.ids | {double: f"{side.ids[op]}{double.removeprefix(op)}" for double, op in doubles.items()}
    nodes = []
    for op in ops:
        taps = made.get(op.id, ())
        label = f"{op.label} = {', '.join(split_tap(tap)[1] for tap in taps)}" if taps else op.label
        attributes: dict[str, str | NodeLinks] = {}
        if op.id in doubles:
            attributes["stands for"] = NodeLinks(type="node_ids", nodeIds=[ids[doubles[op.id]]])
        elif op.id in side.faults:
            label, attributes["at fault"] = f"{label} (at fault)", side.faults[op.id]
        if op.id not in doubles and side.graph.op(op.id).namespace != INPUTS:
            attributes |= _place_of(taps, owned.get(op.id, ()))
        attributes |= op.attributes
        for tap in taps:
            prefix = f"{split_tap(tap)[1]}: " if len(taps) > 1 else ""
            attributes |= {f"{prefix}{key}": value for key, value in _figures(side, tap)}
        sources = [ids[source] for source in op.sources]
        nodes.append(node(ids[op.id], label, op.namespace, attributes.items(), sources, op.shape, op.dtype))
    return Collection(label=side.graph_id, graphs=[Graph(id=side.graph_id, nodes=nodes)])


def _place_of(makes: tuple[str, ...], owned: tuple[str, ...]) -> dict[str, str]:
    if not owned:
        return {"tap": "feeds none"}
    place = {"tap": ", ".join(makes) if makes else f"feeds {owned[0]}"}
    block = split_tap(owned[0])[0]
    return place if block is None else {**place, "block": str(block)}


def _figures(side: Side, tap: str) -> Iterable[tuple[str, str]]:
    if tap in side.worst:
        yield from tap_attributes(side.record, side.stage, tap, side.worst[tap])
    why = side.alone(tap)
    yield PARTNER, f"none: {why}" if why else side.partners[tap]


def overlay_files(side: Side) -> dict[str, OverlayFile]:
    """Overlay -> content of its file: those of the taps, and `partner`, which taps have one opposite.

    An operator between two taps has the figures of the one that it feeds; one that makes several those of the worst.
    """
    owned = belonging(side.graph).items()
    shown = {side.ids[op]: max(taps, key=lambda tap: _severity(side.worst.get(tap))) for op, taps in owned}
    files = {}
    for overlay, data in side.overlays.items():
        figures, own = data["results"], data.copy()
        own["results"] = {node: figures[tap] for node, tap in shown.items() if tap in figures}
        files[overlay] = own
    partners = {side.ids[op]: _partner_of(side, taps) for op, taps in made_by(side.graph).items()}
    files[PARTNER] = Overlay(name=PARTNER, results=partners)
    return {overlay: {side.graph_id: data} for overlay, data in files.items()}


def _severity(shown: ShownTap | None) -> tuple[int, float]:
    return (-1, 0.0) if shown is None else (_SEVERITY.index(shown.row.verdict), sort_key(shown.row))


def _partner_of(side: Side, taps: tuple[str, ...]) -> Shown:
    alone = [tap for tap in taps if side.alone(tap)]
    if not alone:
        return Shown(value="compared", bgColor=_TOGETHER)
    return Shown(value="no partner" if len(alone) == len(taps) else "some have no partner", bgColor=ALONE)
