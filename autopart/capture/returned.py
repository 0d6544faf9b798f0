"""Returned: what a model returns, taken apart into its tensors, and put together again around others."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from autopart.capture.with_loss import own_loss
from autopart.errors import CaptureError

Rebuild = Callable[[Sequence[torch.Tensor]], Any]


class Returned:
    """Takes the place of a loss while a model is captured: all tensors in its output leave the graph.

    Mappings, tuples, lists and dataclasses are looked into, whatever they hold; what is no tensor is kept as it was.
    """

    def __init__(self) -> None:
        self._rebuild: Rebuild | None = None
        self._loss: int | None = None

    def __call__(self, output: Any, batch: Any) -> tuple[torch.Tensor, ...]:
        """The tensors of `output`.

        Raises:
            CaptureError: there are none, or a number in it depends on the batch size.
        """
        tensors, self._rebuild = _apart(output)
        if not tensors:
            raise CaptureError(f"the model returns a {type(output).__name__} with no tensor in it")
        loss = own_loss(output)
        self._loss = next((place for place, tensor in enumerate(tensors) if tensor is loss), None)
        return tuple(tensors)

    @property
    def loss(self) -> int | None:
        """Which of the tensors is the model's loss; None where none is."""
        return self._loss

    def rebuild(self, tensors: Sequence[torch.Tensor]) -> Any:
        """The output with `tensors` in place of those that it had."""
        if self._rebuild is None:
            raise CaptureError("nothing has been returned yet: capture a model first")
        return self._rebuild(tensors)


def _apart(output: Any) -> tuple[list[torch.Tensor], Rebuild]:
    """The tensors of a nest of containers, and the way back."""
    if isinstance(output, torch.Tensor):
        return [output], lambda tensors: tensors[0]
    if isinstance(output, torch.SymInt | torch.SymFloat):
        raise CaptureError(
            "the model returns a number that depends on the batch size: return a tensor, or leave it out"
        )
    if pytree.tree_is_leaf(output):
        if is_dataclass(output) and not isinstance(output, type):  # one that torch was not told of
            names = [item.name for item in fields(output)]
            tensors, inner = _apart([getattr(output, name) for name in names])
            return tensors, lambda given: _with_fields(output, names, inner(given))
        return [], lambda tensors: output
    children, structure = pytree.tree_flatten(output, is_leaf=lambda item: item is not output)
    parts = [_apart(child) for child in children]
    counts = [len(tensors) for tensors, _ in parts]

    def together(given: Sequence[torch.Tensor]) -> Any:
        left = list(given)
        built = []
        for count, (_, inner) in zip(counts, parts, strict=True):
            built.append(inner(left[:count]))
            left = left[count:]
        return pytree.tree_unflatten(built, structure)

    return [tensor for tensors, _ in parts for tensor in tensors], together


def _with_fields(like: Any, names: Sequence[str], values: Sequence[Any]) -> Any:
    result = copy.copy(like)
    for name, value in zip(names, values, strict=True):
        object.__setattr__(result, name, value)  # it may be frozen
    return result
