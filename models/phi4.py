"""Phi-4 mini: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.phi import phi4
from transformers import Phi3Config

from harness import GenerativeModel

LONG_FACTOR = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424, 6.693110555,
    7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283,
    20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64, 32.66, 32.7,
    32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]  # fmt: skip

# https://huggingface.co/microsoft/Phi-4-mini-instruct/blob/main/config.json
# Confirmed by the copy in MLC LLM's model_preset.py.
PHI4 = GenerativeModel(
    name="phi4",
    hf_id="microsoft/Phi-4-mini-instruct",
    config=phi4.get_model_config,
    model_class=phi4.Phi4Mini,
    tensor_names=phi4.TENSOR_NAMES,
    published=lambda: Phi3Config(
        vocab_size=200064, hidden_size=3072, intermediate_size=8192, num_hidden_layers=32, num_attention_heads=24,
        num_key_value_heads=8, max_position_embeddings=131072, original_max_position_embeddings=4096,
        rms_norm_eps=1e-5, rope_theta=10000.0, partial_rotary_factor=0.75, tie_word_embeddings=True,
        rope_scaling={"type": "longrope", "short_factor": [1.0] * 48, "long_factor": list(LONG_FACTOR)},
        sliding_window=262144, bos_token_id=199999, eos_token_id=199999, pad_token_id=199999,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
