"""The published Hugging Face config of a model, from a spec or a folder.

In: a model's declaration or a checkpoint folder. Out: config objects, fresh each time. No weight is loaded.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError
from harness.spec.model import Model
from harness.system.reading import read_json
from harness.weights.config_values import refuse_wrong_numbers

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "config.json"


def published_config(model: Model) -> Any:
    """The model's published Hugging Face config, fresh. Raises UsageError when the spec's factory gives none."""
    return made_by(model, "published", "num_hidden_layers", "a Hugging Face config")


def made_by(model: Model, field: str, attribute: str, what: str) -> Any:
    """What a factory of a declaration gives. attribute: which it must have; what: it is, for people.

    Raises UsageError where it fails, or gives something else.
    """
    made = _from_factory(model, field)
    if not hasattr(made, attribute):
        raise UsageError(f"{model.name}: '{field}' gives {type(made).__name__}, not {what}; fix the model's spec file")
    return made


def _from_factory(model: Model, field: str) -> Any:
    try:
        return getattr(model, field)()
    except UsageError:  # it names its remedy itself
        raise
    except Exception as error:
        raise UsageError(
            f"{model.name}: '{field}' fails with {type(error).__name__}: {error}; fix the model's spec file"
        ) from error


# What a saved config may ask of each forward: more than is read here, or in a form that is not.
_ASKED = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}


def hf_config(folder: Path) -> Any:
    """The folder's config as transformers reads it; code that a checkpoint brings is never run.

    Raises UsageError when config.json is absent, broken or of a kind transformers does not know.
    """
    path, content = folder / CONFIG_FILE, raw_config(folder)
    with quiet_transformers():
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True, **_ASKED)
        except Exception as error:
            kind = content["model_type"]
            raise UsageError(f"{path}: {_refused(kind, error)}") from None


def _refused(kind: str, error: Exception) -> str:
    """What is wrong with a config.json that transformers does not take, and what to do."""
    from transformers import CONFIG_MAPPING

    if kind not in CONFIG_MAPPING:
        return (
            f"transformers cannot use model type '{kind}' ({first_line(error)}); "
            "use a checkpoint of an architecture it knows, code from checkpoints is not run"
        )
    # Of a field: "Validation error for field 'x':", then the reason, then everything that it could have been.
    reason = str(error).partition(":\n")[2] or f"{type(error).__name__}: {error}"
    reason = " ".join(reason.partition(". Errors:")[0].split()).removeprefix("TypeError: ").removeprefix("ValueError: ")
    return f"transformers takes no such '{kind}' model ({reason[:200]}); correct the file, or download it again"


def raw_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands there.

    Raises UsageError when it is absent or broken, names no kind of model or holds numbers that none can have.
    """
    path = folder / CONFIG_FILE
    if not os.path.lexists(path):
        raise UsageError(
            f"{folder} has no {CONFIG_FILE}; give a folder in Hugging Face format (config.json and *.safetensors)"
        )
    content = read_json(path, "download it again")
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise UsageError(f"{path} names no 'model_type'; give the config.json of a Hugging Face model")
    refuse_wrong_numbers(path, content)
    return content


def stored_layers(folder: Path) -> int | None:
    """Layers as config.json says them; None where it does not by the usual name. Raises UsageError as `raw_config`."""
    raw = raw_config(folder)
    text = raw.get("text_config")
    layers = (text if isinstance(text, dict) else raw).get("num_hidden_layers")
    return layers if isinstance(layers, int) else None


def distinct_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state dict without the second name of a tied matrix, as a checkpoint stores it."""
    tensors: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            tensors[name] = tensor.contiguous()
    return tensors


@contextmanager
def without_initial_weights() -> Iterator[None]:
    """Linear layers and embeddings stay as they were allocated, as long as this lasts: for models whose weights are
    replaced or never looked at. Drawing random numbers is a third of the time that building one takes."""
    import torch

    kinds: list[Any] = [torch.nn.Linear, torch.nn.Embedding]
    saved = [kind.reset_parameters for kind in kinds]
    for kind in kinds:
        kind.reset_parameters = lambda module: None
    try:
        yield
    finally:
        for kind, method in zip(kinds, saved, strict=True):
            kind.reset_parameters = method


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars and no advice of transformers on the terminal, as long as this lasts."""
    # Modules as Any: these switches are not among the names the two libraries export with types.
    hub: Any = importlib.import_module("huggingface_hub.utils")
    gguf: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    logging: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bar = logging.get_verbosity(), gguf.tqdm
    hub_bars, bars = not hub.are_progress_bars_disabled(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.disable_progress_bars()
    gguf.tqdm = lambda items, **_: items  # this module takes its bar past transformers' own switch
    try:
        yield
    finally:
        gguf.tqdm = bar
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            hub.enable_progress_bars()


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
