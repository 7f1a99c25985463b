"""Where the processes enter that make graphs of operators: one version of a model each.

In: a run's models and which version. Out: a JSON file with the `OpGraph`, written whole or not at all.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.align.op_graph import OpGraph
from harness.jobs.reporter import Reporter
from harness.names.stages import HF
from harness.pipeline.run_models import RunModels
from harness.record.record import write_text
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.spec.route import route_of

FLATBUFFER = "flatbuffer"


def make_ops(payload: dict[str, Any], report: Reporter) -> dict[str, Any]:
    """payload: `models`, `kind` of version, `signature`, `flatbuffer` for that kind, and the `target` file."""
    models = RunModels.model_validate(payload["models"])
    report.progress(0, 1, payload["kind"])
    graph = _graph(models, payload["kind"], payload["signature"], payload.get("flatbuffer"))
    write_text(Path(payload["target"]), json.dumps(graph.as_dict(), separators=(",", ":")))
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
