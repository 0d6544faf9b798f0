"""Mesh: where a rank stands among the pipeline stages, the data-parallel replicas and the tensor-parallel ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from autopart.runtime.backend import backend

FORWARD, BACKWARD = "forward", "backward"  # activations, gradients


@dataclass(frozen=True)
class Mesh:
    """A mesh of pp x dp x tp ranks, tp innermost: tensor parallelism talks most and sits closest.

    Pipeline stage s is on the ranks `homes[s]` along pp, which may have several stages.

    Ranks that differ in their place along pp alone exchange activations and gradients in `transfers`: a group for each
    of the two, and for each direction along pp, so that a send one way never waits for one the other way.

    What every message asks for is looked up in the `DeviceMesh` once.
    """

    device_mesh: DeviceMesh
    device: torch.device
    transfers: Mapping[tuple[str, bool], dist.ProcessGroup]
    homes: tuple[int, ...]

    @cached_property
    def pp_rank(self) -> int:
        """This rank's number along the pipeline."""
        return self.device_mesh.get_local_rank("pp")

    @cached_property
    def stages(self) -> tuple[int, ...]:
        """This rank's pipeline stages."""
        return tuple(stage for stage, home in enumerate(self.homes) if home == self.pp_rank)

    @cached_property
    def replica(self) -> int:
        """This rank's data-parallel replica."""
        return self.device_mesh.get_local_rank("dp")

    @cached_property
    def tp_rank(self) -> int:
        """This rank's number among the tensor-parallel ranks."""
        return self.device_mesh.get_local_rank("tp")

    def rank_of(self, stage: int, replica: int, tp_rank: int) -> int:
        """The global rank that has `stage`, at these coordinates."""
        return self.rank_at(self.homes[stage], replica, tp_rank)

    def rank_at(self, pp_rank: int, replica: int, tp_rank: int) -> int:
        """The global rank at these coordinates."""
        return self._ranks[pp_rank][replica][tp_rank]

    @cached_property
    def _ranks(self) -> list[list[list[int]]]:
        ranks: list[list[list[int]]] = self.device_mesh.mesh.tolist()
        return ranks

    def peer(self, stage: int) -> int:
        """The global rank that is this one's like where `stage` is."""
        return self.rank_of(stage, self.replica, self.tp_rank)

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group along "pp", "dp" or "tp"."""
        return self.device_mesh.get_group(name)

    def size(self, name: str) -> int:
        """How many ranks there are along "pp", "dp" or "tp"."""
        return self.device_mesh.size(("pp", "dp", "tp").index(name))


def build_mesh(homes: Sequence[int], dp: int, tp: int) -> Mesh:
    """The mesh of the running job, with stage s on pipeline rank `homes[s]`; every rank calls this at the same time."""
    pp = max(homes) + 1
    kind = "cuda" if backend() == "nccl" else "cpu"
    device_mesh = init_device_mesh(kind, (pp, dp, tp), mesh_dim_names=("pp", "dp", "tp"))
    device = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    groups: dict[tuple[str, bool], dist.ProcessGroup] = {}
    for way in _ways(homes):
        for replica in range(dp):
            for tp_rank in range(tp):
                ranks = [int(device_mesh.mesh[pp_rank, replica, tp_rank]) for pp_rank in range(pp)]
                group = dist.new_group(ranks)
                if dist.get_rank() in ranks:
                    groups[way] = group
    return Mesh(device_mesh, device, groups, tuple(homes))


def _ways(homes: Sequence[int]) -> list[tuple[str, bool]]:
    """What is sent, and whether down the ranks of the pipeline; with one stage a rank only gradients come up."""
    one_each = len(set(homes)) == len(homes)
    return [(FORWARD, True), (BACKWARD, False), *([] if one_each else [(FORWARD, False), (BACKWARD, True)])]
