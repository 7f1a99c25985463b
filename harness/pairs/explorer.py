"""Two files compared in Model Explorer: both graphs side by side, matched tensors together, coloured by their errors.

In: a signature of both files, compared. Out: a folder of JSON, and the view that is made of it. A node is an operator.
The one that makes a matched tensor has the same id on both sides, which keeps the two panes together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.align.op_graph import OpGraph
from harness.errors import UsageError
from harness.explore.flatbuffer_ops import signature_ops
from harness.explore.op_files import ALONE, PARTNER
from harness.explore.panes import Pane, View, as_json
from harness.pairs.compare import Compared
from harness.pairs.judging import LIMIT, Difference
from harness.plain import one_line
from harness.record.record import write_text
from harness.render.explorer import LIMIT_USED, REL_L2, VERDICT, VERDICT_COLOURS, thresholds
from harness.render.model_explorer import Collection, Graph, Overlay, Shown, node
from harness.render.numbers import compared
from harness.render.pair import fault_sentence
from harness.system.reading import TEXT, read_bytes, read_json

VIEW = "view.json"
FORMAT = "edge-parity-pair-view/1"
_OVERLAYS = (LIMIT_USED, REL_L2, VERDICT, PARTNER)
_SIDES = ("A", "B")
_TOGETHER = "#e3edf7"


class Explorer:
    """Writes the signature of the first fault; that which was compared first while there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._written = self._faulty = False

    @property
    def said(self) -> str:
        return f"graphs  edge-parity explore {self.folder}" if self._written else "graphs  none: nothing was compared"

    def see(self, found: Compared) -> None:
        fresh = not self._written or (found.fault is not None and not self._faulty)
        if fresh:
            self._written, self._faulty = True, found.fault is not None
            self.folder.mkdir(parents=True, exist_ok=True)
            write_view(self.folder, found)


def write_view(folder: Path, found: Compared) -> None:
    """Two graphs, their overlays, and what the view opens with."""
    graphs = [signature_ops(side.model, side.signature) for side in found.sides]
    (graph_a, makers_a), (graph_b, makers_b) = graphs
    shared: tuple[dict[str, str], dict[str, str]] = ({}, {})  # operator -> id of its node
    figures: dict[str, tuple[Difference, str]] = {}
    for number, (there, here) in enumerate(found.pairs.items()):
        makers = makers_a.get(here), makers_b.get(there)
        if makers[0] is None or makers[1] is None or makers[0] in shared[0] or makers[1] in shared[1]:
            continue
        identity = f"{number} {one_line(found.sides[1].graph.tensors[there].name, 60)}"
        shared[0][makers[0]] = shared[1][makers[1]] = identity
        if there in found.differences:
            figures[identity] = found.differences[there], found.how.get(there, "")
    overlays = _overlays(figures)
    start = ""
    if found.fault is not None:
        start = shared[1].get(graph_b.places.get(f"{found.sides[1].graph.index}/{found.fault.b.index}", ""), "")
    layers = next((op.namespace for op in graph_b.ops if shared[1].get(op.id) == start and start), "")
    for label, graph, ids in zip(_SIDES, (graph_a, graph_b), shared, strict=True):
        _write(folder / f"{label}.graph.json", _collection(label, graph, ids, figures))
    alone = [_alone(label, graph, ids) for label, graph, ids in zip(_SIDES, (graph_a, graph_b), shared, strict=True)]
    overlays[PARTNER]["results"] |= alone[0] | alone[1]
    for name, content in overlays.items():
        _write(folder / f"{name}.json", dict.fromkeys(_SIDES, content))
    words = f"{found.sides[0].model.path} and {found.sides[1].model.path}, {found.entry.name or 'the file'}"
    said = f": {fault_sentence(found.fault)}" if found.fault is not None else ""
    shown = LIMIT_USED if not start or start in overlays[LIMIT_USED]["results"] else VERDICT
    view = {"format": FORMAT, "words": one_line(words + said, 400), "node": start, "layers": layers, "shown": shown}
    _write(folder / VIEW, view)


def _write(path: Path, content: object) -> None:
    write_text(path, as_json(content).decode())


def _id(label: str, op: str, shared: Mapping[str, str]) -> str:
    return shared.get(op, f"{label} {op}")


def _collection(
    label: str, graph: OpGraph, shared: Mapping[str, str], figures: Mapping[str, tuple[Difference, str]]
) -> Collection:
    nodes = []
    for op in graph.ops:
        identity = _id(label, op.id, shared)
        attributes: dict[str, Any] = {**_said(figures.get(identity)), **op.attributes}
        sources = [_id(label, source, shared) for source in op.sources]
        nodes.append(node(identity, op.label, op.namespace, attributes.items(), sources, op.shape, op.dtype))
    return Collection(label=label, graphs=[Graph(id=label, nodes=nodes)])


def _said(figure: tuple[Difference, str] | None) -> dict[str, str]:
    if figure is None:
        return {}
    found, how = figure
    return {
        "verdict": "pass" if found.passed else "fail",
        "excess": f"{compared(found.excess)} of {LIMIT:g}",
        "relative error": compared(found.relative),
        "matched by": how,
        **({"why": found.problem} if found.problem else {}),
    }


def _overlays(figures: Mapping[str, tuple[Difference, str]]) -> dict[str, Overlay]:
    made = {name: Overlay(name=name, results={}) for name in _OVERLAYS}
    for name in (LIMIT_USED, REL_L2):
        made[name]["thresholds"] = thresholds(name)
    for identity, (found, how) in figures.items():
        verdict = "pass" if found.passed else "fail"
        made[VERDICT]["results"][identity] = Shown(value=verdict, bgColor=VERDICT_COLOURS[verdict])
        made[PARTNER]["results"][identity] = Shown(value=f"by {how}", bgColor=_TOGETHER)
        for name, value in ((LIMIT_USED, found.excess / LIMIT), (REL_L2, found.relative)):
            if math.isfinite(value):  # a file with anything else does not open
                made[name]["results"][identity] = Shown(value=float(f"{value:.4g}"))
    return made


def _alone(label: str, graph: OpGraph, shared: Mapping[str, str]) -> dict[str, Shown]:
    lone = [_id(label, op.id, shared) for op in graph.ops if op.id not in shared]
    return {identity: Shown(value="no partner", bgColor=ALONE) for identity in lone}


def is_view(folder: Path) -> bool:
    return (folder / VIEW).is_file()


def read_view(folder: Path) -> View:
    """What `write_view` wrote. Raises UsageError for what is damaged."""
    remedy = "compare the files again, with --explorer"
    said = read_json(folder / VIEW, remedy)
    texts = [said.get(key) for key in ("words", "node", "layers", "shown")] if isinstance(said, dict) else []
    if (
        not texts
        or said.get("format") != FORMAT
        or not all(isinstance(text, str) for text in texts)
        or texts[3] not in _OVERLAYS
    ):
        raise UsageError(f"{folder / VIEW} is not a view of two files; {remedy}")
    words, start, layers, shown = map(str, texts)
    documents = {name: read_bytes(folder / f"{name}.json", remedy, TEXT) for name in _OVERLAYS}
    panes = [
        Pane(
            label=label,
            graph_id=label,
            graph=read_bytes(folder / f"{label}.graph.json", remedy, TEXT),
            overlays=documents,
            shown=shown,
            node=start,
            layers=(layers,) if layers else (),
        )
        for label in _SIDES
    ]
    return View(panes[0], panes[1], one_line(words, 400))
