"""A hop as two graphs of operators. In: a run and a hop. Out: the view of it, from the files of `operators.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.explore.operators import OpSide, write_op_level
from harness.explore.panes import Pane, View, as_json
from harness.explore.tap_level import CANDIDATE, REFERENCE, first_overlay, view_words, where_to_open
from harness.record.record import HopResult, Record
from harness.render.explorer import FOLDER
from harness.render.model_explorer import Collection, OverlayFile

if TYPE_CHECKING:
    import pandas as pd

    from harness.processes.scheduler import Watcher


def op_view(
    folder: Path, record: Record, frame: pd.DataFrame, hop: HopResult, progress: Watcher, spec: str | None = None
) -> View:
    """Reference on the left, candidate on the right, opened at the operator of the first fault, else of the worst tap.

    Writes graphs and overlays into the run folder; the graphs of operators are made once per run. Raises UsageError
    where a model or its flatbuffer is gone, or nothing can be written.
    """
    try:
        level = write_op_level(folder, record, frame, hop, folder / FOLDER, progress, spec)
    except PermissionError as error:
        raise UsageError(f"{error.filename} cannot be written; copy the run folder, or leave --level op out") from None
    left, right = level.sides["from"], level.sides["to"]
    overlays = {name: {**_overlay(left.overlays[name]), **_overlay(right.overlays[name])} for name in right.overlays}
    shown = first_overlay(
        record, hop, right.node or "", {name: each[right.graph_id] for name, each in overlays.items()}
    )
    documents = {name: as_json(content) for name, content in overlays.items()}
    said = view_words(record, hop, *where_to_open(record, hop))
    return View(
        _pane(left, REFERENCE, documents, shown),
        _pane(right, CANDIDATE, documents, shown),
        f"{said}, operators of {level.signature}",
    )


def _pane(side: OpSide, label: str, overlays: Mapping[str, bytes], shown: str) -> Pane:
    """label: in place of the long one that is unique over all files of a run."""
    return Pane(
        label=label,
        graph_id=side.graph_id,
        graph=as_json(Collection(label=label, graphs=_graph(side.graph)["graphs"])),
        overlays=overlays,
        shown=shown,
        node=side.node or "",
        layers=(side.namespace,) if side.namespace else (),
    )


def _overlay(path: Path) -> OverlayFile:
    content: OverlayFile = json.loads(path.read_bytes())
    return content


def _graph(path: Path) -> Collection:
    content: Collection = json.loads(path.read_bytes())
    return content
