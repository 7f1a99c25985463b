"""Qwen 3 (0.6B, 1.7B and 4B): miniatures of the published configs unless `--checkpoint` brings the real weights."""

from dataclasses import replace
from functools import partial

from litert_torch.generative.examples.qwen import qwen3
from transformers import Qwen3Config

from harness import GenerativeModel

COMMON = partial(
    Qwen3Config, vocab_size=151936, num_key_value_heads=8, head_dim=128, max_position_embeddings=40960,
    rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True, attention_bias=False, use_sliding_window=False,
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json
# Confirmed by copies of all three.
QWEN3 = GenerativeModel(
    name="qwen3",
    hf_id="Qwen/Qwen3-0.6B",
    config=qwen3.get_0_6b_model_config,
    model_class=qwen3.Qwen3,
    tensor_names=replace(qwen3.TENSOR_NAMES, lm_head=None),  # the checkpoints are tied and store no lm_head
    published=partial(
        COMMON, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        max_window_layers=28,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip

# The example's own names ask for an lm_head, and loading stops with a KeyError.
QWEN3_SHIPPED_NAMES = replace(QWEN3, name="qwen3_shipped_names", tensor_names=qwen3.TENSOR_NAMES)

# https://huggingface.co/Qwen/Qwen3-1.7B/blob/main/config.json
QWEN3_1_7B = replace(
    QWEN3, name="qwen3_1_7b", hf_id="Qwen/Qwen3-1.7B", config=qwen3.get_1_7b_model_config,
    published=partial(
        COMMON, hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16,
        max_window_layers=28,
    ),
)  # fmt: skip

# https://huggingface.co/Qwen/Qwen3-4B/blob/main/config.json
QWEN3_4B = replace(
    QWEN3, name="qwen3_4b", hf_id="Qwen/Qwen3-4B", config=qwen3.get_4b_model_config,
    published=partial(
        COMMON, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        max_window_layers=36,
    ),
)  # fmt: skip
