"""SmolLM 135M: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.smollm import smollm
from transformers import LlamaConfig

from harness import GenerativeModel

# https://huggingface.co/HuggingFaceTB/SmolLM-135M-Instruct/blob/main/config.json
# Confirmed for the base model, by a reading of its config and tensors.
SMOLLM = GenerativeModel(
    name="smollm",
    hf_id="HuggingFaceTB/SmolLM-135M-Instruct",
    config=smollm.get_model_config,
    model_class=smollm.SmolLM,
    tensor_names=smollm.TENSOR_NAMES,
    published=lambda: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=2048,
        rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
