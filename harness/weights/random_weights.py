"""Seeded random weights of a published config's shape, drawn so that a fault anywhere in the model shows.

In: a Hugging Face config and a seed. Out: a checkpoint folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.weights.configs import distinct_tensors, quiet_transformers
from harness.weights.files import WEIGHTS_FILE

# How much wider queries and keys are than usual: otherwise attention is all but uniform, and hides its faults.
SHARPNESS = 1.5


def write_seeded(config: Any, seed: int, folder: Path) -> None:
    """Write a config and seeded random weights of its shape (float32) into an existing folder."""
    import torch
    import transformers
    from safetensors.torch import save_file
    from transformers.pytorch_utils import Conv1D

    factory: Any = transformers.AutoModelForCausalLM
    config.architectures, config.dtype = None, "float32"
    with quiet_transformers():
        network = factory.from_config(config, dtype=torch.float32, trust_remote_code=False)
        config.architectures = [type(network).__name__]
        config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    zero_centred = {name for name, parameter in network.named_parameters() if _is_norm(name) and not parameter.any()}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            turned = isinstance(network.get_submodule(name.rpartition(".")[0]), Conv1D)  # keeps `[in, out]`
            shape = tuple(parameter.shape)
            mean, std = _distribution(name, shape[::-1] if turned else shape, config, zero_centred)
            parameter.normal_(mean, std, generator=generator)
    save_file(distinct_tensors(network), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _is_norm(name: str) -> bool:
    return "norm" in name.rsplit(".", 2)[-2] or ".ln_" in name


def _distribution(name: str, shape: tuple[int, ...], config: Any, zero_centred: set[str]) -> tuple[float, float]:
    """(mean, std) for a parameter. Ones and zeros would hide faults: a norm that is skipped, a bias that is lost."""
    if name.endswith(".bias"):
        return 0.0, 0.1
    if _is_norm(name):
        # Gemma's norms multiply by 1 + w, which transformers starts at w = 0.
        # Normalised queries and keys are as wide as these weights make them.
        gain = SHARPNESS if ".q_norm." in name or ".k_norm." in name else 1.0
        return (gain - 1.0 if name in zero_centred else gain), 0.2
    fan_in = shape[-1]
    if len(shape) != 2 or shape[0] == config.vocab_size:
        # Larger embeddings would drown the blocks' errors in tied logits.
        return 0.0, config.hidden_size**-0.5
    sharp = any(part in name for part in ("q_proj", "k_proj", "qkv_proj", "query_key_value", "c_attn"))
    return 0.0, (SHARPNESS if sharp else 1.0) * fan_in**-0.5
