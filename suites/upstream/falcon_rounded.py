"""Falcon with the ALiBi bias rounded as transformers rounds it: the remedy for the known defect of models/falcon.py."""

import torch
from litert_torch.generative.layers import attention_utils

from harness import GenerativeModel
from models.falcon import FALCON


def _rounded_bias(n_heads, k_size, dtype=torch.float32, device=None):
    """[1, heads, 1, keys]; slopes and their products with the key's position are bfloat16."""
    slopes = torch.tensor(attention_utils._get_alibi_slopes(n_heads), device=device).bfloat16()
    return (slopes[:, None] * torch.arange(k_size, device=device))[None, :, None, :].to(dtype)


# For this run alone: a spec file is executed in the processes of its own run.
attention_utils.build_alibi_bias = _rounded_bias

FALCON_ROUNDED = GenerativeModel(
    name="falcon_rounded",
    hf_id=FALCON.hf_id,
    config=FALCON.config,
    model_class=FALCON.model_class,
    tensor_names=FALCON.tensor_names,
    published=FALCON.published,
)
