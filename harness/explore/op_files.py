"""Graphs of operators as Model Explorer reads them, with what a run says of their taps.

In: an `OpGraph` of each side of a hop, and the worst row of each tap. Out: the content of JSON files. Pure.

The operator that makes a tap has the tap's name as its id, on both sides: that keeps two panes together. All others
have the ids of their own framework.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.explore.ops import Op, OpGraph, belonging, made_by
from harness.record import Hop, Record
from harness.render import clean, sort_key
from harness.render.explorer import OVERLAYS, node_data, tap_attributes
from harness.render.explorer import graph_id as tap_graph_id
from harness.taps import split_tap
from harness.tasks import is_device

Rows = Mapping[str, Mapping[str, Any]]

PARTNER = "partner"
ALONE = "#c9b6e4"
_TOGETHER = "#e3edf7"
_SEVERITY = ("pass", "missing", "fail")


def graph_id(hop: Hop, stage: str) -> str:
    """`hf->reauthored/hf/operators`: unique over every file of a run."""
    return f"{tap_graph_id(hop, stage)}/operators"


def node_ids(graph: OpGraph, stage: str) -> dict[str, str]:
    """Operator -> id of its node: the first tap that it makes, or a name that only graphs of the same file have."""
    made, version = made_by(graph), "flatbuffer" if is_device(stage) else stage
    return {op.id: made[op.id][0] if op.id in made else f"{version} {op.id}" for op in graph.ops}


def graph_file(record: Record, hop: Hop, stage: str, graph: OpGraph, other: OpGraph, worst: Rows) -> dict[str, Any]:
    """A collection of one graph; its label is the graph's id. other: the graph of the hop's other side."""
    ids, made, owned = node_ids(graph, stage), made_by(graph), belonging(graph)
    nodes = []
    for op in graph.ops:
        taps = owned.get(op.id, ())
        attributes = {**_place_of(op, taps, op.id in made), **op.attributes}
        for tap in taps:
            row = worst.get(tap)
            if row is not None and op.id in made:
                prefix = f"{tap}: " if len(taps) > 1 else ""
                attributes |= {f"{prefix}{key}": value for key, value in tap_attributes(record, stage, tap, row)}
                attributes[f"{prefix}{PARTNER}"] = _partner(tap, other, row)[1]
        nodes.append(_node(op, ids, attributes, made.get(op.id, ())))
    identity = graph_id(hop, stage)
    return {"label": identity, "graphs": [{"id": identity, "nodes": nodes}]}


def _place_of(op: Op, taps: tuple[str, ...], makes: bool) -> dict[str, str]:
    if not taps:
        return {"tap": "feeds none"}
    block = split_tap(taps[0])[0]
    place = {"tap": ", ".join(taps) if makes else f"feeds {taps[0]}"}
    return place if block is None else {**place, "block": str(block)}


def _node(op: Op, ids: Mapping[str, str], attributes: Mapping[str, str], makes: tuple[str, ...]) -> dict[str, Any]:
    points = ", ".join(split_tap(tap)[1] for tap in makes)
    node: dict[str, Any] = {
        "id": ids[op.id],
        "label": clean(f"{op.label} = {points}" if points else op.label),
        "namespace": clean(op.namespace),
        "attrs": [{"key": clean(key), "value": clean(value)} for key, value in attributes.items()],
        "incomingEdges": [
            {"sourceNodeId": ids[source], "sourceNodeOutputId": "0", "targetNodeInputId": str(number)}
            for number, source in enumerate(op.sources)
        ],
    }
    if op.shape:
        described = [{"key": "shape", "value": op.shape}, {"key": "dtype", "value": op.dtype}]
        node["outputsMetadata"] = [{"id": "0", "attrs": described}]
    return node


def overlay_files(hop: Hop, stage: str, graph: OpGraph, other: OpGraph, worst: Rows) -> dict[str, dict[str, Any]]:
    """Overlay -> content of its file, for one side: those of the taps, and `partner`, which taps have one opposite.

    An operator between two taps has the figures of the one that it feeds; one that makes several those of the worst.
    """
    ids = node_ids(graph, stage)
    shown = {ids[op]: max(taps, key=lambda tap: _severity(worst.get(tap))) for op, taps in belonging(graph).items()}
    files = {}
    for overlay in OVERLAYS:
        data = next(iter(node_data(hop, worst, overlay).values()))
        figures = data["results"]
        files[overlay] = {**data, "results": {node: figures[tap] for node, tap in shown.items() if tap in figures}}
    partners = {ids[op]: _partner_of(taps, other, worst) for op, taps in made_by(graph).items()}
    files[PARTNER] = {"name": PARTNER, "results": partners}
    return {overlay: {graph_id(hop, stage): data} for overlay, data in files.items()}


def _severity(row: Mapping[str, Any] | None) -> tuple[int, float]:
    return (-1, 0.0) if row is None else (_SEVERITY.index(row["verdict"]), sort_key(row))


def _partner_of(taps: tuple[str, ...], other: OpGraph, worst: Rows) -> dict[str, Any]:
    lonely = [tap for tap in taps if not _partner(tap, other, worst.get(tap))[0]]
    if not lonely:
        return {"value": "compared", "bgColor": _TOGETHER}
    return {"value": "no partner" if lonely == list(taps) else "some have no partner", "bgColor": ALONE}


def _partner(tap: str, other: OpGraph, row: Mapping[str, Any] | None) -> tuple[bool, str]:
    """Whether the other side has a tap too, and its operator there or why there is none."""
    if row is None or row["verdict"] == "missing":
        return False, f"none: {row['why']}" if row is not None else "none: not compared"
    maker = other.taps.get(tap)
    if maker is None:
        return False, "none: no operator of the other side makes it"
    op = next(op for op in other.ops if op.id == maker)
    return True, f"{op.label} ({maker})"
