"""A batch as a model of transformers takes it: its shapes read off the model's config, its tensors on `meta`."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

LONGEST = 4096  # tokens of a derived sample, where the config allows more
_SAMPLES = 2
# The heads that give one class a sample, as transformers ends the names of their models.
_ONE_LABEL = ("ForSequenceClassification", "ForImageClassification", "ForAudioClassification")


def hf_batch(model: nn.Module, sequence_length: int | None = None) -> dict[str, Tensor] | None:
    """Tokens, an image or a spectrum for each of two samples, and labels if the forward takes them.

    Args:
        model: a module with a `config` whose fields have the names that transformers gives them.
        sequence_length: tokens a sample. Left out: as many as the model has positions for, at most 4096.

    Returns:
        Keyword arguments of the forward, or None where its inputs are of another kind.
    """
    config: Any = getattr(model, "config", None)
    takes = inspect.signature(model.forward).parameters
    one_label = type(model).__name__.endswith(_ONE_LABEL)
    if "input_ids" in takes and hasattr(config, "vocab_size"):
        length = sequence_length or _positions(config, "max_position_embeddings", "n_positions")
        # Tensors of their own: one that is passed twice would be captured as one input.
        batch = {"input_ids": _whole_numbers(length)}
        if "labels" in takes:
            batch["labels"] = _whole_numbers() if one_label else _whole_numbers(length)
        elif "decoder_input_ids" in takes:
            batch["decoder_input_ids"] = _whole_numbers(length)
        ends = [name for name in ("start_positions", "end_positions") if name in takes]
        return batch | {name: _whole_numbers() for name in ends}
    if sequence_length is None and "pixel_values" in takes and hasattr(config, "image_size"):
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        batch = {"pixel_values": _numbers(model, getattr(config, "num_channels", 3), height, width)}
        return batch | ({"labels": _whole_numbers()} if "labels" in takes and one_label else {})
    if "input_features" in takes and hasattr(config, "num_mel_bins") and hasattr(config, "max_source_positions"):
        frames = 2 * config.max_source_positions  # the encoder's second convolution halves them
        batch = {"input_features": _numbers(model, config.num_mel_bins, frames)}
        length = sequence_length or _positions(config, "max_target_positions")
        text = next((name for name in ("labels", "decoder_input_ids") if name in takes), None)
        return batch | ({text: _whole_numbers() if one_label else _whole_numbers(length)} if text else {})
    return None


def _positions(config: Any, *fields: str) -> int:
    """How many the first of `fields` that is there and not zero says, at most `LONGEST`."""
    found = (getattr(config, field, None) for field in fields)
    return min(int(next(filter(None, found), LONGEST)), LONGEST)


def _whole_numbers(*shape: int) -> Tensor:
    return torch.empty(_SAMPLES, *shape, dtype=torch.long, device="meta")


def _numbers(model: nn.Module, *shape: int) -> Tensor:
    dtype = next((own.dtype for own in model.parameters() if own.is_floating_point()), torch.get_default_dtype())
    return torch.empty(_SAMPLES, *shape, dtype=dtype, device="meta")
