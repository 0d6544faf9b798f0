"""Collectives that are made of others where the backend's own are slow, against torch's."""

import pytest
import torch
import torch.distributed as dist

from autopart.runtime import flat_collectives
from autopart.runtime.flat_collectives import begin_sum, gather_shares, sum_shares, summed
from tests.worker_pool import WorkerPool

EXCHANGED, AROUND_A_RING = (7, 5), (2**17 + 3, 3)  # of float64: one less than 1 MiB, one more
SIZES = pytest.mark.parametrize("shape", [EXCHANGED, AROUND_A_RING], ids=str)
WORLDS = pytest.mark.parametrize("world", [1, 2, 3, 4])


def _drawn(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _sums(shape: tuple[int, ...]) -> tuple[bool, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Whether ranks exchange tensors of this shape; what is found on this rank, and what torch finds."""
    rank, world = dist.get_rank(), dist.get_world_size()
    parts = [_drawn(shape, seed) for seed in range(world)]
    own, other = parts[rank].clone(), _drawn(shape, 100 + rank)
    first, second = begin_sum(own, None), begin_sum(other, None)
    transposed = summed(own.t(), None)
    found = {"second": second.wait(), "first": first.wait(), "transposed": transposed.t()}  # in the opposite order
    found["largest"] = summed(own, None, largest=True)
    found["untouched"] = own
    total, others, largest = own.clone(), other.clone(), own.clone()
    dist.all_reduce(total)
    dist.all_reduce(others)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    wanted = {"first": total, "second": others, "transposed": total, "largest": largest, "untouched": parts[rank]}
    return flat_collectives._is_exchanged(own, None), found, wanted


@WORLDS
@SIZES
def test_sums(worker_pool: WorkerPool, shape: tuple[int, ...], world: int) -> None:
    ranks = worker_pool.run(_sums, world, shape)
    for is_exchanged, found, wanted in ranks:
        assert is_exchanged == (shape == EXCHANGED)
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=name)
        for name in ("first", "second", "transposed", "largest"):
            assert torch.equal(found[name], ranks[0][1][name]), f"{name}: to the last bit the same on all ranks"


def _shares(shape: tuple[int, ...]) -> bool:
    rank, world = dist.get_rank(), dist.get_world_size()
    wholes = [_drawn(shape, seed).view(-1)[: 12 * world].contiguous() for seed in range(world)]
    summed_whole, gathered = wholes[rank].clone(), torch.empty_like(wholes[0])
    works = sum_shares(summed_whole, dist.group.WORLD), gather_shares(gathered, wholes[0].chunk(world)[rank], None)
    for work in works:
        work.wait()
    expected = torch.stack(wholes).sum(dim=0).chunk(world)[rank]
    return torch.allclose(summed_whole.chunk(world)[rank], expected) and torch.equal(gathered, wholes[0])


def test_shares(worker_pool: WorkerPool) -> None:
    assert worker_pool.run(_shares, 3, (6, 6)) == [True] * 3
