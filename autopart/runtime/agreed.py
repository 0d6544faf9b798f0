"""agreed: all ranks begin a step, or none does."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from autopart.errors import BatchError
from autopart.runtime.flat_collectives import summed

T = TypeVar("T")


def agreed(
    read: Callable[[], T], device: torch.device, numbers: Callable[[T], tuple[int, int]] = lambda _: (0, 0)
) -> tuple[T, list[tuple[int, int]]]:
    """What `read` makes of this rank's batch, and the `numbers` of what every rank has found, in order of rank.

    All ranks call it together. A rank that raised an error while others went on to send would leave them waiting.

    Raises:
        BatchError: `read` raised an error on another rank; where it did, that error.
    """
    if dist.get_world_size() == 1:
        found = read()
        return found, [numbers(found)]
    error: Exception | None = None
    rows = torch.zeros(dist.get_world_size(), 3, dtype=torch.int64)
    own = rows[dist.get_rank()]
    try:
        found = read()
        own[1:] = torch.tensor(numbers(found))
    except Exception as raised:
        error, own[0] = raised, 1
    everyone = summed(rows.to(device), group=None).tolist()
    if error is not None:
        raise error
    failed = [rank for rank, row in enumerate(everyone) if row[0]]
    if failed:
        raise BatchError(
            f"rank {failed[-1]} cannot take its batch, and its own error says why: no rank has begun with this one, "
            "and all can go on with the next"
        )
    return found, [(first, second) for _, first, second in everyone]
