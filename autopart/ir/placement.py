"""Placement: how one tensor lies on the ranks of a mesh axis. Layout: the placements of a value and of its gradient."""

import re
from dataclasses import dataclass
from math import gcd, prod

from autopart.ir.size import Size

# Reading and writing this much takes a device about as long as it takes to start one more collective.
LEAST_ROW_BYTES = 16 * 2**20
_SHARD = re.compile(r"S\((?P<dim>\d+)(@(?P<by>\w+))?(,(?P<parts>[1-9]\d*(:[1-9]\d*)*))?\)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Replicate:
    """Every rank holds the whole tensor."""

    def __str__(self) -> str:
        return "R"


@dataclass(frozen=True, slots=True)
class Partial:
    """Every rank holds a tensor of the whole shape; the sum over the ranks is the value."""

    def __str__(self) -> str:
        return "P"


@dataclass(frozen=True, slots=True)
class Shard:
    """`dim` is cut into consecutive pieces in the ratio `parts`, and each rank holds its equal share of every piece.

    `(1,)` is the usual contiguous shard. GPT-2's fused qkv has parts (1, 1, 1): a rank needs its heads of q, of k
    and of v. Unequal pieces (32 query heads beside 8 and 8) have parts (4, 1, 1).

    With `by`, the name of a value, the pieces are unequal and known only when the model runs: `dim` holds groups of
    rows, one group after another, `by` says where each of them ends, and a rank holds the rows of its share of them.
    """

    dim: int
    parts: tuple[int, ...] = (1,)
    by: str | None = None

    def __str__(self) -> str:
        by = f"@{self.by}" if self.by else ""
        return f"S({self.dim}{by})" if self.parts == (1,) else f"S({self.dim}{by},{':'.join(map(str, self.parts))})"


Placement = Replicate | Partial | Shard


@dataclass(frozen=True, slots=True)
class Layout:
    """The placement of a value in the forward pass and of its gradient in the backward pass.

    Four kinds occur: R|R, R|P (the input of a sharded op), P|R (the output of a contraction) and S|S.
    """

    value: Placement
    gradient: Placement

    def __str__(self) -> str:
        return f"{self.value}|{self.gradient}"

    @property
    def shard(self) -> Shard | None:
        """The shard of the value, or None where every rank holds a tensor of the whole shape."""
        return self.value if isinstance(self.value, Shard) else None


REPLICATED = Layout(Replicate(), Replicate())
PARTIAL_GRADIENT = Layout(Replicate(), Partial())
PARTIAL_VALUE = Layout(Partial(), Replicate())


def sharded(dim: int, parts: tuple[int, ...] = (1,)) -> Layout:
    """The layout of a tensor whose `dim`, and whose gradient's `dim`, is sharded."""
    shard = Shard(dim, normalized(parts))
    return Layout(shard, shard)


def normalized(parts: tuple[int, ...]) -> tuple[int, ...]:
    """The ratio `parts` in lowest terms: (64, 16, 16) -> (4, 1, 1)."""
    divisor = gcd(*parts)
    return tuple(part // divisor for part in parts)


def part_sizes(size: int, parts: tuple[int, ...]) -> tuple[int, ...] | None:
    """The sizes of the pieces of a dim of `size`, or None where the ratio does not divide it."""
    total = sum(parts)
    if any(size * part % total for part in parts):
        return None
    return tuple(size * part // total for part in parts)


def divides(shard: Shard, shape: tuple[Size, ...], degree: int) -> bool:
    """Whether `degree` ranks can share every piece of a tensor of `shape` equally; a symbolic size they cannot.

    Groups of rows need not be equal.
    """
    if shard.by is not None:
        return True
    size = shape[shard.dim]
    if not isinstance(size, int):
        return False
    sizes = part_sizes(size, shard.parts)
    return sizes is not None and all(piece % degree == 0 for piece in sizes)


def local_shape(shape: tuple[Size, ...], layout: Layout, degree: int) -> tuple[Size, ...]:
    """The shape that one of `degree` ranks holds of a tensor of `shape`; of groups of rows, on average."""
    shard = layout.shard
    if shard is None or degree == 1:
        return shape
    return tuple(_local_size(size, shard, degree) if dim == shard.dim else size for dim, size in enumerate(shape))


def _local_size(size: Size, shard: Shard, degree: int) -> Size:
    if isinstance(size, int):
        return size // degree
    return size / degree if shard.by is not None else size


def rows(shard: Shard, shape: tuple[int, ...], element_bytes: int) -> int:
    """How many collectives gather or scatter a tensor of `shape` where it lies: one for each row, a row being what the
    dims before the sharded one leave.

    0 where there are several rows and they are small, or the shard has parts: one collective on a copy is faster then.
    """
    count = prod(shape[: shard.dim])
    large = count * LEAST_ROW_BYTES <= prod(shape) * element_bytes
    return count if len(shard.parts) == 1 and (count == 1 or large) else 0


def pieces(shard: Shard, size: int, degree: int, rank: int) -> tuple[tuple[int, int], ...]:
    """The (start, stop) slices of a dim of `size` that `rank` of `degree` holds, in order."""
    sizes = part_sizes(size, shard.parts) or (size,)
    slices, offset = [], 0
    for piece in sizes:
        share = piece // degree
        slices.append((offset + rank * share, offset + (rank + 1) * share))
        offset += piece
    return tuple(slices)


def parse_layout(text: str) -> Layout:
    """The layout that prints as `text` ("S(2,1:1:1)|S(2,1:1:1)").

    Raises:
        ValueError: no layout prints so.
    """
    value, separator, gradient = text.partition("|")
    if not separator:
        raise ValueError(f"{text!r} is not a layout, which is two placements, as in 'R|P'")
    return Layout(parse_placement(value), parse_placement(gradient))


def parse_placement(text: str) -> Placement:
    """The placement that prints as `text` ("S(2,1:1:1)").

    Raises:
        ValueError: no placement prints so.
    """
    if text == "R":
        return Replicate()
    if text == "P":
        return Partial()
    match = _SHARD.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a placement, which is R, P, S(dim), S(dim,part:part:...) or S(dim@value)")
    parts = tuple(int(part) for part in match["parts"].split(":")) if match["parts"] else (1,)
    return Shard(int(match["dim"]), parts, match["by"])
