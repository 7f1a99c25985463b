"""The documents that Model Explorer reads: graphs, and node data that colours them.

In: a node's texts and what it is computed from. Out: the node. Formats:
https://github.com/google-ai-edge/model-explorer/wiki (JSON graph; custom node data). Keys are Model Explorer's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NotRequired, TypedDict

from harness.plain import clean


class NodeLinks(TypedDict):
    """The value of an attribute that leads to other nodes."""

    type: str  # "node_ids"
    nodeIds: list[str]


class Attribute(TypedDict):
    key: str
    value: str | NodeLinks


class Edge(TypedDict):
    """An edge that comes into a node. Outputs and inputs are numbered from "0"."""

    sourceNodeId: str
    sourceNodeOutputId: str
    targetNodeInputId: str


class Output(TypedDict):
    """What is said of one output of a node: its shape and dtype."""

    id: str
    attrs: list[Attribute]


class Node(TypedDict):
    id: str  # unique in its graph
    label: str
    namespace: str  # the layers around it, outermost first: "block_7/attn"
    attrs: list[Attribute]
    incomingEdges: list[Edge]
    outputsMetadata: NotRequired[list[Output]]


class Graph(TypedDict):
    id: str
    nodes: list[Node]


class Collection(TypedDict):
    """What a graph file holds. Overlays are bound to its label."""

    label: str
    graphs: list[Graph]


class Shown(TypedDict):
    """What an overlay says of a node. A colour of its own goes before the thresholds'."""

    value: float | str
    bgColor: NotRequired[str]


class Threshold(TypedDict):
    value: float  # upper bound
    bgColor: str


class Overlay(TypedDict):
    """Node data of one graph."""

    name: str
    results: dict[str, Shown]  # by id of the node
    thresholds: NotRequired[list[Threshold]]


OverlayFile = Mapping[str, Overlay]  # by id of the graph


def node(
    identity: str,
    label: str,
    namespace: str,
    attributes: Iterable[tuple[str, str | NodeLinks]],
    sources: Sequence[str],
    shape: str,
    dtype: str,
) -> Node:
    """A node. sources: ids of the nodes that it reads. shape, dtype: of its first output; no shape for none known."""
    made = Node(
        id=identity,
        label=clean(label),
        namespace=clean(namespace),
        attrs=[_attribute(key, value) for key, value in attributes],
        incomingEdges=[
            Edge(sourceNodeId=source, sourceNodeOutputId="0", targetNodeInputId=str(number))
            for number, source in enumerate(sources)
        ],
    )
    if shape:
        made["outputsMetadata"] = [Output(id="0", attrs=[_attribute("shape", shape), _attribute("dtype", dtype)])]
    return made


def _attribute(key: str, value: str | NodeLinks) -> Attribute:
    return Attribute(key=clean(key), value=clean(value) if isinstance(value, str) else value)
