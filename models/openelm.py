"""OpenELM 3B: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.openelm import openelm

from harness import GenerativeModel
from models.reference.openelm import OpenELMConfig, OpenELMForCausalLM

# https://huggingface.co/apple/OpenELM-3B/blob/main/config.json
# Confirmed by a copy of it.
OPENELM = GenerativeModel(
    name="openelm",
    hf_id="apple/OpenELM-3B",
    config=openelm.get_model_config,
    model_class=openelm.OpenELM,
    tensor_names=openelm.TENSOR_NAMES,
    published=lambda: OpenELMConfig(
        vocab_size=32000, model_dim=3072, num_transformer_layers=36, head_dim=128, max_context_length=2048,
        num_query_heads=[12] * 4 + [16] * 14 + [20] * 12 + [24] * 6, num_gqa_groups=4, qkv_multipliers=[0.5, 1.0],
        num_kv_heads=[3] * 4 + [4] * 14 + [5] * 12 + [6] * 6, ffn_multipliers=[(5 + i) / 10 for i in range(36)],
        ffn_dim_divisor=256, ffn_with_glu=True, activation_fn_name="swish", normalization_layer_name="rms_norm",
        normalize_qk_projections=True, rope_freq_constant=10000, rope_max_length=4096, share_input_output_layers=True,
    ),
    reference=OpenELMForCausalLM,
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
