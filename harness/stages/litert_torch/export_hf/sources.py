"""What the constants of an exported file are made of: the checkpoint's tensors, under their own names.

In: the published model without memory, and a checkpoint folder. Out: a `ParameterSource` for each tensor that the model
has, and the rotary frequencies.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.weights.files import stored_tensors
from harness.weights.parameters import ParameterSource


def sources_of(network: Any, config: Any, folder: Path) -> list[ParameterSource]:
    """network: a `PreTrainedModel` on torch's meta device. config: of its text.

    Only tensors that both the model and the checkpoint have: what the model ties is stored once.
    """
    stored, own = stored_tensors(folder), network.state_dict()
    softcap = getattr(config, "final_logit_softcapping", None)
    scaled = _scales_embedding(network)
    head, embedding = (_path(network, module) for module in (network.get_output_embeddings(), _embedding(network)))
    return [
        ParameterSource(
            parameter=name,
            keys=[name],
            one_plus=_adds_one(network, name),
            scale=scaled if name == f"{embedding}.weight" else None,
            divisor=softcap if name == f"{head}.weight" else None,
        )
        for name in own
        if name in stored
    ]


def frequencies_of(network: Any, config: Any) -> list[list[float]]:
    """The rotary frequencies of its blocks in radians per position, each list once, made again with memory."""
    kinds = {type(module) for module in network.modules() if "RotaryEmbedding" in type(module).__name__}
    found: dict[tuple[float, ...], None] = {}
    for kind in kinds:
        for name, values in kind(config=config).named_buffers():
            if name.endswith("inv_freq"):
                found.setdefault(tuple(map(float, values.tolist())))
    return [list(values) for values in found]


def _adds_one(network: Any, name: str) -> bool:
    """Whether it is the weight of a norm that multiplies by 1 + weight, as Gemma's do: those are made of zeros."""
    module = type(network.get_submodule(name.rpartition(".")[0]))
    return "RMSNorm" in module.__name__ and module.__name__.startswith("Gemma")


def _scales_embedding(network: Any) -> float | None:
    """The factor of an embedding that brings one, as Gemma 3's does."""
    scale = getattr(_embedding(network), "scalar_embed_scale", None)
    return float(scale) if scale is not None else None


def _embedding(network: Any) -> Any:
    return network.get_input_embeddings()


def _path(network: Any, module: Any) -> str:
    return next((path for path, other in network.named_modules() if other is module), "")
