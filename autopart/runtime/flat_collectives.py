"""Collectives as the backend does them best: sums, and flat buffers of which every rank has one equal share.

gloo's all-gather and reduce-scatter copy what they send several times. On two processes of one machine, of 43 MB, one
broadcast a share took an eighth of the time of its all-gather, and an all-reduce a quarter of that of its
reduce-scatter, so there these are used.

gloo's all-reduce goes around a ring twice, 2 (n - 1) messages of n ranks that wait for each other. Of tensors that take
less time to send than that, every rank broadcasts its own, and adds up all of them: on two processes that share their
cores with others in half to all of the time, and on four in a third, up to 1 MiB.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
import torch.distributed as dist

from autopart.runtime.backend import backend

# Torch 2.13 has new names for these, and warns of the old ones.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor

MOST_EXCHANGED_BYTES = 2**20  # of a tensor that ranks send each other whole
MOST_EXCHANGING_RANKS = 8  # beyond, so many broadcasts wait for each other as long as a ring's messages


@dataclass(frozen=True)
class Works:
    """Collectives that are under way."""

    parts: Sequence[dist.Work]

    def wait(self) -> None:
        """Until all of them are done."""
        for part in self.parts:
            part.wait()


@dataclass(frozen=True)
class Summing:
    """A sum over ranks that is under way.

    Attributes:
        parts: what adds up to it, in order of rank; or itself.
        works: until these are done.
        combine: adds two parts.
    """

    parts: Sequence[torch.Tensor]
    works: Works
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def wait(self) -> torch.Tensor:
        """The sum, once it is there: to the last bit the same on all ranks."""
        self.works.wait()
        return reduce(self.combine, self.parts)


def begin_sum(x: torch.Tensor, group: dist.ProcessGroup | None) -> Summing:
    """Begin to sum `x` over the ranks of a group; `x` must stay as it is until then."""
    x = x.contiguous()
    if dist.get_world_size(group) == 1:
        return Summing([x], Works([]), torch.add)
    if _is_exchanged(x, group):
        return _exchange(x, group, torch.add)
    total = x.clone()
    return Summing([total], Works([dist.all_reduce(total, group=group, async_op=True)]), torch.add)


def summed(x: torch.Tensor, group: dist.ProcessGroup | None, largest: bool = False) -> torch.Tensor:
    """A new tensor with the sum of `x` over the ranks of a group, or with the `largest` of each element."""
    x = x.contiguous()
    if _is_exchanged(x, group):
        return _exchange(x, group, torch.maximum if largest else torch.add).wait()
    total = x.clone()
    dist.all_reduce(total, dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM, group=group)
    return total


def gather_shares(whole: torch.Tensor, own: torch.Tensor, group: dist.ProcessGroup | None) -> Works:
    """Begin to fill `whole` with the shares of all ranks, of which this one's is `own`, in place or not."""
    if not is_slow(group):
        return Works([all_gather(whole, own, group=group, async_op=True)])
    shares = whole.chunk(dist.get_world_size(group))
    mine = shares[dist.get_rank(group)]
    if mine.data_ptr() != own.data_ptr():
        mine.copy_(own)
    return _broadcast(shares, group)


def sum_shares(whole: torch.Tensor, group: dist.ProcessGroup | None) -> Works:
    """Begin to sum `whole` over the ranks, so that this one's share of it is right; the rest may be anything."""
    if is_slow(group):
        return Works([dist.all_reduce(whole, group=group, async_op=True)])
    own = whole.chunk(dist.get_world_size(group))[dist.get_rank(group)]
    return Works([reduce_scatter(own, whole, group=group, async_op=True)])


def is_slow(group: dist.ProcessGroup | None) -> bool:
    """Whether collectives of this group are to be made of others. Graphs of torch.compile have only plain ones."""
    return not torch.compiler.is_compiling() and backend(group) == "gloo"


def _is_exchanged(x: torch.Tensor, group: dist.ProcessGroup | None) -> bool:
    """Whether ranks had better send each other `x` whole."""
    small = is_slow(group) and x.nbytes <= MOST_EXCHANGED_BYTES
    return small and dist.get_world_size(group) <= MOST_EXCHANGING_RANKS


def _exchange(
    x: torch.Tensor, group: dist.ProcessGroup | None, combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Summing:
    own = dist.get_rank(group)
    parts = [x if rank == own else torch.empty_like(x) for rank in range(dist.get_world_size(group))]
    return Summing(parts, _broadcast(parts, group), combine)


def _broadcast(parts: Sequence[torch.Tensor], group: dist.ProcessGroup | None) -> Works:
    """Each part from the rank that has its number."""
    return Works([dist.broadcast(part, group_src=rank, group=group, async_op=True) for rank, part in enumerate(parts)])
