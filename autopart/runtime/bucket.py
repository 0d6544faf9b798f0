"""Bucket: parameters that lie one after another in a flat buffer, and are summed or gathered over ranks together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, eq=False)
class Bucket:
    """Parameters of one dtype, which the same stages use.

    Attributes:
        parameters: whole, or this rank's tp pieces, by their original names.
        shapes: theirs; under ZeRO-3 a parameter is empty while it is not needed.
        dtype: of what the optimizer updates, and of sums of gradients.
        trained: whether they get gradients.
        stages: of this rank; each of them uses all the parameters.
        groups: over whose ranks gradients are summed, besides the replicas.
        tied: whether there is one parameter, which other pipeline ranks have too.
        starts: at which element of the buffer each parameter begins.
        elements: of the buffer, which the replicas can share out evenly.
    """

    parameters: Mapping[str, nn.Parameter]
    shapes: Mapping[str, torch.Size]
    dtype: torch.dtype
    trained: bool
    stages: tuple[int, ...]
    groups: tuple[dist.ProcessGroup, ...]
    tied: bool
    starts: Mapping[str, int]
    elements: int

    @property
    def computed(self) -> torch.dtype:
        """The dtype of the parameters as they are computed with."""
        return next(iter(self.parameters.values())).dtype

    def empty(self, shares: int = 1, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A buffer for all elements, or for one of so many shares of them."""
        device = next(iter(self.parameters.values())).device
        return torch.empty(self.elements // shares, dtype=dtype or self.dtype, device=device)

    def view(self, buffer: torch.Tensor, name: str) -> torch.Tensor:
        """A parameter's place in a buffer, in its shape."""
        shape = self.shapes[name]
        return buffer.narrow(0, self.starts[name], shape.numel()).view(shape)

    def share(self, buffer: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
        """The part of a buffer that `rank` of `ranks` has."""
        each = self.elements // ranks
        return buffer.narrow(0, rank * each, each)

    def span(self, name: str, rank: int, ranks: int) -> tuple[int, int]:
        """Which elements of a flattened parameter are in the share of `rank`: the first, and the one after the last."""
        each, count = self.elements // ranks, self.shapes[name].numel()
        first = rank * each - self.starts[name]
        return min(count, max(0, first)), min(count, max(0, first + each))

    def piece(self, share: torch.Tensor, name: str, rank: int, ranks: int) -> torch.Tensor:
        """What of a parameter is in the share of `rank`: (1, ..., 1, elements) in as many dims; () or (0,) of none."""
        start, stop = self.span(name, rank, ranks)
        first = self.starts[name] + start - rank * (self.elements // ranks) if start < stop else 0
        found = share.narrow(0, first, stop - start)
        dims = len(self.shapes[name])
        return found.view(*(1,) * (dims - 1), stop - start) if dims or start == stop else found.view(())
