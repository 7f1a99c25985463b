"""Llama 3.2 (1B and 3B): miniatures of the published configs unless `--checkpoint` brings the real weights."""

from dataclasses import replace

from litert_torch.generative.examples.llama import llama
from transformers import LlamaConfig

from harness import GenerativeModel

ROPE = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip

# https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct/blob/main/config.json
# Confirmed by the copies of both in MLC LLM's model_preset.py.
LLAMA3_2 = GenerativeModel(
    name="llama3_2",
    hf_id="meta-llama/Llama-3.2-1B-Instruct",
    config=llama.get_1b_model_config,
    model_class=llama.Llama,
    tensor_names=llama.TENSOR_NAMES,
    published=lambda: LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=131072,
        rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=dict(ROPE), tie_word_embeddings=True,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip

# https://huggingface.co/meta-llama/Llama-3.2-3B-Instruct/blob/main/config.json
LLAMA3_2_3B = replace(
    LLAMA3_2, name="llama3_2_3b", hf_id="meta-llama/Llama-3.2-3B-Instruct", config=llama.get_3b_model_config,
    published=lambda: LlamaConfig(
        vocab_size=128256, hidden_size=3072, intermediate_size=8192, num_hidden_layers=28,
        num_attention_heads=24, num_key_value_heads=8, head_dim=128, max_position_embeddings=131072,
        rms_norm_eps=1e-5, rope_theta=500000.0, rope_scaling=dict(ROPE), tie_word_embeddings=True,
    ),
)  # fmt: skip
