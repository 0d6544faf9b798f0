"""Comm: the collectives that emitted modules call, each with the conjugate that its gradient needs.

call              forward             backward
copy              -                   all-reduce
all_reduce        all-reduce          -
all_reduce_both   all-reduce          all-reduce
all_gather        all-gather          reduce-scatter
gather            all-gather          own piece
reduce_scatter    reduce-scatter      all-gather
split             own piece           all-gather
slice             own piece           zeros around it
all_to_all        all-to-all          all-to-all
once              first rank only     -
own_rows          own rows            zeros around them
all_rows          zeros around them   own rows
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F

from autopart.ir.placement import Shard, rows
from autopart.runtime.flat_collectives import all_gather, gather_shares, is_slow, reduce_scatter, summed
from autopart.runtime.grouped_mm import grouped_mm
from autopart.runtime.pieces import join, own_piece, pad_piece, stacked
from autopart.runtime.seeded import seeded
from autopart.runtime.sharded_bag import sharded_bag
from autopart.runtime.vocabulary import ShardedCrossEntropy

Parts = tuple[int, ...]
T = TypeVar("T")


class Comm:
    """The tensor-parallel group of a rank, and its part of the batch.

    Args:
        group: the process group of the tp ranks, None for one rank.
        rank: this rank's number in it.
        size: how many ranks it has.

    Attributes:
        fraction: the share that this micro-batch has of the samples of the global batch.
        first: how many samples of the global batch stand before it.
        totals: what is counted and summed over the global batch before a step.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, rank: int = 0, size: int = 1) -> None:
        self.group, self.rank, self.size = group, rank, size
        self.fraction: float | torch.Tensor = 1.0
        self.first = 0
        self.totals: list[torch.Tensor] = []

    def share(self, mean: torch.Tensor) -> torch.Tensor:
        """This micro-batch's part of a mean over the global batch; the parts of all add up to it."""
        return mean * self.fraction

    def count(self, index: int) -> torch.Tensor:
        """How many targets of the whole global batch the loss number `index` counts."""
        return self.totals[index]

    def samples(self, count: int) -> int:
        """How many samples the global batch has, of which this micro-batch has `count`."""
        return round(count / float(self.fraction))

    def total(self, index: int) -> torch.Tensor:
        """The sum number `index` over the whole global batch, of something that the model's inputs decide."""
        return self.totals[index]

    def copy(self, x: torch.Tensor) -> torch.Tensor:
        """Every rank uses `x` for its part of the work: the gradients are summed (Megatron-LM's f)."""
        return _applied(_Copy, x, self)

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of the ranks' partial `x` (Megatron-LM's g)."""
        return _applied(_AllReduce, x, self, False)

    def all_reduce_both(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of partial values, for a use whose gradients are partial too."""
        return _applied(_AllReduce, x, self, True)

    def all_gather(self, x: torch.Tensor, dim: int, parts: Parts = (1,)) -> torch.Tensor:
        """The whole of a sharded `x`, for a use whose gradients are partial."""
        return _applied(_Gather, x, self, Shard(dim, parts), True)

    def gather(self, x: torch.Tensor, dim: int, parts: Parts = (1,)) -> torch.Tensor:
        """The whole of a sharded `x`, for a use that is the same on every rank."""
        return _applied(_Gather, x, self, Shard(dim, parts), False)

    def reduce_scatter(self, x: torch.Tensor, dim: int, parts: Parts = (1,)) -> torch.Tensor:
        """This rank's piece of the sum of partial `x`."""
        return _applied(_ReduceScatter, x, self, Shard(dim, parts))

    def split(self, x: torch.Tensor, dim: int, parts: Parts = (1,)) -> torch.Tensor:
        """This rank's piece of an `x` that is whole on every rank, its gradient too."""
        return _applied(_Split, x, self, Shard(dim, parts), True)

    def slice(self, x: torch.Tensor, dim: int, parts: Parts = (1,)) -> torch.Tensor:
        """This rank's piece of an `x` whose gradient may stay partial, or that has none."""
        return _applied(_Split, x, self, Shard(dim, parts), False)

    def all_to_all(
        self, x: torch.Tensor, from_dim: int, to_dim: int, from_parts: Parts = (1,), to_parts: Parts = (1,)
    ) -> torch.Tensor:
        """`x` sharded along another dim."""
        return _applied(_AllToAll, x, self, Shard(from_dim, from_parts), Shard(to_dim, to_parts))

    def once(self, x: torch.Tensor) -> torch.Tensor:
        """`x` on the first rank and zeros on the others: added to partial sums, it is added once."""
        return _applied(_Once, x, self)

    def own_rows(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """The rows of this rank's groups. `ends`: (groups,), where each group of rows ends; its gradient is partial."""
        start, stop = self._own_rows(ends)
        return x[start:stop]

    def all_rows(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """This rank's rows, and zeros for those of all other groups: a partial sum."""
        start, _ = self._own_rows(ends)
        after = int(ends[-1]) - start - x.shape[0]
        return F.pad(x, (0, 0) * (x.dim() - 1) + (start, after))

    def grouped_mm(self, x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """Rows times the matrices of their groups: of all groups, or of those that this rank has its share of.

        `ends`: (groups,), where each of all groups ends.
        """
        share = weight.shape[0] if weight.dim() == 3 else ends.shape[0]
        if share == ends.shape[0]:
            return grouped_mm(x, weight, ends)
        start, _ = self._own_rows(ends)
        return grouped_mm(x, weight, ends[self.rank * share : (self.rank + 1) * share] - start)

    def without_autocast(self, compute: Callable[[], T]) -> T:
        """What `compute` gives with `torch.autocast` off, as the model has it there."""
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):
                    return compute()
        return compute()

    def _own_rows(self, ends: torch.Tensor) -> tuple[int, int]:
        share = ends.shape[0] // self.size
        first = self.rank * share
        return int(ends[first - 1]) if first else 0, int(ends[first + share - 1])

    def embedding(self, indices: torch.Tensor, weight: torch.Tensor, padding_idx: int | None = None) -> torch.Tensor:
        """A lookup in rows of which this rank holds its piece: zeros for the others, so the result is a partial sum."""
        first = self.rank * weight.shape[0]
        outside = (indices < first) | (indices >= first + weight.shape[0])
        local = (indices - first).masked_fill(outside, 0)
        padding = None if padding_idx is None else (padding_idx - first)
        held = padding is not None and 0 <= padding < weight.shape[0]
        return F.embedding(local, weight, padding if held else None).masked_fill(outside.unsqueeze(-1), 0)

    def embedding_bag(
        self,
        indices: torch.Tensor,
        weight: torch.Tensor,
        offsets: torch.Tensor,
        mode: str = "mean",
        per_sample_weights: torch.Tensor | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> torch.Tensor:
        """The same of sums or means of rows, whose bags begin at `offsets`."""
        first = self.rank * weight.shape[0]
        return sharded_bag(indices, weight, offsets, first, mode, per_sample_weights, include_last_offset, padding_idx)

    def cross_entropy(
        self, logits: torch.Tensor, targets: torch.Tensor, reduction: str = "mean", ignore_index: int = -100
    ) -> torch.Tensor:
        """Cross-entropy over classes of which this rank holds its piece (Shoeybi et al. 2019, section 3)."""
        if torch.is_autocast_enabled(logits.device.type):
            logits = logits.float()  # as autocast does for the whole one
        losses = _applied(ShardedCrossEntropy, logits, targets, self, ignore_index)
        if reduction == "none":
            return losses
        total = losses.sum()
        return total if reduction == "sum" else total / (targets != ignore_index).sum()

    def sharded_random(self, function: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call a random function with numbers that differ from rank to rank, the common generator staying common."""
        seed = int(torch.randint(2**62, ()))
        device = next(arg.device for arg in args if isinstance(arg, torch.Tensor))
        with seeded(seed + self.rank, device):
            return function(*args, **kwargs)


def _applied(function: type[torch.autograd.Function], *args: Any) -> torch.Tensor:
    result: torch.Tensor = function.apply(*args)
    return result


def all_reduced(x: torch.Tensor, comm: Comm) -> torch.Tensor:
    """A new tensor with the sum over the ranks."""
    return summed(x, comm.group)


def all_gathered(x: torch.Tensor, comm: Comm, shard: Shard) -> torch.Tensor:
    """The whole tensor of the ranks' pieces."""
    x = x.contiguous()
    shape = (*x.shape[: shard.dim], x.shape[shard.dim] * comm.size, *x.shape[shard.dim + 1 :])
    if count := rows(shard, shape, x.element_size()):
        whole = x.new_empty(shape)
        for row, piece in zip(whole.view(count, -1), x.view(count, -1), strict=True):
            _gather(row, piece, comm)
        return whole
    pieces = x.new_empty((comm.size, *x.shape))
    _gather(pieces.view(-1), x.view(-1), comm)
    return join(pieces.unbind(), shard)


def _gather(whole: torch.Tensor, own: torch.Tensor, comm: Comm) -> None:
    if is_slow(comm.group):
        gather_shares(whole, own, comm.group).wait()
    else:
        all_gather(whole, own, group=comm.group)


def reduce_scattered(x: torch.Tensor, comm: Comm, shard: Shard) -> torch.Tensor:
    """This rank's piece of the sum."""
    if is_slow(comm.group):
        return own_piece(summed(x, comm.group), shard, comm.rank, comm.size)
    shape = (*x.shape[: shard.dim], x.shape[shard.dim] // comm.size, *x.shape[shard.dim + 1 :])
    result = x.new_empty(shape)
    if count := rows(shard, x.shape, x.element_size()):
        for piece, row in zip(result.view(count, -1), x.contiguous().view(count, -1), strict=True):
            reduce_scatter(piece, row, group=comm.group)
        return result
    reduce_scatter(result.view(-1), stacked(x, shard, comm.size).view(-1), group=comm.group)
    return result


class _Copy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm) -> torch.Tensor:
        ctx.comm = comm
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return all_reduced(gradient, ctx.comm), None


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm, both: bool) -> torch.Tensor:
        ctx.comm, ctx.both = comm, both
        return all_reduced(x, comm)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return all_reduced(gradient, ctx.comm) if ctx.both else gradient, None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm, shard: Shard, partial: bool) -> torch.Tensor:
        ctx.comm, ctx.shard, ctx.partial = comm, shard, partial
        return all_gathered(x, comm, shard)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        if ctx.partial:
            return reduce_scattered(gradient, ctx.comm, ctx.shard), None, None, None
        return own_piece(gradient, ctx.shard, ctx.comm.rank, ctx.comm.size), None, None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm, shard: Shard) -> torch.Tensor:
        ctx.comm, ctx.shard = comm, shard
        return reduce_scattered(x, comm, shard)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return all_gathered(gradient, ctx.comm, ctx.shard), None, None


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm, shard: Shard, gathers: bool) -> torch.Tensor:
        ctx.comm, ctx.shard, ctx.gathers, ctx.whole = comm, shard, gathers, x.shape
        return own_piece(x, shard, comm.rank, comm.size)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        if ctx.gathers:
            return all_gathered(gradient, ctx.comm, ctx.shard), None, None, None
        return pad_piece(gradient, ctx.whole, ctx.shard, ctx.comm.rank, ctx.comm.size), None, None, None


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm, source: Shard, target: Shard) -> torch.Tensor:
        ctx.comm, ctx.source, ctx.target = comm, source, target
        return _exchanged(x, comm, source, target)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return _exchanged(gradient, ctx.comm, ctx.target, ctx.source), None, None, None


def _exchanged(x: torch.Tensor, comm: Comm, source: Shard, target: Shard) -> torch.Tensor:
    outgoing = stacked(x, target, comm.size)
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming.view(-1), outgoing.view(-1), group=comm.group)
    return join(incoming.unbind(), source)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, comm: Comm) -> torch.Tensor:
        return x.view_as(x) if comm.rank == 0 else torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        return gradient, None
