"""A folder that shows a fault without Edge Parity: the faulty piece, its inputs, and a script of twenty lines.

In: the evidence of a run. Out: `repro.py`, `values.npz`, and `module.pt` (PyTorch) or `cut.tflite`. The script needs
NumPy and torch, or NumPy and ai-edge-litert; it exits with 1 when the fault shows and with 0 when it is gone.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from harness.errors import UsageError
from harness.explain.evidence_file import SavedEvidence, load_evidence
from harness.explain.task import RUN_FILE, ReproRequest
from harness.jobs.prepared import Prepared
from harness.jobs.reporter import Reporter
from harness.jobs.results import Repro
from harness.jobs.session import AS_NAMED, Given
from harness.names.stages import runs_file
from harness.plain import brief
from harness.spec.load import load_spec
from harness.spec.model import SpecRef
from harness.spec.route import route_of
from harness.system.reading import TEXT, read_json

SCRIPT, VALUES = "repro.py", "values.npz"
_WORD = re.compile(r"[A-Za-z0-9._\[\]-]{1,100}")
LIMIT = 4.0  # of the excess: what a faithful step leaves is 1 to 3

_SCRIPT = '''"""{what}

python repro.py needs NumPy and {needs}. It exits with 1 when the fault shows and with 0 when it is gone.
"""
import sys
from pathlib import Path

import numpy as np
{imports}

here = Path(__file__).parent
values = np.load(here / "{values}")
{run}
made = np.asarray(made, np.float64).reshape(-1)[values["index"]]
gap = (made - values["expected"]).reshape(len(made), -1)
error = np.linalg.norm(gap, axis=1) / values["norms"]
excess = error.mean() / values["noise"].mean()
shows = not excess <= {limit}
said = "the fault shows" if shows else "the fault is gone"
print(f"{tap} of {candidate}: {{said}}, error {{excess:.3g}} times float32's own, limit {limit:g}")
sys.exit(int(shows))
'''
_TORCH = """module = torch.jit.load(here / "module.pt").eval()
with torch.inference_mode():
    made = module(torch.from_numpy(values["input"])).numpy()"""
_TFLITE = """kernels = OpResolverType.{resolver}
interpreter = Interpreter(str(here / "cut.tflite"), num_threads=1, experimental_op_resolver_type=kernels)
inputs = {{name.removeprefix("in/"): values[name] for name in values.files if name.startswith("in/")}}
made = interpreter.get_signature_runner("cut")(**inputs)["out"]"""


def write_repro(payload: object, report: Reporter, given: Given = AS_NAMED) -> dict[str, object]:
    """payload: a `ReproRequest`. Returns a `Repro`.

    Raises UsageError for a fault that cannot be cut out.
    """
    request = ReproRequest.model_validate(payload)
    folder, target = request.evidence, request.target
    saved = load_evidence(folder)
    run, prepared = _read_run(folder, request.replaced)
    _check_words(saved, prepared)
    report.progress(0, 1, saved.tap)
    if runs_file(saved.candidate):
        from harness.explain.repro_tflite import cut_out

        arrays = cut_out(saved, prepared, run, target)
        resolver = "AUTO" if "builtin" not in saved.candidate else "BUILTIN_WITHOUT_DEFAULT_DELEGATES"
        parts = {
            "needs": "ai-edge-litert",
            "imports": "from ai_edge_litert.interpreter import Interpreter, OpResolverType",
            "run": _TFLITE.format(resolver=resolver),
        }
    else:
        model = load_spec(SpecRef.of(run["spec_file"], run["spec_variable"]))
        arrays = route_of(model).write_piece(saved, prepared, model, target, given.load)
        parts = {"needs": "torch", "imports": "import torch", "run": _TORCH}
    np.savez_compressed(target / VALUES, allow_pickle=False, **arrays)
    what = f"{prepared.model}: {saved.tap} of {saved.candidate} is not what its inputs make of it."
    script = _SCRIPT.format(what=what, values=VALUES, tap=saved.tap, candidate=saved.candidate, limit=LIMIT, **parts)
    (target / SCRIPT).write_text(script)
    return Repro(script=str(target / SCRIPT)).model_dump()


def _read_run(folder: Path, replaced: dict[str, str]) -> tuple[dict[str, str], Prepared]:
    content = read_json(folder / RUN_FILE, "run the model again", TEXT)
    try:
        run = {name: str(value) for name, value in content.items() if name != "prepared"}
        return run | replaced, Prepared.model_validate(content["prepared"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UsageError(f"{folder / RUN_FILE} is damaged; run the model again") from None


def _check_words(saved: SavedEvidence, prepared: Prepared) -> None:
    """These become part of a script that is then run, and come out of a run folder."""
    for word in (saved.tap, saved.candidate, prepared.model):
        if not isinstance(word, str) or not _WORD.fullmatch(word):
            raise UsageError(f"the evidence of this run names {brief(word)}, which is not a name; run the model again")
