"""What XNNPACK takes of a file's first subgraph, asked of the runtime itself.

In: a file whose weights may be holes, and the number of its operators. Out: which of them a delegate runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from harness.errors import told
from harness.jobs.reporter import Reporter
from harness.names.stages import BUILTIN, XNNPACK


class DelegationRequest(BaseModel):
    """file: absolute. stage: on which kernels. reads, writes: tensors of each operator of the subgraph, in order."""

    file: str
    stage: str
    reads: list[list[int]]
    writes: list[list[int]]


class Delegation(BaseModel):
    """operators: those that a delegate runs, by their place. error: why the runtime does not load the file."""

    operators: list[int] = []
    partitions: int = 0
    error: str = ""


def delegation(payload: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Load the file and say what became of its operators."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    request = DelegationRequest.model_validate(payload)
    resolver = {XNNPACK: OpResolverType.AUTO, BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    try:
        interpreter = Interpreter(request.file, experimental_op_resolver_type=resolver[request.stage])
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        return Delegation(error=told(error).replace(str(Path(request.file)), "the file")).model_dump()
    # The list holds the operators of the file, as they stand there, and after them a node for each delegated piece.
    nodes = interpreter._get_ops_details()[len(request.writes) :]
    pieces = [node for node in nodes if node["op_name"] == "DELEGATE"]
    taken: set[int] = set()
    for node in pieces:
        taken |= between(request, set(map(int, node["inputs"])), [int(index) for index in node["outputs"]])
    return Delegation(operators=sorted(taken), partitions=len(pieces)).model_dump()


def between(request: DelegationRequest, inputs: set[int], outputs: Sequence[int]) -> set[int]:
    """The operators that make `outputs` of `inputs`: what a delegate's node stands for."""
    writer = {tensor: place for place, made in enumerate(request.writes) for tensor in made}
    found: set[int] = set()
    waiting = [index for index in outputs if index not in inputs]
    while waiting:
        place = writer.get(waiting.pop())
        if place is not None and place not in found:
            found.add(place)
            waiting += [index for index in request.reads[place] if index >= 0 and index not in inputs]
    return found
