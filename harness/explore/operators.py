"""`explore --level op`: both sides of a hop as graphs of operators, coloured by the taps that the operators belong to.

In: a run folder and one of its hops. Out: the files of an `OpLevel`. The graphs are made in processes of their own,
when somebody asks for them and once per run; what a run says of its taps is put on them here.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.align.op_graph import OpGraph
from harness.errors import UsageError
from harness.explore.op_files import Side, graph_file, overlay_files
from harness.explore.ops_job import FLATBUFFER, OpsRequest
from harness.explore.tap_level import where_to_open
from harness.inputs.tokens import schedule_of, step_at
from harness.names.stages import FLOAT, HF, runs_file, split
from harness.pipeline.run_models import RunModels, load_models
from harness.processes.scheduler import Task, Watcher, run_tasks
from harness.record.record import Fault, HopResult, Record, write_text
from harness.render.explorer import file_stem, graph_id, overlays
from harness.render.words import fault_of
from harness.render.worst import worst_rows
from harness.system.reading import TEXT, read_json

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = "operators"
_FORMAT = 1  # of the files in it; another number has them made again
_SECONDS = 600.0
_FLATBUFFER_MB, _TORCH_MB = 300, 950  # beside the weights; measured on SmolLM2


@dataclass(frozen=True)
class OpSide:
    """One pane. label: of the graph's collection, which overlays are bound to. overlays: name -> file.

    node: to open at, the first fault's operator or else the hop's worst; none in a graph without that tap.
    namespace: the groups that hold it, outermost first, joined by slashes.
    """

    stage: str
    graph: Path
    label: str
    graph_id: str
    overlays: dict[str, Path]
    node: str | None
    namespace: str


@dataclass(frozen=True)
class OpLevel:
    """signature: of the flatbuffer, whose part is shown. sides: "from" and "to"."""

    hop: str
    signature: str
    sides: dict[str, OpSide]


def write_op_level(
    run_folder: Path,
    record: Record,
    frame: pd.DataFrame,
    hop: HopResult,
    target: Path,
    progress: Watcher,
    spec: str | None = None,
) -> OpLevel:
    """Write the graphs and overlays of a hop into `target`, `explorer/` of the run.

    frame: rows of `taps.parquet`. spec: the declaration as the user names it; else the run's, if it was run here.
    Raises UsageError when a model or its flatbuffer is no longer there, or cannot be
    exported.
    """
    models = load_models(run_folder).with_spec(spec)
    signature = _signature(models, fault_of(record, hop), frame)
    graphs = _graphs(models, hop, signature, target, progress)
    worst = worst_rows(frame, hop.name)
    figures = {name: data[graph_id(hop, hop.to)] for name, data in overlays(hop, worst).items()}
    start = where_to_open(record, hop)[1]
    sides = {}
    for side, stage, other in (("from", hop.from_, "to"), ("to", hop.to, "from")):
        graph = graphs[side]
        wrong = faults_in(graph, record, hop) if side == "to" else {}
        shown = Side(record, hop, stage, graph, graphs[other], worst, figures, wrong)
        node = next(iter(wrong), graph.taps.get(start))
        paths = _written(shown, target, f"{file_stem(hop)}.{side}.{_FOLDER}")
        sides[side] = OpSide(
            stage=stage,
            label=shown.graph_id,
            graph_id=shown.graph_id,
            node=shown.ids[node] if node else None,
            namespace=next((op.namespace for op in graph.ops if op.id == node), ""),
            graph=paths.pop("graph"),
            overlays=paths,
        )
    return OpLevel(hop.name, signature, sides)


def _written(side: Side, target: Path, stem: str) -> dict[str, Path]:
    """Writes the files of a side. Returns their paths: `graph`, and the overlays by name."""
    paths = {}
    for name, content in {"graph": graph_file(side), **overlay_files(side)}.items():
        paths[name] = target / f"{stem}.{name}.json"
        write_text(paths[name], json.dumps(content, separators=(",", ":"), allow_nan=False))
    return paths


def _signature(models: RunModels, fault: Fault | None, frame: pd.DataFrame) -> str:
    """The signature in which the fault shows; without one, the longest prefill."""
    prepared = models.prepared
    usual = f"prefill_{max(prepared.prefill)}"
    if fault is None:
        return usual
    if fault.operator is not None and fault.operator.signature:
        return fault.operator.signature
    if fault.signature:
        return fault.signature
    item = next((item for item in prepared.inputs if item.id == fault.input), None)
    rows = frame[(frame["hop"] == fault.hop) & (frame["tap"] == fault.tap) & (frame["input"] == fault.input)]
    if item is None or rows.empty or rows["worst_position"].isna().all():
        return usual
    worst = int(rows["worst_position"].iloc[0])
    step = step_at(schedule_of(item, prepared), worst)
    return usual if step is None else step.signature


def _graphs(models: RunModels, hop: HopResult, signature: str, target: Path, progress: Watcher) -> dict[str, OpGraph]:
    """The graph of each side, made now where there is none yet."""
    folder = target / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    requests = {stage: _request(models, stage, signature, folder) for stage in (hop.from_, hop.to)}
    files = {stage: Path(request.target) for stage, request in requests.items()}
    # Both stages of a hop may run the same file.
    making = {files[stage]: (stage, request) for stage, request in requests.items() if not files[stage].is_file()}
    if making:
        tasks = [_task(models, stage, request) for stage, request in making.values()]
        with tempfile.TemporaryDirectory() as logs:
            results = run_tasks(tasks, Path(logs) / "operators.log", progress)
        for name, result in results.items():
            if result.status != "ok":
                raise UsageError(f"{name} cannot be listed: {result.detail.split(';')[0]}; leave --level op out")
    found = {stage: _read_graph(path) for stage, path in files.items()}
    return {"from": found[hop.from_], "to": found[hop.to]}


def _read_graph(path: Path) -> OpGraph:
    content = read_json(path, f"delete {path.parent}", TEXT)
    try:
        return OpGraph.from_dict(content)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UsageError(f"{path} is not a graph of operators; delete {path.parent}") from None


def _request(models: RunModels, stage: str, signature: str, folder: Path) -> OpsRequest:
    """What the process of a stage's graph is told."""
    recipe = split(stage)[1]
    kind = FLATBUFFER if runs_file(stage) else stage
    parts = [kind, *([recipe] if recipe != FLOAT else []), *([signature] if kind != HF else [])]
    target = folder / f"{_FORMAT}.{'.'.join(parts)}.json"
    request = OpsRequest(models=models, kind=kind, signature=signature, target=str(target))
    if target.is_file():
        return request
    if kind == FLATBUFFER:
        return request.model_copy(update={"flatbuffer": str(models.flatbuffer_of(stage))})
    models.check_sources()
    return request


def _task(models: RunModels, stage: str, request: OpsRequest) -> Task:
    weights = models.prepared.weights_mb
    # The frameworks are imported again: the server that forks stages would stay for as long as somebody looks.
    memory = _FLATBUFFER_MB if runs_file(stage) else weights + _TORCH_MB
    told = request.model_dump(mode="json")
    return Task(f"operators of {stage}", "harness.explore.ops_job:make_ops", told, memory_mb=memory, timeout=_SECONDS)


def faults_in(graph: OpGraph, record: Record, hop: HopResult) -> dict[str, str]:
    """Operator -> what is wrong there: for each fault of a hop its own operator where it is known, else the tap's."""
    found: dict[str, str] = {}
    for fault in (fault for fault in record.faults if fault.hop == hop.name):
        known = fault.operator
        place = graph.places.get(f"{known.subgraph}/{known.index}") if known is not None else None
        op = place or graph.taps.get(fault.tap)
        if op is not None:
            found.setdefault(op, known.why if known is not None and place else fault.reason)
    return found
