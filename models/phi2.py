"""Phi-2: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.phi import phi2
from transformers import PhiConfig

from harness import GenerativeModel

# https://huggingface.co/microsoft/phi-2/blob/main/config.json
# Confirmed by copies of it in four projects.
PHI2 = GenerativeModel(
    name="phi2",
    hf_id="microsoft/phi-2",
    config=phi2.get_model_config,
    model_class=phi2.Phi2,
    tensor_names=phi2.TENSOR_NAMES,
    published=lambda: PhiConfig(
        vocab_size=51200, hidden_size=2560, intermediate_size=10240, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=32, max_position_embeddings=2048, partial_rotary_factor=0.4,
        layer_norm_eps=1e-5, rope_theta=10000.0, hidden_act="gelu_new", qk_layernorm=False, tie_word_embeddings=False,
    ),
    coverage={
        "hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.93,
        # Without composites the converter folds norms into the linear layers after them.
        "reauthored->tflite-builtin [no-hlfb]": 0.90, "reauthored->tflite-xnnpack [no-hlfb]": 0.90,
    },
)  # fmt: skip
