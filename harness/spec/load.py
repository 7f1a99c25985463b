"""Run a spec file and get its declaration, which imports what the file imports (several seconds for a framework).

In: a `SpecRef`. Out: a `Model`, with the numeric settings of the process put right.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from harness.errors import UsageError
from harness.names.coverage import check_coverage
from harness.plain import brief
from harness.spec.model import Model, SpecRef, check_name
from harness.spec.numerics import Changes, settle, threads_now
from harness.spec.route import class_words, every_route
from harness.system.reading import read_text


def module_name(file: Path) -> str:
    """What a spec file's module is called once it is loaded."""
    return f"edge_parity_spec_{file.stem}"


def run_spec(file: Path) -> ModuleType:
    """Run a spec file and return its module. Raises UsageError when the file itself fails."""
    name = module_name(file)
    module_spec = importlib.util.spec_from_file_location(name, file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    folder = str(file.resolve().parent)
    if folder not in sys.path:  # what lies beside it can be imported, as by a script; what is installed comes first
        sys.path.append(folder)
    text = read_text(file, "give a Python file")
    for route in every_route():
        if route.packages.own in text:
            route.import_layers()
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{file} cannot be run: {type(error).__name__}: {error}; fix the spec file") from error
    return module


@dataclass(frozen=True)
class Loaded:
    """A declaration that has run. by_spec: numeric settings that it changed; outside: those changed before that."""

    model: Model
    by_spec: Changes
    outside: Changes


def load_spec(ref: SpecRef) -> Model:
    """Run the spec file and return its model. Raises UsageError when the file fails or declares what cannot be run."""
    return loaded_spec(ref).model


def loaded_spec(ref: SpecRef) -> Loaded:
    """As `load_spec`, with the numeric settings that were put right: whoever loads a spec computes in float32."""
    outside, threads = settle(), threads_now()
    try:
        model = _model_of(ref)
    finally:
        by_spec = settle(threads)
    return Loaded(model, by_spec, outside)


def _model_of(ref: SpecRef) -> Model:
    model = getattr(run_spec(ref.file), ref.variable, None)
    if not isinstance(model, Model):
        raise UsageError(f"{ref.file}: {ref.variable} is a {type(model).__name__}, not a {class_words()}")
    check_coverage(model.coverage, f"{ref.file}: {ref.variable}")
    _check_values(model, f"{ref.file}: {ref.variable}")
    if model.reference is not None:
        _introduce(model)
    return model


def _check_values(model: Model, where: str) -> None:
    """What a file says once it has run; names may be computed."""
    check_name(model.name, where)
    texts = {"hf_id": model.hf_id, "prompt": model.prompt, "variant": model.variant}
    for field_name, value in texts.items():
        if not isinstance(value, str):
            raise UsageError(f"{where}: {field_name} must be text, not {brief(value)}; fix the spec file")
    lengths = model.prefill if isinstance(model.prefill, (tuple, list)) else ()
    if not lengths or not all(_is_length(length) for length in lengths):
        raise UsageError(f"{where}: prefill must be lengths from 1, e.g. (8, 32), not {brief(model.prefill)}")
    if not _is_length(model.kv_cache_len):
        raise UsageError(f"{where}: kv_cache_len must be a whole number from 1, not {brief(model.kv_cache_len)}")


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


def _introduce(model: Model) -> None:
    """Make transformers know the model's own reference: whatever loads a checkpoint then finds it like any other."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config_class = model.reference.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model.reference, exist_ok=True)
