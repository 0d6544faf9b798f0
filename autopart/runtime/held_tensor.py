"""HeldTensor: the part of a whole tensor that this rank holds, and where in the whole it lies."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autopart.ir.placement import Shard, pieces


@dataclass(frozen=True)
class Box:
    """A rectangular part of a whole tensor: where it begins there, and its elements, a view of what the rank holds."""

    offsets: tuple[int, ...]
    values: torch.Tensor


@dataclass(frozen=True, eq=False)
class HeldTensor:
    """What `rank` of `degree` holds of a tensor of the whole `shape`: all of it, or its share of each part of `shard`.

    `local` has the rank's parts one after another along the sharded dim.
    """

    shape: tuple[int, ...]
    local: torch.Tensor
    shard: Shard | None = None
    rank: int = 0
    degree: int = 1

    def boxes(self) -> tuple[Box, ...]:
        """The parts of the whole that `local` consists of."""
        if self.shard is None:
            return (Box((0,) * len(self.shape), self.local),)
        dim, offset, found = self.shard.dim, 0, []
        for start, stop in pieces(self.shard, self.shape[dim], self.degree, self.rank):
            offsets = tuple(start if at == dim else 0 for at in range(len(self.shape)))
            found.append(Box(offsets, self.local.narrow(dim, offset, stop - start)))
            offset += stop - start
        return tuple(found)

    def box_at(self, offsets: Sequence[int]) -> Box:
        """The part that begins at `offsets` of the whole."""
        return next(box for box in self.boxes() if box.offsets == tuple(offsets))

    def like(self, local: torch.Tensor) -> "HeldTensor":
        """The same part of another tensor of this whole shape."""
        return HeldTensor(self.shape, local, self.shard, self.rank, self.degree)

    def take_from(self, whole: torch.Tensor) -> None:
        """Fill `local` with its part of `whole`, converted to its dtype and device."""
        for box in self.boxes():
            part = whole
            for dim, (start, size) in enumerate(zip(box.offsets, box.values.shape, strict=True)):
                part = part.narrow(dim, start, size)
            box.values.copy_(part)
