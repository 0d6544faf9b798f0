"""Pieces: cutting a tensor as a shard says, and putting it together again."""

from collections.abc import Sequence

import torch

from autopart.ir.placement import Shard, part_sizes, pieces


def own_piece(x: torch.Tensor, shard: Shard, rank: int, degree: int) -> torch.Tensor:
    """What `rank` of `degree` holds of a whole `x`; contiguous, and never a view of `x`."""
    slices = pieces(shard, x.shape[shard.dim], degree, rank)
    parts = [x.narrow(shard.dim, start, stop - start) for start, stop in slices]
    return torch.cat(parts, shard.dim) if len(parts) > 1 else parts[0].clone(memory_format=torch.contiguous_format)


def pad_piece(x: torch.Tensor, whole: Sequence[int], shard: Shard, rank: int, degree: int) -> torch.Tensor:
    """A tensor of shape `whole`, zero but for the piece `x` of `rank`."""
    result = x.new_zeros(tuple(whole))
    offset = 0
    for start, stop in pieces(shard, whole[shard.dim], degree, rank):
        result.narrow(shard.dim, start, stop - start).copy_(x.narrow(shard.dim, offset, stop - start))
        offset += stop - start
    return result


def stacked(x: torch.Tensor, shard: Shard, degree: int) -> torch.Tensor:
    """The pieces of all ranks of a whole `x`, one after another as collectives send them."""
    local = x.shape[shard.dim] // degree
    result = x.new_empty((degree, *x.shape[: shard.dim], local, *x.shape[shard.dim + 1 :]))
    for rank in range(degree):
        slices = pieces(shard, x.shape[shard.dim], degree, rank)
        torch.cat([x.narrow(shard.dim, start, stop - start) for start, stop in slices], shard.dim, out=result[rank])
    return result


def join(shards: Sequence[torch.Tensor], shard: Shard) -> torch.Tensor:
    """The whole tensor of the pieces of all ranks, in order of rank."""
    if shard.parts == (1,):
        return torch.cat(list(shards), shard.dim)
    shares = part_sizes(shards[0].shape[shard.dim], shard.parts)
    if shares is None:
        raise ValueError(f"pieces of {shards[0].shape[shard.dim]} along dim {shard.dim} do not fall into {shard.parts}")
    cut = [piece.split(shares, shard.dim) for piece in shards]
    return torch.cat([own[part] for part in range(len(shares)) for own in cut], shard.dim)
