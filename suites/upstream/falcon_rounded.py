"""Falcon with the ALiBi bias rounded as transformers rounds it: the remedy for the known defect of models/falcon.py."""

import torch
from litert_torch.generative.layers import attention_utils

from harness import GenerativeModel
from models.falcon import FALCON

# Made here and not where it is used: the converter knows no products in bfloat16, and takes this for a constant.
SLOPES = torch.tensor(attention_utils._get_alibi_slopes(32)).bfloat16()
BIAS = (SLOPES[:, None] * torch.arange(2048))[None, :, None].float()


def _rounded_bias(n_heads, k_size, dtype=torch.float32, device=None):
    """[1, heads, 1, keys]; slopes and their products with the key's position are bfloat16."""
    return BIAS[:, :n_heads, :, :k_size].to(dtype)


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
