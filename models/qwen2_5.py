"""Qwen 2.5 (0.5B, 1.5B and 3B): miniatures of the published configs unless `--checkpoint` brings the real weights."""

from dataclasses import replace
from functools import partial

from litert_torch.generative.examples.qwen import qwen
from transformers import Qwen2Config

from harness import GenerativeModel

COMMON = partial(
    Qwen2Config, vocab_size=151936, num_key_value_heads=2, max_position_embeddings=32768, rms_norm_eps=1e-6,
    rope_theta=1000000.0, tie_word_embeddings=True, use_sliding_window=False, sliding_window=32768,
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct/blob/main/config.json
# Confirmed by copies of all three.
QWEN2_5 = GenerativeModel(
    name="qwen2_5",
    hf_id="Qwen/Qwen2.5-0.5B-Instruct",
    config=qwen.get_0_5b_model_config,
    model_class=qwen.Qwen,
    tensor_names=qwen.TENSOR_NAMES,
    published=partial(
        COMMON, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        max_window_layers=21,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen2.5-1.5B-Instruct/blob/main/config.json
QWEN2_5_1_5B = replace(
    QWEN2_5, name="qwen2_5_1_5b", hf_id="Qwen/Qwen2.5-1.5B-Instruct", config=qwen.get_1_5b_model_config,
    published=partial(
        COMMON, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12,
        max_window_layers=21,
    ),
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/config.json
QWEN2_5_3B = replace(
    QWEN2_5, name="qwen2_5_3b", hf_id="Qwen/Qwen2.5-3B-Instruct", config=qwen.get_3b_model_config,
    published=partial(
        COMMON, hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16,
        max_window_layers=70,
    ),
)  # fmt: skip
