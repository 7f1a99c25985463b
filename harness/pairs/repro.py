"""The first difference of two files as a folder of its own: both pieces, their inputs, and a script that shows it.

In: a signature of both files, compared, with a fault. Out: `a.tflite`, `b.tflite`, `values.npz` and `repro.py`, which
needs NumPy and ai-edge-litert alone. The pieces are the operators between tensors on which the files agree and the
first one on which they do not, and both are given A's values.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.compare.rows import POSITION_LIMIT, rows_of
from harness.flatbuffer.cut import range_between, write_cut
from harness.pairs.compare import Compared
from harness.pairs.judging import LIMIT, Difference
from harness.pairs.running import Side
from harness.record.record import write_text
from harness.stages.litert.all_tensors import write_arrays

Array = np.ndarray[Any, Any]
SCRIPT, VALUES = "repro.py", "values.npz"
_FILES = ("a.tflite", "b.tflite")
_SECONDS = 120
_UNSAFE = re.compile(r"[^A-Za-z0-9 ._/;:,()\[\]=+-]")
_HEAD = '''"""{what}

python repro.py needs NumPy and ai-edge-litert. It exits with 1 when the difference shows and with 0 when it is gone.
"""
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

here = Path(__file__).parent
values = np.load(here / "values.npz")


def run(file):
    kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(here / file), num_threads=1, experimental_op_resolver_type=kernels)
    given = {{name.split("/")[1]: values[name] for name in values.files if name.startswith(file)}}
    return interpreter.get_signature_runner("cut")(**given)["out"].reshape(-1)[values["index"]]


a, b = run("a.tflite"), run("b.tflite")
'''
_IN_NOISE = """gap = np.linalg.norm(b.astype(np.float64) - a)
excess = gap / values["noise"]
shows = not excess <= {limit:g}
said = f"B is off from A by {{excess:.3g}} times float32's own noise, limit {limit:g}"
"""
_EXACTLY = """same = (a == b) | ((a != a) & (b != b))
shows = not same.all()
said = f"{{int((~same).sum())}} of {{same.size}} numbers differ"
"""
_TAIL = """print(f"{{'the difference shows' if shows else 'the difference is gone'}}: {{said}}")
sys.exit(int(shows))
"""


@dataclass
class Repro:
    """Writes the first fault."""

    folder: Path
    _found: str = "nothing is written: the files differ at no tensor of the builtin kernels"
    _done: bool = False

    @property
    def said(self) -> str:
        """What its script says, or why there is none."""
        return f"repro   {self.folder}: {self._found}"

    def see(self, found: Compared) -> None:
        if found.fault is not None and not self._done:
            self._done = True
            self.folder.mkdir(parents=True, exist_ok=True)
            self._found = write_repro(self.folder, found)


def write_repro(folder: Path, found: Compared) -> str:
    """Write the folder, which is there, and run its script. Returns what that says, or why nothing could be cut out."""
    there = _tensor(found)
    if there is None:
        return "nothing is written: the fault is at no operator of B"
    agreeing = {b: a for b, a in found.pairs.items() if b != there and found.differences[b].passed}
    known = (set(agreeing.values()), set(agreeing))
    arrays: dict[str, Array] = {}
    for file, side, tensor, stops in zip(_FILES, found.sides, (found.pairs[there], there), known, strict=True):
        given = found.held[0] if file == _FILES[0] else {b: found.held[0][a] for b, a in agreeing.items()}
        try:
            arrays |= _cut(folder / file, side, tensor, stops, given | _own_inputs(side, given))
        except (ValueError, KeyError) as error:
            return f"nothing is written: the piece cannot be cut out of {side.model.path} ({error})"
    difference = found.differences[there]
    index, noise, limit = _rows(found, there, difference)
    arrays |= {"index": index, "noise": np.asarray(noise)}
    write_arrays(folder / VALUES, arrays)
    test = _IN_NOISE.format(limit=limit) if noise else _EXACTLY.format()
    write_text(folder / SCRIPT, _HEAD.format(what=_what(found)) + test + _TAIL.format())
    done = subprocess.run(
        [sys.executable, str(folder / SCRIPT)], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else f"its script says nothing (exit {done.returncode})"


def _tensor(found: Compared) -> int | None:
    """The tensor of B at the fault."""
    assert found.fault is not None
    graph = found.sides[1].graph
    outputs = [index for op in graph.operators if op.index == found.fault.b.index for index in op.outputs]
    return next((at for at in outputs if at in found.differences and not found.differences[at].passed), None)


def _own_inputs(side: Side, given: Mapping[int, Array]) -> dict[int, Array]:
    return {index: values for index, values in side.inputs().items() if index not in given}


def _cut(path: Path, side: Side, tensor: int, stops: set[int], given: Mapping[int, Array]) -> dict[str, Array]:
    """Write the operators that make a tensor; returns the arrays of what they read."""
    piece = range_between(side.model, side.signature.subgraph, stops - {tensor}, [tensor])
    names = {f"in{number}": index for number, index in enumerate(piece.inputs)}
    tensors = side.graph.tensors
    arrays = {}
    for name, index in names.items():
        values, shape = given[index], tensors[index].shape
        arrays[f"{path.name}/{name}"] = values.reshape(shape) if values.size == int(np.prod(shape)) else values
    write_cut(side.model.path, path, piece, names, {"out": tensor})
    return arrays


def _rows(found: Compared, there: int, difference: Difference) -> tuple[Array, float, float]:
    """Which numbers show it, what float32 costs there in all, and the limit; no noise where numbers must be equal."""
    a, b = found.held[0][found.pairs[there]], found.held[1][there]
    if difference.problem or a.dtype.kind != "f" or not np.isfinite(difference.excess):
        return np.arange(a.size), 0.0, 0.0
    gap = b.reshape(a.shape).astype(np.float64) - a
    if difference.excess > LIMIT:
        return np.arange(a.size), float(np.linalg.norm(gap)) / difference.excess, LIMIT
    _, columns = rows_of(a.shape)
    index = difference.row * columns + np.arange(columns)
    return index, float(np.linalg.norm(gap.reshape(-1)[index])) / difference.worst, POSITION_LIMIT


def _what(found: Compared) -> str:
    """These come out of files that may be a stranger's, and become part of a script."""
    fault = found.fault
    assert fault is not None
    words = (
        f"{fault.b.kind}, operator {fault.b.index} of B, gives another {fault.b.tensor[-100:]} than {fault.a.kind}, "
        f"operator {fault.a.index} of A, of the same inputs. {fault.why}"
    )
    return _UNSAFE.sub("?", " ".join(words.split()))
