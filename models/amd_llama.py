"""AMD-Llama 135M: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.amd_llama_135m import amd_llama_135m
from transformers import LlamaConfig

from harness import GenerativeModel

# https://huggingface.co/amd/AMD-Llama-135m/blob/main/config.json
# Confirmed by the checkpoint's number of parameters and tensors, and by a declaration of its code variant.
AMD_LLAMA = GenerativeModel(
    name="amd_llama",
    hf_id="amd/AMD-Llama-135m",
    config=amd_llama_135m.get_model_config,
    model_class=amd_llama_135m.AmdLlama,
    tensor_names=amd_llama_135m.TENSOR_NAMES,
    published=lambda: LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
        num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=2048,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=False,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
