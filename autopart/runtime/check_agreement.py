"""check_agreement: whether all ranks planned the same."""

import hashlib

import torch
import torch.distributed as dist

from autopart.errors import LaunchError
from autopart.runtime.backend import backend


def check_agreement(fingerprint: str) -> None:
    """Compare what every rank planned.

    Raises:
        LaunchError: ranks that disagree, by number.
    """
    own = digest(fingerprint)
    device = torch.device("cuda", torch.cuda.current_device()) if backend() == "nccl" else torch.device("cpu")
    mine = torch.tensor([own], dtype=torch.int64, device=device)
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    values = [int(item) for item in everyone]
    different = [rank for rank, value in enumerate(values) if value != values[0]]
    if different:
        raise LaunchError(
            f"ranks {different} have a different plan from rank 0: every rank must call parallelize with the same "
            "model, inputs and arguments, and the same versions of autopart and torch. Where the model's code walks a "
            "set, its order is another in every process: set PYTHONHASHSEED to one number for all"
        )


def digest(text: str) -> int:
    """A number of 56 bits that `text` decides."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
