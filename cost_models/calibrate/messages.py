"""Messages: the collectives that are timed, over sizes and numbers of ranks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

# On one tensor, which copy nothing besides; torch 2.13 has new names for them, and warns of the old ones.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
SIZES_BYTES = tuple(2**power for power in (10, 14, 16, 18, 20, 22, 24))
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send")


@dataclass(frozen=True, slots=True)
class Call:
    """One collective of `size_bytes` in this rank's group of `ranks`, `trips` times in each `run`."""

    collective: str
    ranks: int
    size_bytes: int
    trips: int
    run: Callable[[], object]


def calls(backend: str, device: torch.device) -> list[Call]:
    """All calls of this rank, in groups of each size that divides the world; the order is the same on every rank.

    Groups of one size are at work at the same time, as those of a training step are.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    found = []
    for ranks in range(2, world + 1):
        if world % ranks:
            continue
        members = [list(range(first, first + ranks)) for first in range(0, world, ranks)]
        group = [dist.new_group(each, backend=backend) for each in members][rank // ranks]
        for size in SIZES_BYTES:
            for collective in COLLECTIVES if ranks == 2 else COLLECTIVES[:-1]:
                trips = 2 if collective == "send" else 1
                found.append(Call(collective, ranks, size, trips, _run(collective, size, ranks, group, device)))
    return found


def _run(
    collective: str, size: int, ranks: int, group: dist.ProcessGroup, device: torch.device
) -> Callable[[], object]:
    share = max(1, size // 4 // ranks)
    whole, other = (torch.ones(share * ranks, device=device) for _ in range(2))
    piece = torch.ones(share, device=device)
    if collective == "all_reduce":
        whole.zero_()  # sums of sums stay finite
        return lambda: dist.all_reduce(whole, group=group)
    if collective == "all_gather":
        return lambda: _all_gather(whole, piece, group=group)
    if collective == "reduce_scatter":
        return lambda: _reduce_scatter(piece, whole, group=group)
    if collective == "all_to_all":
        return lambda: dist.all_to_all_single(other, whole, group=group)
    rank = dist.get_rank()

    def there_and_back() -> None:
        for sends in (rank % 2 == 0, rank % 2 == 1):
            if sends:
                dist.send(whole, rank ^ 1, group=group)
            else:
                dist.recv(whole, rank ^ 1, group=group)

    return there_and_back
