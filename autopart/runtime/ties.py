"""Ties: parameters that several pipeline ranks hold, as of an embedding on the first stage and a head on the last."""

from collections.abc import Mapping

import torch.distributed as dist

from autopart.ir.program import Program
from autopart.runtime.mesh import Mesh


def holders(program: Program, mesh: Mesh) -> Mapping[str, tuple[int, ...]]:
    """The pipeline ranks that hold each parameter, in order."""
    found: dict[str, set[int]] = {}
    for home, own in zip(mesh.homes, program.stages, strict=True):
        for parameter in own.parameters:
            found.setdefault(parameter.name, set()).add(home)
    return {name: tuple(sorted(ranks)) for name, ranks in found.items()}


def tie_groups(program: Program, mesh: Mesh) -> Mapping[str, dist.ProcessGroup]:
    """The parameters of this rank that other pipeline ranks have too, sorted by name, each with a group of its holders.

    Every rank of the job calls this at the same time.
    """
    shared = {name: ranks for name, ranks in sorted(holders(program, mesh).items()) if len(ranks) > 1}
    groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
    for pp_ranks in sorted(set(shared.values())):
        for replica in range(mesh.size("dp")):
            for tp_rank in range(mesh.size("tp")):
                group = dist.new_group([mesh.rank_at(pp_rank, replica, tp_rank) for pp_rank in pp_ranks])
                if (replica, tp_rank) == (mesh.replica, mesh.tp_rank) and mesh.pp_rank in pp_ranks:
                    groups[pp_ranks] = group
    return {name: groups[pp_ranks] for name, pp_ranks in shared.items() if pp_ranks in groups}
