"""The config of a Keras model as the audit reads it: what KerasHub makes of the published one, by a small model.

In: a declaration. Out: an `AuditedConfig`. KerasHub's loader takes sizes from a `config.json` and nothing else: what
its layers do is read off a loaded miniature, by calling them.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.audit.behaviour import describe_activation, describe_norm
from harness.audit.structure import Layer, Norm, Structure
from harness.errors import UsageError
from harness.names.codes import FindingCode
from harness.names.stages import KERAS
from harness.record.record import Finding
from harness.stages.keras.capture import layers_of
from harness.stages.keras.declaration import TASK, KerasModel
from harness.stages.keras.imports import import_keras_hub
from harness.stages.keras.model import own_sizes
from harness.stages.keras.network import load_keras
from harness.stages.keras.points import ATTENTION, BLOCK, EMBEDDING, FINAL
from harness.weights.configs import published_config
from harness.weights.families import Sizes
from harness.weights.miniature import shrunk_hf_config, write_miniature

# Fields of a published config that change what a model computes, and what each is where it changes nothing.
_ACTING: Mapping[str, Any] = {
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "tie_word_embeddings": True,
}
_CONVERTER = "keras_hub.src.utils.transformers.convert_gpt2"


class KerasConfig:
    """An `AuditedConfig`."""

    def __init__(self, model: KerasModel) -> None:
        self._model, self._published = model, published_config(model)
        self._small = shrunk_hf_config(model)
        self._hub = import_keras_hub()

    def structure(self) -> Structure:
        layers, full = layers_of(self._network()), own_sizes(self._published)
        count = sum(1 for block in range(full.layers) if BLOCK.format(block) in layers)
        kept = own_sizes(self._small).layers
        blocks = [_layer(layers, min(block, count - 1), full) for block in range(full.layers + count - kept)]
        return Structure(
            vocabulary=full.vocab,
            hidden_size=full.hidden,
            max_length=int(self._published.max_position_embeddings),
            embedding_scale=1.0,
            tied_embeddings=bool(getattr(layers[EMBEDDING], "tie_weights", True)),
            lm_head_bias=False,
            final_softcap=None,
            final_norm=_norm(layers[FINAL]),
            rope_until=None,
            layers=tuple(blocks),
            modules=_names(),
        )

    def ignored(self) -> Iterator[Finding]:
        """Fields that act, and that KerasHub's loader never reads. A loader of the user's own may read any."""
        if self._model.task != TASK or self._model.load is not None:
            return
        held = _Heard(self._published.to_dict())
        importlib.import_module(_CONVERTER).convert_backbone_config(held)
        for name, usual in _ACTING.items():
            value = held.get(name, usual)
            same = value == usual or (name == "n_inner" and value == 4 * self._published.hidden_size)
            if name not in held.asked and not same:
                yield _ignored(name, value)

    def _network(self) -> Any:
        """The miniature, loaded as the model is; without its weights where KerasHub cannot take them."""
        with tempfile.TemporaryDirectory(prefix="edge-parity-audit-") as folder:
            write_miniature(self._model, 0, Path(folder))
            try:
                return load_keras(self._model, Path(folder))
            except UsageError:
                if self._model.task != TASK or self._model.load is not None:
                    raise
        made = importlib.import_module(_CONVERTER).convert_backbone_config(self._small.to_dict())
        return self._hub.models.GPT2CausalLM(self._hub.models.GPT2Backbone(**made), preprocessor=None)


class _Heard(dict[str, Any]):
    """Knows which of its keys were asked for."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def _ignored(name: str, value: object) -> Finding:
    what = f"{name} is {value} in the published config, and KerasHub's loader never reads it"
    return Finding(
        kind="config",
        code=FindingCode.FIELD_IGNORED,
        severity="error",
        what=what,
        field=name,
        published=str(value),
        modules={KERAS: _CONVERTER},
    )


def _layer(layers: Mapping[str, Any], block: int, full: Sizes) -> Layer:
    attention = layers[ATTENTION.format(block)]
    inner, output = (layers[f"{BLOCK.format(block)}/feedforward_{name}_dense"] for name in ("intermediate", "output"))
    projections = [layers[f"{ATTENTION.format(block)}/{name}"] for name in ("query", "key", "value")]
    head_dim = int(attention._key_dim)
    scale = float(np.asarray(attention._inverse_sqrt_key_dim))
    width = int(inner.kernel.shape[-1]) / int(inner.kernel.shape[0])
    return Layer(
        heads=full.heads,
        kv_heads=full.kv_heads,
        head_dim=full.head_dim,
        # The small model's heads may be narrower, and its factor follows from the width.
        query_scale=full.head_dim**-0.5 if abs(scale * head_dim**0.5 - 1) < 1e-6 else scale,
        softcap=None,
        window=None,
        rope=None,
        alibi=None,
        qkv_bias=any(getattr(layer, "bias", None) is not None for layer in projections),
        output_bias=getattr(layers[f"{ATTENTION.format(block)}/attention_output"], "bias", None) is not None,
        activation=describe_activation(_on_torch(inner.activation)),
        gated=False,
        intermediate_size=round(width * full.hidden),
        mlp_bias=any(getattr(layer, "bias", None) is not None for layer in (inner, output)),
        parallel_residual=False,
        pre_attention=_norm(layers[f"{BLOCK.format(block)}/self_attention_layer_norm"]),
        post_attention=None,
        pre_mlp=_norm(layers[f"{BLOCK.format(block)}/feedforward_layer_norm"]),
        post_mlp=None,
        query_norm=None,
        key_norm=None,
    )


def _norm(layer: Any) -> Norm:
    def act(values: Any, weight: float) -> Any:
        import torch

        gamma = layer.gamma
        before, shift = gamma.numpy(), layer.beta.numpy() if layer.beta is not None else None
        gamma.assign(np.full_like(before, weight))
        if shift is not None:
            layer.beta.assign(np.zeros_like(shift))
        made = np.array(layer(values.numpy()))
        gamma.assign(before)
        if shift is not None:
            layer.beta.assign(shift)
        return torch.from_numpy(made)

    return describe_norm(act, int(layer.gamma.shape[-1]), bias=layer.beta is not None, called=type(layer).__name__)


def _on_torch(function: Any) -> Any:
    def call(values: Any) -> Any:
        import torch

        return torch.from_numpy(np.array(function(values.numpy())))

    return call


def _names() -> dict[str, str]:
    found = dict.fromkeys(("heads", "kv_heads", "head_dim", "query_scale", "qkv_bias"), ATTENTION)
    found |= dict.fromkeys(("activation", "intermediate_size", "mlp_bias"), f"{BLOCK}/feedforward_intermediate_dense")
    return found | {
        "output_bias": f"{ATTENTION}/attention_output",
        "pre_attention": f"{BLOCK}/self_attention_layer_norm",
        "pre_mlp": f"{BLOCK}/feedforward_layer_norm",
        "final_norm": FINAL,
        "embedding_scale": EMBEDDING,
    }
