"""Example: a batch as export takes it, tensors by name with the batch size free, and the way back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from autopart.capture.example_inputs import Batch
from autopart.errors import InputsError

# Export treats sizes 0 and 1 as special, so the example batch is enlarged; the number itself leaves no trace.
EXPORT_BATCH = 4


@dataclass(frozen=True)
class Example:
    """The tensors of a batch by name: what to export with, which of their dims are free, and the way back.

    Attributes:
        most_rows: how many rows a sample has of the tensor of which it has most.
    """

    names: list[str]
    tensors: tuple[torch.Tensor, ...]
    dims: tuple[dict[int, Any], ...]
    batch_size: int
    rebuild: Callable[..., Batch]
    most_rows: int = 1

    @property
    def repeats(self) -> bool:
        """Whether some tensors have several rows a sample."""
        return self.most_rows > 1


def example_of(model: nn.Module, batch: Batch, repeats: bool = False) -> Example:
    """The example to export `model` with: on its device, at `EXPORT_BATCH` samples.

    Args:
        model: its device counts.
        batch: its first tensor tells the number of samples, and others of as many rows have them too.
        repeats: the smallest number of rows tells the number of samples; a tensor whose rows are a multiple of it has
            several a sample, lying together (the codebooks of a sound).

    Raises:
        InputsError: the batch holds no tensor with a batch dim, or something neither a tensor nor a plain value.
    """
    names, tensors, rebuild = _flatten(batch)
    batch_size = tensors[0].shape[0] if tensors[0].ndim else 0
    if not batch_size:
        raise InputsError(
            f"the first tensor of the batch, {names[0]!r}, has no batch dim: its shape is {tuple(tensors[0].shape)}"
        )
    if repeats:
        batch_size = min(tensor.shape[0] for tensor in tensors if tensor.ndim and tensor.shape[0])
    rows = [_rows(tensor, batch_size, repeats) for tensor in tensors]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    examples = tuple(
        torch.zeros(
            (count * EXPORT_BATCH, *tensor.shape[1:]) if count else tensor.shape, dtype=tensor.dtype, device=device
        )
        for tensor, count in zip(tensors, rows, strict=True)
    )
    samples = Dim("samples")
    most_rows = max(rows, default=1)
    free = {count: (samples if count == 1 else count * samples) if most_rows > 1 else Dim.AUTO for count in {*rows}}
    dims = tuple({0: free[count]} if count else {} for count in rows)
    return Example(names, examples, dims, batch_size, rebuild, max(1, most_rows))


def _rows(tensor: torch.Tensor, batch_size: int, repeats: bool) -> int:
    """How many rows of `tensor` each sample has; 0 where it has no samples."""
    size = tensor.shape[0] if tensor.ndim else 0
    if repeats:
        return size // batch_size if size % batch_size == 0 else 0
    return int(size == batch_size)


def _flatten(batch: Batch) -> tuple[list[str], list[torch.Tensor], Callable[..., Batch]]:
    """The names and tensors of a batch, and the function that puts them back among its plain values."""
    items = list(batch.items()) if isinstance(batch, Mapping) else [(str(i), item) for i, item in enumerate(batch)]
    tensors = {name: item for name, item in items if isinstance(item, torch.Tensor)}
    plain = {name: item for name, item in items if name not in tensors}
    for name, item in plain.items():
        if not isinstance(item, bool | int | float | str | None):
            raise InputsError(f"batch item {name!r} is a {type(item).__name__}: tensors and plain values are supported")
    if not tensors:
        raise InputsError("the example batch holds no tensor")

    def rebuild(values: tuple[torch.Tensor, ...]) -> Batch:
        known = {**plain, **dict(zip(tensors, values, strict=True))}
        ordered = {name: known[name] for name, _ in items}
        return ordered if isinstance(batch, Mapping) else tuple(ordered.values())

    return list(tensors), list(tensors.values()), rebuild
