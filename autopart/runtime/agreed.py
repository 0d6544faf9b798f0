"""agreed: all ranks begin a step, or none does."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from autopart.errors import BatchError

T = TypeVar("T")


def agreed(read: Callable[[], T], count: Callable[[T], int], device: torch.device) -> tuple[T, int, int]:
    """What `read` makes of this rank's batch, and the least and the most that `count` finds in it on any rank.

    All ranks call it together. A rank that raised an error while others went on to send would leave them waiting.

    Raises:
        BatchError: `read` raised an error on another rank; where it did, that error.
    """
    if dist.get_world_size() == 1:
        found = read()
        return found, count(found), count(found)
    error: Exception | None = None
    numbers = [0, 0, 0]
    try:
        found = read()
        numbers = [0, count(found), -count(found)]
    except Exception as raised:
        error, numbers[0] = raised, dist.get_rank() + 1
    everyone = torch.tensor(numbers, device=device)
    dist.all_reduce(everyone, dist.ReduceOp.MAX)
    failed, most, least = everyone.tolist()
    if error is not None:
        raise error
    if failed:
        raise BatchError(
            f"rank {failed - 1} cannot take its batch, and its own error says why: no rank has begun with this one, "
            "and all can go on with the next"
        )
    return found, -least, most
