"""A tied model whose weight names miss a norm. Upstream loads it with strict=False and says nothing."""

from dataclasses import replace

from litert_torch.generative.examples.qwen import qwen

from harness import GenerativeModel
from models.qwen2_5 import QWEN2_5

DROPPED_NORM = GenerativeModel(
    name="dropped_norm",
    hf_id=QWEN2_5.hf_id,
    config=QWEN2_5.config,
    model_class=QWEN2_5.model_class,
    tensor_names=replace(qwen.TENSOR_NAMES, post_attn_norm=None),
    published=QWEN2_5.published,
)
