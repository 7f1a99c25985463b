"""Gemma 2 (2B): a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.gemma import gemma2
from transformers import Gemma2Config

from harness import GenerativeModel

# https://huggingface.co/google/gemma-2-2b-it/blob/main/config.json
# Confirmed by the copy in MLC LLM's model_preset.py.
GEMMA2 = GenerativeModel(
    name="gemma2",
    hf_id="google/gemma-2-2b-it",
    config=gemma2.get_model_config_2b,
    model_class=gemma2.Gemma2,
    tensor_names=gemma2.TENSOR_NAMES_SEP_QKV,
    published=lambda: Gemma2Config(
        vocab_size=256000, hidden_size=2304, intermediate_size=9216, num_hidden_layers=26,
        num_attention_heads=8, num_key_value_heads=4, head_dim=256, max_position_embeddings=8192,
        rms_norm_eps=1e-6, rope_theta=10000.0, hidden_activation="gelu_pytorch_tanh", tie_word_embeddings=True,
        query_pre_attn_scalar=256, attn_logit_softcapping=50.0, final_logit_softcapping=30.0, sliding_window=4096,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
