"""Every tensor of a signature, as the builtin kernels compute it, and its outputs as XNNPACK does.

In: a file of any model, signatures and their inputs. Out: for each run of a signature an `.npz` of tensors by number,
and one of outputs by name.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from harness.jobs.reporter import Reporter
from harness.names.stages import BUILTIN, XNNPACK

Array = np.ndarray[Any, Any]
INPUTS, TENSORS = "inputs.npz", "tensors.npz"


class SignatureRun(BaseModel):
    """One run of a signature. signature: empty for a file without one. folder: has the inputs, and gets what is
    computed. tensors: the numbers of those to read. carried: inputs that are what the run before gave under the same
    names, such as a KV cache; they are added to the inputs of the folder."""

    signature: str
    folder: str
    tensors: list[int]
    carried: list[str] = []


class TensorsRequest(BaseModel):
    """file: absolute. runs: one after the other."""

    file: str
    stage: str
    runs: list[SignatureRun]


class TensorsRead(BaseModel):
    """unreadable: tensors that the runtime would not give, with what it said of the first."""

    unreadable: list[int]
    why: str = ""


def outputs_file(stage: str) -> str:
    return f"outputs-{stage}.npz"


def all_tensors(payload: dict[str, Any], reporter: Reporter) -> dict[str, Any]:
    """Run, and write what was computed."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    request = TensorsRequest.model_validate(payload)
    builtin = request.stage == BUILTIN
    resolver = {XNNPACK: OpResolverType.AUTO, BUILTIN: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES}
    interpreter = Interpreter(
        request.file,
        num_threads=1,
        experimental_op_resolver_type=resolver[request.stage],
        experimental_preserve_all_tensors=builtin,
    )
    read = TensorsRead(unreadable=[])
    outputs: dict[str, Array] = {}
    for number, run in enumerate(request.runs):
        reporter.progress(number, len(request.runs), run.signature)
        folder = Path(run.folder)
        with np.load(folder / INPUTS, allow_pickle=False) as held:
            inputs = {name: held[name] for name in held.files}
        if run.carried:
            inputs |= {name: outputs[name] for name in run.carried}
            write_arrays(folder / INPUTS, inputs)
        outputs = run_once(interpreter, run.signature, inputs)
        write_arrays(folder / outputs_file(request.stage), outputs)
        if builtin:
            write_arrays(folder / TENSORS, _tensors(interpreter, run, read))
    return read.model_dump()


def _tensors(interpreter: Any, run: SignatureRun, read: TensorsRead) -> dict[str, Array]:
    """By their numbers. What the runtime would not give is added to `read`."""
    found: dict[str, Array] = {}
    subgraph = interpreter._interpreter.GetSubgraphIndexFromSignature(run.signature) if run.signature else 0
    for index in run.tensors:
        try:
            found[str(index)] = np.array(interpreter.get_tensor(index, subgraph))
        except (ValueError, RuntimeError) as error:
            read.unreadable.append(index)
            read.why = read.why or str(error)[:200]
    return found


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """An `.npz`, not compressed. Names may be anything that a file calls its tensors, `file` too."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)


def run_once(interpreter: Any, signature: str, inputs: dict[str, Array]) -> dict[str, Array]:
    """Outputs by name. inputs: by the signature's names, or by tensor names where there is none."""
    if signature:
        return dict(interpreter.get_signature_runner(signature)(**inputs))
    for entry in interpreter.get_input_details():
        interpreter.resize_tensor_input(entry["index"], inputs[entry["name"]].shape)
    interpreter.allocate_tensors()
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], inputs[entry["name"]])
    interpreter.invoke()
    return {
        entry["name"]: np.array(interpreter.get_tensor(entry["index"])) for entry in interpreter.get_output_details()
    }
