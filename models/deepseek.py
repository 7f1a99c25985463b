"""DeepSeek R1 Distill Qwen 1.5B: a miniature of the published config unless `--checkpoint` brings the real weights."""

from litert_torch.generative.examples.deepseek import deepseek
from transformers import Qwen2Config

from harness import GenerativeModel

# https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B/blob/main/config.json
# Confirmed by a copy of it.
DEEPSEEK = GenerativeModel(
    name="deepseek",
    hf_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    config=deepseek.get_model_config,
    model_class=deepseek.DeepSeekDistillQwen,
    tensor_names=deepseek.TENSOR_NAMES,
    published=lambda: Qwen2Config(
        vocab_size=151936, hidden_size=1536, intermediate_size=8960, num_hidden_layers=28,
        num_attention_heads=12, num_key_value_heads=2, max_position_embeddings=131072,
        rms_norm_eps=1e-6, rope_theta=10000.0, tie_word_embeddings=False,
        use_sliding_window=False, sliding_window=4096, max_window_layers=21,
    ),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip
