"""Small configurations: any Hugging Face config class at toy widths, with nothing random in training."""

import inspect
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCAB, LAYERS, LENGTH = 64, 4, 2, 16, 96, 128, 4, 16
EXPERTS, RANK, STATE, IMAGE, PATCH, CODEBOOKS = 4, 32, 16, 16, 8, 4

# What the config classes call the same few sizes. A class takes of these what its signature names.
NAMES: dict[str, int] = {
    """hidden_size d_model n_embd dim emb_dim word_embed_proj_dim embedding_size lru_width input_embedding_size
    attention_hidden_size embedding_dim backbone_hidden_size dim_model_base mamba_d_ssm hidden_size_global
    projection_dim mm_embed_dim output_proj_dims audio_embed_dim out_hidden_size adapter_in_dim adapter_out_dim
    adapter_input_size""": HIDDEN,
    """num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_encoder_layers
    num_decoder_layers num_blocks""": LAYERS,
    """num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads
    num_encoder_attention_heads num_decoder_attention_heads swa_num_attention_heads linear_num_heads
    linear_num_value_heads n_mamba_heads""": HEADS,
    """num_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups linear_num_key_heads
    index_n_heads""": KV_HEADS,
    """head_dim kv_channels d_kv d_head attention_head_dim swa_head_dim dim_head v_head_dim linear_head_dim
    linear_key_head_dim linear_value_head_dim index_head_dim""": HEAD,
    "qk_nope_head_dim qk_rope_head_dim": HEAD // 2,
    """intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim n_inner ffn_hidden_size dff d_inner d_ff mlp_dim
    moe_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size dim_ff
    shared_intermediate_size intermediate_size_mlp expert_ffn_hidden_size dense_intermediate_size
    shared_experts_intermediate_size feed_forward_size""": FFN,
    "vocab_size decoder_vocab_size vocab_size_per_layer_input unpadded_vocab_size": VOCAB,
    "num_experts num_local_experts n_routed_experts moe_num_experts": EXPERTS,
    "num_experts_per_tok num_experts_per_token moe_topk moe_k top_k_experts n_group": EXPERTS // 2,
    "topk_group first_k_dense_replace": 1,
    "kv_lora_rank q_lora_rank o_lora_rank": RANK,
    "mamba_d_state state_size ssm_state_size": STATE,
    "mamba_n_heads": 2 * HIDDEN // HEAD,
    """max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length max_target_positions
    max_source_positions""": 2 * LENGTH,
    # Windows, chunks and picks are shorter than a sample, so that they matter.
    "index_topk sliding_window attention_window mamba_chunk_size chunk_size": LENGTH // 2,
    "image_size": IMAGE,
    "patch_size": PATCH,
    "num_codebooks": CODEBOOKS,
    "use_cache": False,
    "is_decoder": True,  # BERT and its kin see later tokens otherwise
}
SIZES = {name: size for names, size in NAMES.items() for name in names.split()}
# Of these None by default means off, not "as wide as the rest".
OPTIONAL = ("sliding_window", "q_lora_rank", "n_group", "topk_group", "num_experts", "top_k_experts")
SILENT = ("drop", "jitter")  # parts of the names of what draws random numbers in training
# Of these None by default means off, not "as wide as the rest".
OPTIONAL = ("sliding_window", "q_lora_rank", "n_group", "topk_group", "num_experts", "top_k_experts")


def small_config(config_class: Any, **special: Any) -> Any:
    """A config of `config_class` with small sizes, dropout off and no cache.

    `special` has the last word; keywords of a sub-config come as a mapping under its name.
    """
    names = inspect.signature(config_class.__init__).parameters
    chosen = {
        name: size
        for name, size in SIZES.items()
        if name in names and not (name in OPTIONAL and names[name].default is None)
    }
    if "kv_lora_rank" in names:  # latent attention gives each head keys of its own (DeepSeek-V2, arXiv:2405.04434)
        chosen["num_key_value_heads"] = HEADS
    for name, parameter in names.items():
        if isinstance(parameter.default, float) and any(part in name for part in SILENT):
            chosen[name] = 0.0
        elif name.endswith(("_token_id", "_token_index")) and isinstance(parameter.default, int):
            chosen[name] = min(parameter.default, 1)
    for name, spec in config_class.sub_configs_defaults.items():
        settings = special.pop(name, {})
        sub_class = CONFIG_MAPPING[spec.model_type] if spec.model_type else spec.config_class
        unsized = {key: value for key, value in spec.init_kwargs.items() if key not in SIZES}
        chosen[name] = small_config(sub_class, **{**unsized, **settings})
    return config_class(**{**chosen, **special})
