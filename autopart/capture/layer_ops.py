"""Layer operators: marks in an exported program that say where a layer begins, ends, and is repeated.

They compute nothing and never run: the translator puts the nodes of a layer in their place.
"""

from collections.abc import Sequence

import torch

NAMESPACE = "autopart"


def _like(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """New tensors that look like `tensors`, strides included: later views depend on them."""
    return [tensor.new_empty_strided(tensor.shape, tensor.stride()) for tensor in tensors]


@torch.library.custom_op(f"{NAMESPACE}::enter_layer", mutates_args=())
def enter_layer() -> torch.Tensor:
    """The nodes of a layer follow, up to the `leave_layer` that takes the result."""
    return torch.empty(0)


@torch.library.custom_op(f"{NAMESPACE}::take_tensor", mutates_args=())
def take_tensor(tensor: torch.Tensor) -> torch.Tensor:
    """The layer is about to take `tensor` from outside. Noted before, as an operator may hand it on as its result."""
    return torch.empty(0)


@torch.library.custom_op(f"{NAMESPACE}::leave_layer", mutates_args=())
def leave_layer(
    entered: torch.Tensor, taken: Sequence[torch.Tensor], results: Sequence[torch.Tensor], path: str
) -> list[torch.Tensor]:
    """The layer at `path` is complete: it took what the marks `taken` name, in this order, and made `results`."""
    return _like(results)


@torch.library.custom_op(f"{NAMESPACE}::repeat_layer", mutates_args=())
def repeat_layer(
    first: Sequence[torch.Tensor], outside: Sequence[torch.Tensor], weights: str, path: str
) -> list[torch.Tensor]:
    """The layer at `path` does with `outside` what another did with what it took; its `leave_layer` gave `first`.

    `weights` has a line for each tensor that it takes: empty, or the name of a hidden one, which is not in `outside`.
    """
    return _like(first)


@enter_layer.register_fake
def _() -> torch.Tensor:
    return torch.empty(0)


@take_tensor.register_fake
def _(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(0)


@leave_layer.register_fake
def _(
    entered: torch.Tensor, taken: Sequence[torch.Tensor], results: Sequence[torch.Tensor], path: str
) -> list[torch.Tensor]:
    return _like(results)


@repeat_layer.register_fake
def _(first: Sequence[torch.Tensor], outside: Sequence[torch.Tensor], weights: str, path: str) -> list[torch.Tensor]:
    return _like(first)
