"""HeldTensor: the part of a whole tensor that this rank holds, and where in the whole it lies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

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

    `local` has the rank's parts one after another along the sharded dim. With a `span` it has of these, flattened, the
    elements from the first to before the second number.
    """

    shape: tuple[int, ...]
    local: torch.Tensor
    shard: Shard | None = None
    rank: int = 0
    degree: int = 1
    span: tuple[int, int] | None = None

    def boxes(self) -> tuple[Box, ...]:
        """The parts of the whole that `local` consists of."""
        found: list[Box] = []
        for box in self._local_boxes():
            if self.shard is None:
                found.append(box)
                continue
            dim, begin = self.shard.dim, 0  # of each part, among the rank's own
            first = box.offsets[dim]
            for start, stop in pieces(self.shard, self.shape[dim], self.degree, self.rank):
                low, high = max(begin, first), min(begin + stop - start, first + box.values.shape[dim])
                if low < high:
                    offsets = (*box.offsets[:dim], start + low - begin, *box.offsets[dim + 1 :])
                    found.append(Box(offsets, box.values.narrow(dim, low - first, high - low)))
                begin += stop - start
        return tuple(found)

    def box_at(self, offsets: Sequence[int]) -> Box:
        """The part that begins at `offsets` of the whole."""
        return next(box for box in self.boxes() if box.offsets == tuple(offsets))

    def like(self, local: torch.Tensor) -> "HeldTensor":
        """The same part of another tensor of this whole shape."""
        return replace(self, local=local)

    def take_from(self, whole: torch.Tensor) -> None:
        """Fill `local` with its part of `whole`, converted to its dtype and device."""
        for box in self.boxes():
            part = whole
            for dim, (start, size) in enumerate(zip(box.offsets, box.values.shape, strict=True)):
                part = part.narrow(dim, start, size)
            box.values.copy_(part)

    def _local_boxes(self) -> Iterator[Box]:
        """The parts that `local` consists of, of what the rank would have without a `span`."""
        if self.span is None:
            yield Box((0,) * len(self.shape), self.local)
            return
        shape = list(self.shape)
        if self.shard is not None:
            shape[self.shard.dim] //= self.degree
        flat, begin = self.local.view(-1), 0
        for offsets, sizes in rectangles(shape, *self.span):
            yield Box(offsets, flat.narrow(0, begin, prod(sizes)).view(sizes))
            begin += prod(sizes)


def rectangles(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The offsets and sizes of rectangular parts that are, one after another, elements `start` to `stop` of `shape`."""
    if start >= stop:
        return
    if not shape:
        yield (), ()
        return
    row = prod(shape[1:])
    whole, end = -(-start // row), stop // row  # rows that are in it from end to end
    if whole > end:  # all is in one row
        yield from _in_row(shape, end, start - end * row, stop - end * row)
        return
    if start < whole * row:
        yield from _in_row(shape, whole - 1, start - (whole - 1) * row, row)
    if whole < end:
        yield (whole, *(0,) * len(shape[1:])), (end - whole, *shape[1:])
    if end * row < stop:
        yield from _in_row(shape, end, 0, stop - end * row)


def _in_row(shape: Sequence[int], row: int, start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for offsets, sizes in rectangles(shape[1:], start, stop):
        yield (row, *offsets), (1, *sizes)
