"""TinyLlama 1.1B Chat: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.tiny_llama import tiny_llama
from transformers import LlamaConfig

from harness import GenerativeModel

# https://huggingface.co/TinyLlama/TinyLlama-1.1B-Chat-v1.0/blob/main/config.json
# Confirmed by excerpts of it in three projects, but for the untied embeddings.
TINY_LLAMA = GenerativeModel(
    name="tiny_llama",
    hf_id="TinyLlama/TinyLlama-1.1B-Chat-v1.0",
    config=tiny_llama.get_model_config,
    model_class=tiny_llama.TinyLlama,
    tensor_names=tiny_llama.TENSOR_NAMES,
    published=lambda: LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22,
        num_attention_heads=32, num_key_value_heads=4, max_position_embeddings=2048,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
