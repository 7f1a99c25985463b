"""Hammer 2.1 (1.5B and 0.5B): miniatures of the published configs unless `--checkpoint` brings the real weights."""

from dataclasses import replace

from litert_torch.generative.examples.hammer import hammer
from transformers import Qwen2Config

from harness import GenerativeModel

# https://huggingface.co/MadeAgents/Hammer2.1-1.5b/blob/main/config.json
# Not confirmed: no copy was found. The vocabulary stands in the re-authored example only.
HAMMER = GenerativeModel(
    name="hammer",
    hf_id="MadeAgents/Hammer2.1-1.5b",
    config=hammer.get_1_5b_model_config,
    model_class=hammer.Hammer,
    tensor_names=hammer.TENSOR_NAMES,
    published=lambda: Qwen2Config(
        vocab_size=151665, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=32768,
        rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True,
        use_sliding_window=False,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip

# https://huggingface.co/MadeAgents/Hammer2.1-0.5b/blob/main/config.json
HAMMER_0_5B = replace(
    HAMMER, name="hammer_0_5b", hf_id="MadeAgents/Hammer2.1-0.5b", config=hammer.get_0_5b_model_config,
    published=lambda: Qwen2Config(
        vocab_size=151665, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=32768,
        rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=True,
        use_sliding_window=False,
    ),
)  # fmt: skip
