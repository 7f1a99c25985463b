"""Graphs of operators as Model Explorer reads them, with what a run says of their taps.

In: a `Side` of a hop: its `OpGraph`, that of the other side, and the worst row of each tap. Out: the content of JSON
files. Pure.

The operator that makes a tap has the tap's name as its id, on both sides: that keeps two panes together. All others
have the ids of their own framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.align.op_graph import INPUTS, Op, OpGraph, belonging, drawn, made_by
from harness.names.stages import runs_file
from harness.names.taps import split_tap
from harness.plain import clean
from harness.record.record import HopResult, Record
from harness.render.explorer import graph_id as tap_graph_id
from harness.render.explorer import tap_attributes
from harness.render.numbers import sort_key

Rows = Mapping[str, Mapping[str, Any]]

PARTNER = "partner"
ALONE = "#c9b6e4"
_TOGETHER = "#e3edf7"
PARTNER_COLOURS = {"compared": _TOGETHER, "no partner": ALONE}
_SEVERITY = ("pass", "missing", "fail")


@dataclass(frozen=True)
class Side:
    """One side of a hop. other: the graph of the other side. worst: tap -> its worst row.

    overlays: by name, what each says of the taps. faults: operator -> what is wrong with it.
    """

    record: Record
    hop: HopResult
    stage: str
    graph: OpGraph
    other: OpGraph
    worst: Rows
    overlays: Mapping[str, Mapping[str, Any]]
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
        row = self.worst.get(tap)
        if row is None:
            return "not compared"
        if row["verdict"] == "missing":
            return str(row["why"])
        return "" if tap in self.partners else "no operator of the other side makes it"


def node_ids(graph: OpGraph, stage: str) -> dict[str, str]:
    """Operator -> id of its node: the first tap that it makes, or a name that only graphs of the same file have."""
    made, version = made_by(graph), "flatbuffer" if runs_file(stage) else stage
    return {op.id: made[op.id][0] if op.id in made else f"{version} {op.id}" for op in graph.ops}


def graph_file(side: Side) -> dict[str, Any]:
    """A collection of one graph; its label is the graph's id."""
    made, owned = made_by(side.graph), belonging(side.graph)
    ops, doubles = drawn(side.graph)
    ids = side.ids | {double: f"{side.ids[op]}{double.removeprefix(op)}" for double, op in doubles.items()}
    nodes = []
    for op in ops:
        taps = made.get(op.id, ())
        label = f"{op.label} = {', '.join(split_tap(tap)[1] for tap in taps)}" if taps else op.label
        attributes: dict[str, Any] = {}
        if op.id in doubles:
            attributes["stands for"] = {"type": "node_ids", "nodeIds": [ids[doubles[op.id]]]}
        elif op.id in side.faults:
            label, attributes["at fault"] = f"{label} (at fault)", side.faults[op.id]
        if op.id not in doubles and side.graph.op(op.id).namespace != INPUTS:
            attributes |= _place_of(taps, owned.get(op.id, ()))
        attributes |= op.attributes
        for tap in taps:
            prefix = f"{split_tap(tap)[1]}: " if len(taps) > 1 else ""
            attributes |= {f"{prefix}{key}": value for key, value in _figures(side, tap)}
        nodes.append(_node(op, ids, label, attributes))
    return {"label": side.graph_id, "graphs": [{"id": side.graph_id, "nodes": nodes}]}


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


def _node(op: Op, ids: Mapping[str, str], label: str, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """attributes: texts, or what links to other nodes."""
    node: dict[str, Any] = {
        "id": ids[op.id],
        "label": clean(label),
        "namespace": clean(op.namespace),
        "attrs": [
            {"key": clean(key), "value": clean(value) if isinstance(value, str) else value}
            for key, value in attributes.items()
        ],
        "incomingEdges": [
            {"sourceNodeId": ids[source], "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, source in enumerate(op.sources)
        ],
    }
    if op.shape:
        described = [{"key": "shape", "value": op.shape}, {"key": "dtype", "value": op.dtype}]
        node["outputsMetadata"] = [{"id": "0", "attrs": described}]
    return node


def overlay_files(side: Side) -> dict[str, dict[str, Any]]:
    """Overlay -> content of its file: those of the taps, and `partner`, which taps have one opposite.

    An operator between two taps has the figures of the one that it feeds; one that makes several those of the worst.
    """
    owned = belonging(side.graph).items()
    shown = {side.ids[op]: max(taps, key=lambda tap: _severity(side.worst.get(tap))) for op, taps in owned}
    files = {}
    for overlay, data in side.overlays.items():
        figures = data["results"]
        files[overlay] = {**data, "results": {node: figures[tap] for node, tap in shown.items() if tap in figures}}
    partners = {side.ids[op]: _partner_of(side, taps) for op, taps in made_by(side.graph).items()}
    files[PARTNER] = {"name": PARTNER, "results": partners}
    return {overlay: {side.graph_id: data} for overlay, data in files.items()}


def _severity(row: Mapping[str, Any] | None) -> tuple[int, float]:
    return (-1, 0.0) if row is None else (_SEVERITY.index(row["verdict"]), sort_key(row))


def _partner_of(side: Side, taps: tuple[str, ...]) -> dict[str, Any]:
    alone = [tap for tap in taps if side.alone(tap)]
    if not alone:
        return {"value": "compared", "bgColor": _TOGETHER}
    return {"value": "no partner" if len(alone) == len(taps) else "some have no partner", "bgColor": ALONE}
