"""Batches of four samples: tokens with unevenly masked labels, and what the other tasks take."""

from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.zoo.small_config import CODEBOOKS, IMAGE, LENGTH, VOCAB

# Keywords of a forward: tensors with the samples first, and flags.
Batch = dict[str, Any]
SAMPLES = 4
CLASSES = 8
FIRST_TOKEN = 5  # below are the special ones


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def _ids(*shape: int) -> Tensor:
    return torch.randint(FIRST_TOKEN, VOCAB, shape, generator=_generator())


def _masked(labels: Tensor) -> Tensor:
    """`labels` (samples, length, ...) of which each sample ignores more at its beginning."""
    labels = labels.clone()
    for sample in range(SAMPLES):
        labels[sample, : 3 * sample] = -100
    return labels


def pixels() -> Tensor:
    """(samples, 3, height, width), normal."""
    return torch.randn(SAMPLES, 3, IMAGE, IMAGE, generator=_generator())


def tokens() -> Batch:
    """Each token predicts the next one."""
    ids = _ids(SAMPLES, LENGTH)
    return {"input_ids": ids, "labels": _masked(ids)}


def tokens_and_pixels() -> Batch:
    """Text about an image."""
    return {**tokens(), "pixel_values": pixels()}


def chinese() -> Batch:
    """Tokens with the shape and the sound of each."""
    batch = tokens()
    return {**batch, "input_shape_ids": batch["input_ids"], "input_pronunciation_ids": batch["input_ids"]}


def audio_codes() -> Batch:
    """Codes of several codebooks, which lie along the batch in the codes and along the last dim in the labels."""
    codes = _ids(SAMPLES, CODEBOOKS, LENGTH)
    return {"input_ids": codes.reshape(-1, LENGTH), "labels": _masked(codes.transpose(1, 2))}


def audio(bins: int, frames: int) -> Batch:
    """Spectra (samples, bins, frames) and the text they speak."""
    features = torch.randn(SAMPLES, bins, frames, generator=_generator())
    return {"input_features": features, "labels": tokens()["labels"]}


def pixels_and_class() -> Batch:
    """An image and its class, by the names of transformers."""
    return {"pixel_values": pixels(), "labels": _classes()}


def image_and_label() -> Batch:
    """An image and its class."""
    return {"image": pixels(), "label": _classes()}


def contrast() -> Batch:
    """Images and the texts that belong to them."""
    return {"input_ids": _ids(SAMPLES, LENGTH), "pixel_values": pixels(), "return_loss": True}


def noise() -> Batch:
    """Noisy images, their timesteps, and the noise in them."""
    noise = torch.randn(SAMPLES, 3, IMAGE, IMAGE, generator=_generator())
    return {"noisy": pixels().flip(0) + noise, "timestep": torch.arange(SAMPLES) * 100, "noise": noise}


def _classes() -> Tensor:
    return torch.randint(0, CLASSES, (SAMPLES,), generator=_generator())
