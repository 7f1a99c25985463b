"""GPT-2 (124 M) by KerasHub and TensorFlow's converter: a miniature unless `--checkpoint` brings the real weights."""

from transformers import GPT2Config

from harness import KerasModel
from harness.align.modules import ModuleNames

BLOCK = "transformer.h.{}"

# https://huggingface.co/openai-community/gpt2/blob/main/config.json
GPT2 = KerasModel(
    name="gpt2",
    hf_id="openai-community/gpt2",
    small_tokenizer=True,
    names=ModuleNames(
        embedding="transformer.wte",
        position_embedding="transformer.wpe",
        pre_attn_norm=f"{BLOCK}.ln_1",
        attn_fused_qkv_proj=f"{BLOCK}.attn.c_attn",
        attn_output_proj=f"{BLOCK}.attn.c_proj",
        post_attn_norm=f"{BLOCK}.ln_2",
        ff_up_proj=f"{BLOCK}.mlp.c_fc",
        ff_down_proj=f"{BLOCK}.mlp.c_proj",
        final_norm="transformer.ln_f",
    ),
    published=lambda: GPT2Config(
        vocab_size=50257, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=1024,
        layer_norm_epsilon=1e-5, activation_function="gelu_new", tie_word_embeddings=True,
    ),
)  # fmt: skip
