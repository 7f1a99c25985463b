"""Opens a run in the stock Model Explorer: the taps of every hop as graphs, and their figures as node data.

In: the path of a `parity.json`, which Model Explorer hands over. Out: its graphs, and the overlays of one of them.
Model Explorer imports `<extension>.main`; see docs/explore-operators.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from model_explorer import (
    Adapter,
    AdapterMetadata,
    GetConfigEditorsResult,
    ModelExplorerGraphs,
    NodeDataProvider,
    NodeDataProviderFilter,
    NodeDataProviderMetadata,
    NodeDataProviderResult,
)
from model_explorer.graph_builder import GraphCollection
from model_explorer.node_data_builder import GraphNodeData, NodeDataResult, ThresholdItem

from harness.errors import UsageError
from harness.record.record import RECORD_FILE, HopResult, Record, read_run
from harness.render.explorer import graph_collection, graph_id, overlays
from harness.render.model_explorer import Collection, Overlay
from harness.render.worst import worst_rows

ADAPTER = "edge_parity"
PROVIDER = "edge_parity_overlays"


class RunAdapter(Adapter):  # type: ignore[misc]  # Model Explorer has no types
    """`parity.json` of a run, with `taps.parquet` beside it. Other JSON graphs, those in `explorer/` too, open as they
    are: Model Explorer gives every JSON file to an extension that takes any."""

    metadata = AdapterMetadata(
        id=ADAPTER,
        name="Edge Parity run",
        description="The taps of every hop of a run, both sides.",
        source_repo="",
        fileExts=["json"],
    )

    def convert(self, model_path: str, settings: Mapping[str, object]) -> ModelExplorerGraphs:
        """Collections of one graph each, the first fault's hop first. Raises UsageError for any other JSON file."""
        return {
            "graphCollections": [GraphCollection(item["label"], item["graphs"]) for item in _opened(Path(model_path))]
        }


class RunOverlays(NodeDataProvider):  # type: ignore[misc]
    """Excess, verdict and the other overlays of the graph that is shown, without a file to choose."""

    metadata = NodeDataProviderMetadata(
        id=PROVIDER,
        name="Edge Parity overlays",
        description="What the run found at each tap.",
        icon="difference",
        filter=NodeDataProviderFilter(adapterIds=[ADAPTER]),
    )

    def get_config_editors(self, provider_id: str) -> GetConfigEditorsResult:
        return GetConfigEditorsResult(configEditors=[])

    def run(
        self, provider_id: str, model_path: str, graph_id: str, config_values: Mapping[str, object], graph: object
    ) -> NodeDataProviderResult:
        try:
            return NodeDataProviderResult(result=_overlays(Path(model_path), graph_id))
        except UsageError as error:
            return NodeDataProviderResult(error=str(error))


def _opened(path: Path) -> list[Collection]:
    """What a JSON file shows. Raises UsageError for one that is neither a run's record nor a graph."""
    if path.name == RECORD_FILE:
        return _collections(path.parent)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give the {RECORD_FILE} of a run") from None
    found = content if isinstance(content, list) else [content]
    if not all(isinstance(item, dict) and "graphs" in item for item in found):
        raise UsageError(f"{path} holds no graphs; give the {RECORD_FILE} of a run, or choose another adapter")
    return [Collection(label=item.get("label", path.name), graphs=item["graphs"]) for item in found]


def _collections(run: Path) -> list[Collection]:
    record, frame = read_run(run)
    found = []
    for hop in _faulty_first(record):
        worst = worst_rows(frame, hop.name)
        if worst:
            found += [graph_collection(record, hop, stage, worst) for stage in (hop.to, hop.from_)]
    if not found:
        raise UsageError(f"{run}: no hop of this run compared anything; its {RECORD_FILE} says why")
    return found


def _faulty_first(record: Record) -> list[HopResult]:
    fault = record.first_fault
    return sorted(record.hops, key=lambda hop: fault is None or hop.name != fault.hop)


def _overlays(path: Path, shown: str) -> list[GraphNodeData]:
    """The overlays of one graph. shown: its id. Raises UsageError for a graph that is not of this run."""
    record, frame = read_run(path.parent)
    hop = next((hop for hop in record.hops if shown in (graph_id(hop, hop.from_), graph_id(hop, hop.to))), None)
    if hop is None:
        raise UsageError(f"{shown} is not a graph of {path.parent}; open its {RECORD_FILE}")
    return [_typed(content[shown]) for content in overlays(hop, worst_rows(frame, hop.name)).values()]


def _typed(data: Overlay) -> GraphNodeData:
    return GraphNodeData(
        results={node: NodeDataResult(**result) for node, result in data["results"].items()},
        name=data["name"],
        thresholds=[ThresholdItem(**item) for item in data.get("thresholds", [])],
    )
