"""What Model Explorer shows. In: two panes. Out: the documents it asks for, and the state it opens with.

A pane is a graph with its overlays, whatever its nodes are: taps or operators. Panes name their documents
`left/...` and `right/...`; these are names, not files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

_SIDES = ("left", "right")
JSON_LOADER = "builtin_json"


@dataclass(frozen=True)
class Pane:
    """One graph. Labels and graph ids are unique over both panes.

    label: of its collection, which overlays are bound to. graph: the collection, as JSON. overlays: by name, as JSON.
    shown: the overlay that colours it at first. node: the one selected and in view; empty for none.
    layers: namespaces that are opened, `block_7/attn`; those around them open with them.
    """

    label: str
    graph_id: str
    graph: bytes
    overlays: Mapping[str, bytes]
    shown: str = ""
    node: str = ""
    layers: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class View:
    """Two panes, and in words what they show."""

    left: Pane
    right: Pane
    words: str

    @property
    def documents(self) -> dict[str, bytes]:
        """Name -> content, for all that the page may ask for."""
        found = {}
        for side, pane in zip(_SIDES, (self.left, self.right), strict=True):
            found[_graph(side)] = pane.graph
            found |= {f"{side}/{name}": content for name, content in pane.overlays.items()}
        return found

    @property
    def state(self) -> str:
        """JSON for the `data` parameter of Model Explorer's address: graphs, overlays, selections, synced panes.

        Model Explorer's own calls set no panes and no sync. The keys are those that its page writes into its address.
        """
        pairs = list(zip(_SIDES, (self.left, self.right), strict=True))
        bound = [(f"{side}/{name}", pane.label) for side, pane in pairs for name in _in_order(pane)]
        content = {
            "models": [{"url": _graph(side), "adapterId": JSON_LOADER} for side, _ in pairs],
            "nodeData": [name for name, _ in bound],
            "nodeDataTargets": [label for _, label in bound],
            "uiState": {"paneStates": [_pane_state(pane, side == "left") for side, pane in pairs]},
            "sync": {"mode": "match_node_id"},
        }
        return as_json(content).decode()


def as_json(content: object) -> bytes:
    """A document of the page. Raises ValueError for NaN and Infinity, which it could not read."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


def _graph(side: str) -> str:
    return f"{side}/graph.json"


def _in_order(pane: Pane) -> list[str]:
    """The page shows the overlay that it is given last."""
    return sorted(pane.overlays, key=lambda name: name == pane.shown)


class PaneState(TypedDict):
    """How a pane opens. The keys are Model Explorer's own."""

    deepestExpandedGroupNodeIds: list[str]
    selectedNodeId: str
    selectedGraphId: str
    selectedCollectionLabel: str
    widthFraction: float  # of the window
    selected: bool  # whether it has the focus


def _pane_state(pane: Pane, selected: bool) -> PaneState:
    return PaneState(
        deepestExpandedGroupNodeIds=[f"{layer}___group___" for layer in pane.layers],
        selectedNodeId=pane.node,
        selectedGraphId=pane.graph_id,
        selectedCollectionLabel=pane.label,
        widthFraction=0.5,
        selected=selected,
    )
