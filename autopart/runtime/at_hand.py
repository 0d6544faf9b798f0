"""The cluster at hand: which cluster file describes the devices of the running job."""

import torch
import torch.distributed as dist

from autopart.errors import UnknownNameError
from autopart.runtime.backend import backend
from cost_models.cluster import Cluster, cluster_names, load_cluster


def cluster_at_hand() -> str | None:
    """The name of the cluster whose device is the one of this job; None outside a job.

    A GPU is known by its family in CUDA's name for it ("NVIDIA H100 80GB HBM3") and, among sizes, by its memory.

    Raises:
        UnknownNameError: a GPU that no cluster file has.
    """
    if not dist.is_initialized():
        return None
    if backend() != "nccl":
        return "local-cpu"
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return cluster_of_gpu(properties.name, properties.total_memory).name


def cluster_of_gpu(gpu: str, memory_bytes: int) -> Cluster:
    """The cluster whose device is a GPU of CUDA's name `gpu`, and of the nearest memory.

    Raises:
        UnknownNameError: no cluster file has one.
    """
    clusters = [load_cluster(name) for name in cluster_names()]
    fitting = [c for c in clusters if c.device.name.split("-")[0] in gpu.lower()]
    if not fitting:
        raise UnknownNameError(
            f"no cluster file has a {gpu}: pass cluster=, one of {', '.join(cluster_names())}, or "
            "a path to a file like those in cost_models/clusters"
        )
    return min(fitting, key=lambda c: abs(c.device.memory_bytes - memory_bytes))
