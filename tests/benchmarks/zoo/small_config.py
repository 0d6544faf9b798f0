"""Small configurations: any Hugging Face config class at toy widths, with nothing random in training."""

import inspect
from typing import Any

HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCAB, LAYERS, LENGTH = 64, 4, 2, 16, 96, 128, 4, 16

# What the config classes call the same few sizes. A class takes of these what its signature names.
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        "hidden_size d_model n_embd dim emb_dim word_embed_proj_dim embedding_size lru_width input_embedding_size "
        "attention_hidden_size embedding_dim backbone_hidden_size dim_model_base mamba_d_ssm".split(),
        HIDDEN,
    ),
    **dict.fromkeys(
        "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers "
        "num_decoder_layers num_blocks".split(),
        LAYERS,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads "
        "num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads".split(),
        HEADS,
    ),
    **dict.fromkeys("num_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups".split(), KV_HEADS),
    **dict.fromkeys("head_dim kv_channels d_kv d_head attention_head_dim swa_head_dim dim_head v_head_dim".split(), HEAD),
    **dict.fromkeys(
        "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dff d_inner d_ff "
        "moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size dim_ff "
        "shared_intermediate_size intermediate_size_mlp expert_ffn_hidden_size dense_intermediate_size "
        "shared_experts_intermediate_size feed_forward_size".split(),
        FFN,
    ),
    **dict.fromkeys("vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size".split(), VOCAB),
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts moe_num_experts".split(),
        4,
    ),
    **dict.fromkeys("num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts".split(), 2),
    **dict.fromkeys(
        "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length "
        "max_target_positions max_source_positions".split(),
        2 * LENGTH,
    ),
}
SILENT = ("drop", "jitter")  # parts of the names of what draws random numbers in training


def small_config(config_class: Any, **special: Any) -> Any:
    """A config of `config_class` with small sizes, dropout off and no cache; `special` has the last word."""
    names = inspect.signature(config_class.__init__).parameters
    chosen = {name: size for name, size in SIZES.items() if name in names}
    for name, parameter in names.items():
        if isinstance(parameter.default, float) and any(part in name for part in SILENT):
            chosen[name] = 0.0
        elif name.endswith("_token_id") and isinstance(parameter.default, int) and parameter.default >= VOCAB:
            chosen[name] = 1
    for name, sub_class in (getattr(config_class, "sub_configs", None) or {}).items():
        if name not in special and name in names and hasattr(sub_class, "model_type"):
            chosen[name] = small_config(sub_class)
    return config_class(**{**chosen, **special})
