"""Gemma 3 text (1B and 270M): miniatures of the published configs unless `--checkpoint` brings the real weights."""

from dataclasses import replace
from functools import partial

from litert_torch.generative.examples.gemma3 import decoder
from transformers import Gemma3TextConfig

from harness import GenerativeModel

COMMON = partial(
    Gemma3TextConfig, vocab_size=262144, num_attention_heads=4, num_key_value_heads=1, head_dim=256,
    max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0, rope_local_base_freq=10000.0,
    hidden_activation="gelu_pytorch_tanh", query_pre_attn_scalar=256, sliding_window=512, sliding_window_pattern=6,
    attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=True,
)  # fmt: skip

# https://huggingface.co/google/gemma-3-1b-it/blob/main/config.json
# Confirmed by the copy in MLC LLM's model_preset.py.
GEMMA3 = GenerativeModel(
    name="gemma3",
    hf_id="google/gemma-3-1b-it",
    config=decoder.get_decoder_config_1b,
    model_class=decoder.Decoder,
    tensor_names=decoder.TENSOR_NAMES_SEP_QKV,
    published=partial(COMMON, hidden_size=1152, intermediate_size=6912, num_hidden_layers=26),
    coverage={"hf->reauthored": 1.0, "reauthored->tflite-builtin": 1.0, "reauthored->tflite-xnnpack": 0.94},
)  # fmt: skip

# https://huggingface.co/google/gemma-3-270m-it/blob/main/config.json
# Confirmed by excerpts, and by the checkpoint's number of parameters.
GEMMA3_270M = replace(
    GEMMA3, name="gemma3_270m", hf_id="google/gemma-3-270m-it", config=decoder.get_decoder_config_270m,
    published=partial(COMMON, hidden_size=640, intermediate_size=2048, num_hidden_layers=18),
)  # fmt: skip
