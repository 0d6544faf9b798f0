"""Batches derived from configs of transformers: the models take them, and return a loss where they have a head."""

from typing import Any

import pytest
import torch

from autopart.capture.hf_batch import hf_batch

transformers = pytest.importorskip("transformers")

TOKENS, IMAGE, SPECTRUM, CLASS = (2, 16), (2, 3, 32, 32), (2, 8, 64), (2,)
BERT = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": 16}
T5 = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "vocab_size": 64, "n_positions": 16}
WHISPER = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "vocab_size": 64,
    "num_mel_bins": 8,
    "max_source_positions": 32,
    "max_target_positions": 16,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}


@pytest.mark.parametrize(
    ("name", "config", "shapes"),
    [
        ("BertForMaskedLM", BERT, {"input_ids": TOKENS, "labels": TOKENS}),
        ("BertForSequenceClassification", BERT, {"input_ids": TOKENS, "labels": CLASS}),
        ("BertForQuestionAnswering", BERT, {"input_ids": TOKENS, "start_positions": CLASS, "end_positions": CLASS}),
        ("BertModel", BERT, {"input_ids": TOKENS}),
        ("T5ForConditionalGeneration", T5 | {"decoder_start_token_id": 0}, {"input_ids": TOKENS, "labels": TOKENS}),
        ("T5Model", T5, {"input_ids": TOKENS, "decoder_input_ids": TOKENS}),
        ("ViTForImageClassification", {"image_size": 32}, {"pixel_values": IMAGE, "labels": CLASS}),
        ("ViTModel", {"image_size": [32, 32]}, {"pixel_values": IMAGE}),
        ("WhisperForConditionalGeneration", WHISPER, {"input_features": SPECTRUM, "labels": TOKENS}),
    ],
)
def test_it_is_what_the_model_takes(name: str, config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    kind = getattr(transformers, name)
    layers = {} if name.startswith("Whisper") else {"num_hidden_layers": 1, "num_layers": 1, "num_attention_heads": 4}
    with torch.device("meta"):
        model = kind(kind.config_class(**(layers | config)))
    batch = hf_batch(model)
    assert batch is not None
    assert {name: tuple(item.shape) for name, item in batch.items()} == shapes
    loss = getattr(model(**batch), "loss", None)
    assert (loss is not None and loss.shape == ()) == ("For" in name)


def test_inputs_of_another_kind() -> None:
    with torch.device("meta"):
        model = transformers.ViTForImageClassification(transformers.ViTConfig(num_hidden_layers=1))
    assert hf_batch(model, 128) is None, "an image has no length"
    assert hf_batch(torch.nn.Linear(2, 2)) is None
