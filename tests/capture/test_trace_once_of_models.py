"""Of whole models, tracing one of each kind of layer gives the graph that tracing all of them gives."""

from typing import Any

import pytest
import torch

from tests.capture.layers_in_a_row import assert_same
from tests.capture.models import tiny_gpt, tiny_gpt2, tiny_llama, token_batch
from tests.models import MORE_CASES, case


# Those of one kind of layer in a row are below.
@pytest.mark.parametrize("name", ["residual_mlp", "conv_net", *MORE_CASES])
def test_models_of_the_equality_matrix(name: str) -> None:
    chosen = case(name)
    assert_same(chosen.build(), chosen.batch(torch.float32), chosen.loss)


@pytest.mark.parametrize(("build", "layers"), [(tiny_llama, 3), (tiny_gpt2, 3), (tiny_gpt, 4)])
def test_all_layers_but_one_are_repeated(copies: list[str], build: Any, layers: int) -> None:
    assert_same(build(layers=layers), token_batch() if build is tiny_gpt else None)
    assert len(copies) == layers - 1


def test_with_dropout(copies: list[str]) -> None:
    assert_same(tiny_gpt2(layers=3, dropout=0.1))
    assert len(copies) == 2


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2}
FOUR = {"num_hidden_layers": 4}  # where layers of two kinds are mixed
WINDOWED = {**GROUPED, **FOUR, "head_dim": 8, "sliding_window": 4}
LATENT = {
    **FOUR,
    "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "first_k_dense_replace": 2,
}  # fmt: skip
# The sizes of a model and how many of its layers are like an earlier one. Falcon's layers hold data: all are traced.
TRANSFORMERS: dict[str, tuple[dict[str, Any], int]] = {
    "Gemma3": ({**WINDOWED, "sliding_window_pattern": 3}, 3),
    "DeepseekV3": (LATENT, 2),
    "GPTNeoX": ({}, 2),
    "Mamba": ({"state_size": 4}, 2),
    "OPT": ({"ffn_dim": 48, "word_embed_proj_dim": 32}, 2),
    "Falcon": ({}, 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(copies: list[str], name: str) -> None:
    import transformers

    sizes, repeated = TRANSFORMERS[name]
    config_name = "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config"
    with torch.device("meta"):
        config = getattr(transformers, config_name)(**{**SIZES, **sizes})
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    tokens, labels = token_batch()
    assert_same(model, {"input_ids": tokens, "labels": labels})
    assert len(copies) == repeated


@pytest.mark.slow
def test_whisper(copies: list[str]) -> None:
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=64, d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_mel_bins=8, max_source_positions=16,
        max_target_positions=16, decoder_start_token_id=0, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    assert_same(model, {"input_features": torch.empty(2, 8, 32), "labels": torch.zeros(2, 16, dtype=torch.long)})
    assert {path.rpartition(".")[0] for path in copies} == {"model.encoder.layers", "model.decoder.layers"}
