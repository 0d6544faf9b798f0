"""What small configurations need beyond the general table: chiefly a pattern with each kind of layer in four."""

from typing import Any

from tests.benchmarks.zoo.small_config import FFN, HEAD, HEADS, HIDDEN, LENGTH, RANK, VOCAB

WINDOWS = {"layer_types": ["sliding_attention", "full_attention"] * 2}
LINEAR = {"layer_types": ["linear_attention", "full_attention"] * 2}
GEMMA4 = WINDOWS | {"global_head_dim": HEAD, "hidden_size_per_layer_input": 16}
# dots3 takes its sliding layers' sizes apart.
SWA = dict.fromkeys(["swa_num_attention_heads", "swa_num_key_value_heads"], HEADS) | {
    "swa_q_lora_rank": RANK,
    "swa_kv_lora_rank": RANK,
    "swa_head_dim": HEAD,
    "swa_qk_nope_head_dim": HEAD // 2,
    "swa_v_head_dim": HEAD,
    "sliding_window": LENGTH // 2,
}
# Sizes with names of their own, of an indexer that picks keys and of n-gram embeddings.
QWEN4 = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD,
    "indexer_budget": LENGTH // 2,
    "indexer_compress_ratio": 2,
    "hc_lowrank": RANK,
    # Counted from 1: the second layer.
    "ple_layer_ids": [2],
    "eos_token_id": 1,
    "ngram_vocab_size_base": VOCAB,
    "heads_per_ngram": 2,
}

# Each by the name of the architecture: keywords of its config class, those of a sub-config under its name.
SETTINGS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"patch_size": 4, "encoder_hash_byte_group_vocab": VOCAB, "local_attention_window_len": LENGTH // 2},
    "codegen": {"rotary_dim": HEAD // 2},
    "cohere_compass_text": WINDOWS
    | {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
            for kind in WINDOWS["layer_types"]
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"moe_top_k": 2, "ffn_hidden_size": FFN},
    },
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        "index_topk": 4,
        "partial_rotary_factor": 0.5,
    },
    "dots1": WINDOWS | {"n_shared_experts": 1},
    "dots3_note": {"text_config": SWA, "vision_config": {"pyramid_num_routed": [-1, -1, 2, 4]}},
    "dots3_note_text": SWA,
    "gemma3": {"text_config": WINDOWS, "mm_tokens_per_image": 4},
    "gemma3_text": WINDOWS,
    "gemma3n_text": WINDOWS | {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 16, "laurel_rank": 16},
    "gemma4": {"text_config": GEMMA4, "vision_config": {"position_embedding_size": 16}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": WINDOWS | {"global_head_dim": HEAD}, "vision_config": {"mm_posemb_size": 16}},
    "gemma4_unified_text": WINDOWS | {"global_head_dim": HEAD},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": LENGTH // 2},
    "gptj": {"rotary_dim": HEAD // 2},
    "granitemoehybrid": LINEAR,
    "inkling2_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2},
    "inkling_text": {"layer_types": ["hybrid_sliding", "hybrid"] * 2},
    # One of four layers attends, and every second layer has experts.
    "jamba": {"attn_layer_period": 4, "attn_layer_offset": 2},
    "kimi_linear": LINEAR,
    "kolibri1": WINDOWS,
    "laguna": WINDOWS,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"]},
    # Each of these layers holds two attentions and two feed-forward blocks.
    "longcat_flash": {"num_layers": 2, "zero_expert_num": 2, "head_dim": HEAD // 2},
    "mamba2": {"num_heads": 8, "n_groups": 2},
    "mellum": WINDOWS,
    "ministral": WINDOWS,
    "phi4_multimodal": {"audio_config": {"nemo_conv_channels": RANK, "ext_pw_out_channel": RANK}},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    # The product of the axial shape is the length, and a hash needs a seed to be the same at every call.
    "reformer": {
        "attn_layers": ["local", "lsh"] * 2,
        "attention_head_size": HEAD,
        "axial_pos_shape": [4, LENGTH // 4],
        "axial_pos_embds_dim": [HIDDEN // 2, HIDDEN // 2],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
        "hash_seed": 0,
    },
    "roc_bert": {
        "shape_vocab_size": VOCAB,
        "pronunciation_vocab_size": VOCAB,
        "pronunciation_embed_dim": RANK,
        "shape_embed_dim": RANK,
    },
    "xlstm": {"mode": "train"},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 2 * HIDDEN},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "num_key_value_heads": HEADS},
    "zaya": {
        "layer_types": ["hybrid_sliding", "hybrid"] * 2,
        "sliding_window": LENGTH // 2,
        "num_experts_per_tok": 1,
        "router_hidden_size": RANK,
    },
}

# What cannot train at all, and why.
NOT_RUNNABLE: dict[str, str] = {
    "gemma3n": "its vision tower is built by timm, which is not installed",
    "gemma4_assistant": "has no loss, and cannot be built: every layer shares the keys of another model",
    "gemma4_unified_assistant": "has no loss, and cannot be built: every layer shares the keys of another model",
}

# torch's grouped_mm, by which transformers multiplies with many experts at once, has no float64.
GROUPED_EXPERTS = """
    afmoe aria_text axk1 axk2 bailing_hybrid beam cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 dots1
    dots3_note dots3_note_text ernie4_5_moe exaone_moe flex_olmo flint glm4_moe glm4_moe_lite glm_moe_dsa gpt_oss
    granitemoe granitemoe_swa granitemoehybrid granitemoeshared hunyuan_v1_moe hy_v3 hy_v4 inkling2_text inkling_text
    jamba kimi_linear kolibri1 laguna lfm2_moe mellum mimo_v2_flash minimax minimax_m2 minimax_m3_vl_text mixtral
    nemotron_h olmoe phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text
    solar_open zaya
"""
# XGLM writes the least number of its dtype into a float32 tensor, which float64's does not fit.
FLOAT32 = frozenset(GROUPED_EXPERTS.split()) | {"xglm"}
