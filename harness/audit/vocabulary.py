"""The words of Hugging Face configs: which fields the audit covers, and which say nothing about a model's structure.

In: a config. Out: fields that are in neither list. Such a field is reported, because a model that sets it may compute
something that nobody compared.
"""

from __future__ import annotations

from typing import Any

# Covered: most of them through the modules that transformers builds from them.
_AUDITED = frozenset(
    {
        "activation", "activation_fn_name", "activation_function", "alibi", "attention_bias", "attn_logit_softcapping",
        "bias", "ffn_dim_divisor", "ffn_hidden_size", "ffn_multipliers", "ffn_with_glu", "final_logit_softcapping",
        "head_dim", "hidden_act", "hidden_activation", "hidden_size", "intermediate_size", "layer_norm_eps",
        "layer_norm_epsilon", "layer_types", "max_context_length", "max_position_embeddings", "max_window_layers",
        "mlp_bias", "model_dim", "multi_query", "n_embd", "n_head", "n_inner", "n_layer", "n_positions",
        "new_decoder_architecture", "normalization_layer_name",
        "normalize_qk_projections", "num_attention_heads", "num_gqa_groups", "num_hidden_layers",
        "num_key_value_heads", "num_kv_heads", "num_ln_in_parallel_attn", "num_query_heads", "num_transformer_layers",
        "original_max_position_embeddings", "parallel_attn", "partial_rotary_factor", "qk_layernorm",
        "qkv_multipliers", "query_pre_attn_scalar", "rms_norm_eps", "rope_freq_constant", "rope_local_base_freq",
        "rope_max_length", "rope_parameters", "rope_scaling", "rope_theta", "share_input_output_layers",
        "reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx", "scale_attn_weights",
        "sliding_window", "sliding_window_pattern", "tie_word_embeddings", "use_sliding_window", "vocab_size",
    }
)  # fmt: skip
# About training, tokens, files and output; nothing of it changes what a forward pass computes in eval mode.
_NOT_STRUCTURE = frozenset(
    {
        "architectures", "attention_dropout", "attn_pdrop", "auto_map", "bos_token_id", "cache_implementation",
        "chunk_size_feed_forward", "dtype", "embd_pdrop", "eos_token_id", "hidden_dropout", "id2label",
        "initializer_range", "is_decoder", "is_encoder_decoder", "label2id", "max_length", "model_type",
        "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type", "resid_pdrop",
        "return_dict", "summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type",
        "summary_use_proj", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip


def unknown_settings(config: Any) -> list[tuple[str, str]]:
    """(field, why it is not audited) for every field that is set and that nobody here knows."""
    known = _AUDITED | _NOT_STRUCTURE
    return [
        (name, f"the published config sets it to {value}, and this version does not know the field")
        for name, value in sorted(config.to_dict().items())
        if name not in known and not name.startswith("_") and value not in (None, False, [], {}, ())
    ]
