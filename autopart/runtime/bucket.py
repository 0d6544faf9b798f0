"""Bucket: parameters that lie one after another in a flat buffer, whose gradients are summed over ranks together."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, eq=False)
class Bucket:
    """Trained parameters of one dtype, which the same stages use.

    Attributes:
        parameters: whole, or this rank's tp pieces, by their original names.
        stages: of this rank; each of them uses all the parameters.
        groups: over whose ranks gradients are summed, besides the replicas.
        tied: whether there is one parameter, which other pipeline ranks have too.
        starts: at which element of the buffer each parameter begins.
        elements: of the buffer, which the replicas can share out evenly.
    """

    parameters: Mapping[str, nn.Parameter]
    stages: tuple[int, ...]
    groups: tuple[dist.ProcessGroup, ...]
    tied: bool
    starts: Mapping[str, int]
    elements: int

    def empty(self, shares: int = 1) -> torch.Tensor:
        """A buffer for all elements, or for one of so many shares of them."""
        like = next(iter(self.parameters.values()))
        return torch.empty(self.elements // shares, dtype=like.dtype, device=like.device)

    def view(self, buffer: torch.Tensor, name: str) -> torch.Tensor:
        """A parameter's place in a buffer, in its shape."""
        parameter = self.parameters[name]
        return buffer.narrow(0, self.starts[name], parameter.numel()).view(parameter.shape)

    def share(self, buffer: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
        """The part of a buffer that `rank` of `ranks` has."""
        each = self.elements // ranks
        return buffer.narrow(0, rank * each, each)

    def span(self, name: str, rank: int, ranks: int) -> tuple[int, int]:
        """Which elements of a flattened parameter are in the share of `rank`: the first, and the one after the last."""
        each, count = self.elements // ranks, self.parameters[name].numel()
        first = rank * each - self.starts[name]
        return min(count, max(0, first)), min(count, max(0, first + each))

    def piece(self, share: torch.Tensor, name: str, rank: int, ranks: int) -> torch.Tensor:
        """What of a parameter is in the share of `rank`, in as many dims: (1, ..., 1, elements)."""
        start, stop = self.span(name, rank, ranks)
        first = self.starts[name] + start - rank * (self.elements // ranks) if start < stop else 0
        dims = max(1, self.parameters[name].dim())
        return share.narrow(0, first, stop - start).view(*(1,) * (dims - 1), stop - start)
