"""Numeric settings of a process, which a spec, a package that it imports or a variable may change for all code in it.

In: nothing. Out: every setting as the comparison needs it (float32 means float32), and which were otherwise.

A spec is loaded in the processes of oracle and hf too. With a setting of its own they would be another reference than
the published model, and the checkpoint or the re-authoring would be blamed for it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.names.codes import FindingCode
from harness.record.record import Finding
from harness.system.started import STARTED_WITH

# Libraries under torch read these when they compute for the first time, or when they are loaded.
VARIABLES = (
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "DNNL_DEFAULT_FPMATH_MODE",
    "MKL_BLAS_COMPUTE_MODE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)
_UNSET = "nothing"
_TRUE_FLOAT32 = ("none", "ieee")  # as torch calls it: "none" is what the setting above it says
_PRECISIONS = (("generic", "all"), ("mkldnn", "all"), ("mkldnn", "matmul"), ("mkldnn", "conv"), ("mkldnn", "rnn"))
_TINY = 1e-40  # subnormal in float32

Changes = Mapping[str, str]  # name of a setting -> the value that it had


@dataclass(frozen=True)
class _Setting:
    """read: its value in words. needed: the value that the stages run with. put: sets that."""

    name: str
    read: Callable[[Any], str]
    needed: str
    put: Callable[[Any], object]


def settle(threads: int | None = None) -> Changes:
    """Put every numeric setting of this process to what the comparison needs.

    threads: how many torch is to use; None leaves their number as it is. Returns the settings that were otherwise.
    Without torch in the process there are variables alone.
    """
    found = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return found
    for setting in _SETTINGS:
        value = setting.read(torch)
        if value != setting.needed:
            found[setting.name] = value
            setting.put(torch)
    if threads is not None and torch.get_num_threads() != threads:
        found["number of threads"] = str(torch.get_num_threads())
        torch.set_num_threads(threads)
    return found


def threads_now() -> int | None:
    """How many threads torch uses; None before it is imported."""
    torch: Any = sys.modules.get("torch")
    return torch.get_num_threads() if torch is not None else None


def findings_of(spec: Path, by_spec: Changes, outside: Changes) -> list[Finding]:
    """What was set, a warning each.

    by_spec: what the spec changed, or what it imports. outside: what was otherwise before it was loaded.
    """
    return [
        *(_finding(f"{spec} sets", name, value, "take that out of the spec file") for name, value in by_spec.items()),
        *(_finding("the environment sets", name, value, "unset it") for name, value in outside.items()),
    ]


def set_from_outside() -> Changes:
    """Variables that this process was started with; they are taken out of it when it begins."""
    return {name: STARTED_WITH[name] for name in VARIABLES if name in STARTED_WITH}


def _finding(whose: str, name: str, value: str, remedy: str) -> Finding:
    needed = {setting.name: setting.needed for setting in _SETTINGS} | {"number of threads": "their own"}
    runs = f"with {needed[name]}" if name in needed else "without it"
    what = f"{whose} {name} to {value}; the stages run {runs} all the same: {remedy}"
    return Finding(kind="numeric", code=FindingCode.SETTING_CHANGED, severity="warning", what=what)


def _matmul_precision(torch: Any) -> str:
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # set in torch's newer way, which is read below
        return "highest"


def _precision(backend: str, operation: str) -> _Setting:
    """How torch may round float32 on the way into one kind of operator of the processor's library."""
    path = ".".join(part for part in ("torch.backends", backend, operation) if part not in ("generic", "all"))

    def read(torch: Any) -> str:
        value = str(torch._C._get_fp32_precision_getter(backend, operation))
        return "none" if value in _TRUE_FLOAT32 else value

    def put(torch: Any) -> None:
        torch._C._set_fp32_precision_setter(backend, operation, "none")

    return _Setting(f"{path}.fp32_precision", read, "none", put)


def _device(torch: Any) -> str:
    return str(torch.get_default_device())


def _flushes(torch: Any) -> str:
    with torch.inference_mode():
        kept = torch.tensor([_TINY], dtype=torch.float32, device="cpu") * 1.0
        return "off" if kept.item() != 0.0 else "on"


def _autocast_off(torch: Any) -> None:
    torch.set_autocast_enabled("cpu", False)


def _leave_inference(torch: Any) -> None:
    _kept.append(torch.inference_mode(False))  # left again where nobody holds it any more
    _kept[-1].__enter__()


_kept: list[Any] = []


def _on(value: bool) -> str:
    return "on" if value else "off"


_SETTINGS = (
    _Setting("default device", _device, "cpu", lambda torch: torch.set_default_device(None)),
    _Setting("inference mode", lambda torch: _on(torch.is_inference_mode_enabled()), "off", _leave_inference),
    _Setting("grad mode", lambda torch: _on(torch.is_grad_enabled()), "on", lambda torch: torch.set_grad_enabled(True)),
    _Setting("autocast", lambda torch: _on(torch.is_autocast_enabled("cpu")), "off", _autocast_off),
    _Setting(
        "float32 matmul precision",
        _matmul_precision,
        "highest",
        lambda torch: torch.set_float32_matmul_precision("highest"),
    ),
    *(_precision(*where) for where in _PRECISIONS),
    _Setting(
        "default dtype",
        lambda torch: str(torch.get_default_dtype()).removeprefix("torch."),
        "float32",
        lambda torch: torch.set_default_dtype(torch.float32),
    ),
    _Setting("flush to zero", _flushes, "off", lambda torch: torch.set_flush_denormal(False)),
    _Setting(
        "deterministic algorithms",
        lambda torch: _on(torch.are_deterministic_algorithms_enabled()),
        "off",
        lambda torch: torch.use_deterministic_algorithms(False),
    ),
)
