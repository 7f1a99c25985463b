"""Where the processes enter that make graphs of operators: one version of a model each.

In: a run's models and which version. Out: a JSON file with the `OpGraph`, written whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel

from harness.align.op_graph import OpGraph
from harness.jobs.reporter import Reporter
from harness.names.stages import HF
from harness.pipeline.run_models import RunModels
from harness.record.record import write_text
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.spec.route import route_of

FLATBUFFER = "flatbuffer"


class OpsRequest(BaseModel):
    """What the process that makes a graph of operators is told."""

    models: RunModels
    kind: str  # version of the model: FLATBUFFER, or a stage
    signature: str
    target: str  # path of the file to write
    flatbuffer: str | None = None  # path, for that kind


def make_ops(payload: object, report: Reporter) -> dict[str, object]:
    """payload: an `OpsRequest`. Writes its target."""
    request = OpsRequest.model_validate(payload)
    report.progress(0, 1, request.kind)
    graph = _graph(request.models, request.kind, request.signature, request.flatbuffer)
    write_text(Path(request.target), json.dumps(graph.as_dict(), separators=(",", ":")))
    return {"operators": len(graph.ops), "taps": len(graph.taps)}


def _graph(models: RunModels, kind: str, signature: str, flatbuffer: str | None) -> OpGraph:
    prepared = models.prepared
    if kind == FLATBUFFER:
        from harness.explore.flatbuffer_ops import flatbuffer_ops
        from harness.flatbuffer.reader import FlatbufferModel

        return flatbuffer_ops(FlatbufferModel(Path(str(flatbuffer))), signature, prepared)
    model = load_spec(SpecRef.of(models.spec_file, models.spec_variable))
    if kind == HF:
        from harness.stages.huggingface.operators import hf_ops

        return hf_ops(model, prepared, prepared.prefill[-1])
    length = 1 if not signature.startswith("prefill_") else int(signature.removeprefix("prefill_"))
    return route_of(model).operators(model, prepared, length)
