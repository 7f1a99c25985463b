"""Gemma 1 (2B): a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.gemma import gemma1
from transformers import GemmaConfig

from harness import GenerativeModel

# https://huggingface.co/google/gemma-2b-it/blob/main/config.json
# Confirmed by the copy of gemma-2b in MLC LLM's model_preset.py; its gelu is the tanh form in transformers.
GEMMA1 = GenerativeModel(
    name="gemma1",
    hf_id="google/gemma-2b-it",
    config=gemma1.get_model_config_2b,
    model_class=gemma1.Gemma1,
    tensor_names=gemma1.TENSOR_NAMES_SEP_QKV,
    published=lambda: GemmaConfig(
        vocab_size=256000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18,
        num_attention_heads=8, num_key_value_heads=1, head_dim=256, max_position_embeddings=8192,
        rms_norm_eps=1e-6, rope_theta=10000.0, hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
