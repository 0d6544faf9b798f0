"""Example inputs: the batch that the caller gave, or one derived from the model itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autopart.capture.hf_batch import hf_batch
from autopart.errors import InputsError

Batch = Mapping[str, Any] | tuple[Any, ...]


def example_inputs(model: nn.Module, inputs: object | None) -> Batch:
    """One example batch as keywords (a mapping) or positions (a tuple).

    Args:
        model: the model, possibly on `meta`.
        inputs: a mapping of keyword arguments, a tuple of positional ones, a tensor, or None to derive one: a Hugging
            Face model from its config (tokens, at most 4096 a sample; images; spectra of sound), a Lightning module
            from its `example_input_array`, a `Sequential` from its first layer.

    Raises:
        InputsError: nothing was given and nothing can be derived.
    """
    if inputs is None:
        return _derive(model)
    return as_batch(inputs)


def as_batch(inputs: object) -> Batch:
    """`inputs` as keywords or positions.

    Raises:
        InputsError: it is none of a mapping, a tuple or list, and a tensor.
    """
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if isinstance(inputs, Mapping):
        return dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs)
    raise InputsError(
        f"inputs is a {type(inputs).__name__}: pass a dict of keyword arguments, a tuple of positional ones, or a "
        "tensor"
    )


def _derive(model: nn.Module) -> Batch:
    array = getattr(model, "example_input_array", None)
    if array is not None:
        return as_batch(array)
    batch = hf_batch(model)
    if batch is not None:
        return batch
    if isinstance(model, nn.Sequential):
        return _first_layer_batch(model)
    raise InputsError(
        f"no example batch can be derived for {type(model).__name__}: pass inputs=, one batch as the model takes it "
        "(a dict of keyword arguments, a tuple, or a tensor; tensors may be on the meta device). A function that is "
        "named on the command line returns (model, batch)"
    )


def _first_layer_batch(model: nn.Sequential) -> Batch:
    for layer in model.modules():
        dtype = next((p.dtype for p in layer.parameters()), torch.float32)
        if isinstance(layer, nn.Linear | nn.Bilinear):
            width = layer.in_features if isinstance(layer, nn.Linear) else layer.in1_features
            return (torch.empty(2, width, dtype=dtype, device="meta"),)
        if isinstance(layer, nn.Embedding):
            return (torch.empty(2, 128, dtype=torch.long, device="meta"),)
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            size = {1: 1024, 2: 224, 3: 32}[len(layer.kernel_size)]
            shape = (2, layer.in_channels, *([size] * len(layer.kernel_size)))
            return (torch.empty(shape, dtype=dtype, device="meta"),)
        if isinstance(layer, nn.LayerNorm):
            return (torch.empty(2, *layer.normalized_shape, dtype=dtype, device="meta"),)
    raise InputsError(
        "no example batch can be derived: the Sequential has no Linear, Embedding, Conv or LayerNorm whose input "
        "size tells the shape: pass inputs=, one batch as the model takes it"
    )
