"""Edge Parity: compare a language model's three versions, layer by layer, before it ships."""

import resource
import sys
from typing import TYPE_CHECKING, Any

# Under `ulimit -f`, CPython before 3.12.8 and 3.13.1 leaves a cut .pyc behind and trusts it from then on
# (python/cpython#126606): every later command would end with "marshal data too short".
if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
    sys.dont_write_bytecode = True

from harness.spec.model import Model, WheelGGUF
from harness.stages.keras.declaration import KerasModel
from harness.stages.litert_torch.declaration import GenerativeModel
from harness.stages.litert_torch.export_hf.declaration import ExportHFModel

if TYPE_CHECKING:
    from harness.interface.runs import Run, run

__all__ = ["ExportHFModel", "GenerativeModel", "KerasModel", "Model", "Run", "WheelGGUF", "run"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`harness.run` and `harness.Run` are imported when they are first used: every declaration imports this file."""
    if name not in ("Run", "run"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from harness.interface import runs

    return getattr(runs, name)
