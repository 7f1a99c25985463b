"""TinyLlama with fields set that litert-torch's DecoderOnlyModel never looks at: no number can show it."""

import copy

from litert_torch.generative.examples.tiny_llama import tiny_llama
from litert_torch.generative.layers import model_config

from harness import GenerativeModel
from models.tiny_llama import TINY_LLAMA


def _config():
    config = tiny_llama.get_model_config()
    config.final_logit_softcap = 30.0
    windowed = copy.deepcopy(config.block_configs)
    windowed.attn_config.attn_type = model_config.AttentionType.LOCAL_SLIDING
    windowed.attn_config.sliding_window_size = 1024
    windowed.attn_config.rotary_base = 1_000_000
    config.block_configs = [config.block_configs, windowed] * (config.num_layers // 2)
    return config


IGNORED_FIELDS = GenerativeModel(
    name="ignored_fields",
    hf_id=TINY_LLAMA.hf_id,
    config=_config,
    model_class=tiny_llama.TinyLlama,
    tensor_names=TINY_LLAMA.tensor_names,
    published=TINY_LLAMA.published,
)
