"""backend: what a group's collectives on the job's devices are made with."""

import torch
import torch.distributed as dist


def backend(group: dist.ProcessGroup | None = None) -> str:
    """The name, "nccl" or "gloo": of a group that was started without one, or with one for each kind of device, too.

    Such a group serves both kinds, and a job is on GPUs where there are some.
    """
    name = dist.get_backend(group)
    if name != dist.Backend.UNDEFINED:
        return name
    kinds = dict(own.split(":") for own in dist.get_backend_config(group).split(","))
    return kinds["cuda" if "cuda" in kinds and torch.cuda.is_available() else "cpu"]
