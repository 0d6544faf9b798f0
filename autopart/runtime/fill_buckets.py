"""fill_buckets: which parameters of a rank are summed and gathered together, over whom, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from autopart.ir.placement import Partial
from autopart.runtime.bucket import Bucket
from autopart.runtime.executor import RankStage
from autopart.runtime.mesh import Mesh
from autopart.runtime.unsharder import blocks_of
from autopart.runtime.weights import built_with

MOST_BYTES = 25 * 2**20  # the size that DDP found best
LEAST_BYTES = 2**20  # the size of DDP's first bucket: to begin a sum takes as long as to sum so many
BUCKETS = 8  # at least, where they are not smaller than that: nothing computes beside the sum of the last one
ALIGNED_BYTES = 128  # where a parameter may begin: kernels read lines of so many


@dataclass(frozen=True)
class _Member:
    """A parameter that is to be put into a bucket; a tied one gets a bucket of its own.

    `dtype` is that of its gradient; `block` is the one that it belongs to, where buckets are `by_block`.
    """

    name: str
    parameter: nn.Parameter
    dtype: torch.dtype
    stages: tuple[int, ...]
    groups: tuple[dist.ProcessGroup, ...]
    tied: bool
    block: tuple[int, int] | None

    @property
    def nbytes(self) -> int:
        """Of its gradient."""
        return self.parameter.numel() * self.dtype.itemsize


def fill_buckets(
    stages: Mapping[int, RankStage],
    named: Mapping[str, nn.Parameter],
    ties: Mapping[str, dist.ProcessGroup],
    mesh: Mesh,
    order: Sequence[str],
    by_block: bool = False,
) -> tuple[Bucket, ...]:
    """Buckets of about 25 MiB, or of an eighth of everything where that is less, in the order in which they are summed.

    Replicas get the same; a bucket that nothing is summed of is left out.

    Args:
        stages: this rank's.
        named: their parameters.
        ties: the groups of those that other pipeline ranks have too.
        mesh: where this rank stands.
        order: all names of the model's parameters. Gradients are expected in the opposite order, of later stages first.
        by_block: as for ZeRO-3: frozen parameters are in buckets too, and a bucket has none of two blocks.
    """
    places = {name: place for place, name in enumerate(order)}
    shards = {p.name: p for stage in stages.values() for p in stage.program.parameters}
    used = {number: {p.name for p in stage.program.parameters} for number, stage in stages.items()}
    blocks = _blocks(stages) if by_block else {}
    members = []
    for name, shard in shards.items():
        if not shard.trainable and not by_block:
            continue
        partial = shard.trainable and mesh.size("tp") > 1 and isinstance(shard.layout.gradient, Partial)
        groups = [mesh.group("tp")] if partial else []
        groups += [ties[name]] if name in ties and shard.trainable else []
        if groups or mesh.size("dp") > 1:
            own = tuple(number for number in stages if name in used[number])
            block = blocks.get(id(named[name]))
            dtype = getattr(torch, shard.dtype)
            members.append(_Member(name, named[name], dtype, own, tuple(groups), name in ties, block))
    members.sort(key=lambda member: (min(member.stages), places[member.name]), reverse=True)
    return _filled(members, mesh.size("dp"))


def _blocks(stages: Mapping[int, RankStage]) -> Mapping[int, tuple[int, int]]:
    """The block of each parameter, by the parameter's id: its stage, and its number there. Others are in none."""
    return {
        id(x): (number, place)
        for number, stage in stages.items()
        for place, block in enumerate(blocks_of(stage.module))
        for x in built_with(block).values()
    }


def _filled(members: Sequence[_Member], shares: int) -> tuple[Bucket, ...]:
    limit = min(MOST_BYTES, max(LEAST_BYTES, sum(member.nbytes for member in members) / BUCKETS))
    open_buckets: dict[object, list[_Member]] = {}
    full: list[list[_Member]] = []
    for member in members:
        trained, computed = member.parameter.requires_grad, member.parameter.dtype
        alike = member.dtype, computed, trained, member.stages, member.groups, member.block
        key = (*alike, member.name if member.tied else None)
        held = open_buckets.setdefault(key, [])
        held.append(member)
        if sum(other.nbytes for other in held) >= limit:
            full.append(open_buckets.pop(key))
    expected = {member.name: position for position, member in enumerate(members)}
    ordered = sorted([*full, *open_buckets.values()], key=lambda held: expected[held[-1].name])
    return tuple(_bucket(held, shares) for held in ordered)


def _bucket(members: Sequence[_Member], shares: int) -> Bucket:
    first = members[0]
    aligned = ALIGNED_BYTES // first.parameter.element_size()  # of what is computed with, the smaller one
    starts: dict[str, int] = {}
    end = 0
    for member in members:
        starts[member.name] = end
        end += _rounded(member.parameter.numel(), aligned)
    parameters = {member.name: member.parameter for member in members}
    shapes = {member.name: member.parameter.shape for member in members}
    return Bucket(
        parameters,
        shapes,
        first.dtype,
        first.parameter.requires_grad,
        first.stages,
        first.groups,
        first.tied,
        starts,
        _rounded(end, aligned * shares),
    )


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
