"""Mesh: where a rank stands among the pipeline stages, the data-parallel replicas and the tensor-parallel ranks."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


@dataclass(frozen=True)
class Mesh:
    """A mesh of pp x dp x tp ranks, tp innermost: tensor parallelism talks most and sits closest.

    Ranks that differ in the stage alone exchange activations in `forward_group` and gradients in `backward_group`;
    two groups, so that a send one way never waits for one the other way.
    """

    device_mesh: DeviceMesh
    device: torch.device
    forward_group: dist.ProcessGroup
    backward_group: dist.ProcessGroup

    @property
    def stage(self) -> int:
        """This rank's pipeline stage."""
        return self.device_mesh.get_local_rank("pp")

    @property
    def replica(self) -> int:
        """This rank's data-parallel replica."""
        return self.device_mesh.get_local_rank("dp")

    @property
    def tp_rank(self) -> int:
        """This rank's number among the tensor-parallel ranks."""
        return self.device_mesh.get_local_rank("tp")

    def rank_of(self, stage: int, replica: int, tp_rank: int) -> int:
        """The global rank at these coordinates."""
        return int(self.device_mesh.mesh[stage, replica, tp_rank])

    def peer(self, stage: int) -> int:
        """The global rank that is this one's like on another stage."""
        return self.rank_of(stage, self.replica, self.tp_rank)

    def group(self, name: str) -> dist.ProcessGroup:
        """The process group along "pp", "dp" or "tp"."""
        return self.device_mesh.get_group(name)

    def size(self, name: str) -> int:
        """How many ranks there are along "pp", "dp" or "tp"."""
        return self.device_mesh.size(("pp", "dp", "tp").index(name))


def build_mesh(pp: int, dp: int, tp: int) -> Mesh:
    """The mesh of the running job; every rank calls this at the same time."""
    kind = "cuda" if dist.get_backend() == "nccl" else "cpu"
    device_mesh = init_device_mesh(kind, (pp, dp, tp), mesh_dim_names=("pp", "dp", "tp"))
    device = torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")
    groups: list[dist.ProcessGroup] = []
    for _ in ("forward", "backward"):
        for replica in range(dp):
            for tp_rank in range(tp):
                ranks = [int(device_mesh.mesh[stage, replica, tp_rank]) for stage in range(pp)]
                group = dist.new_group(ranks)
                if dist.get_rank() in ranks:
                    groups.append(group)
    return Mesh(device_mesh, device, groups[0], groups[1])
