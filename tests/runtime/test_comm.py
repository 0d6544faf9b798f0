"""Every collective of `Comm`, on gloo, forward and backward, against the same on whole tensors."""

import pytest
import torch
import torch.distributed as dist

from autopart.ir.placement import LEAST_ROW_BYTES, Shard, rows
from autopart.runtime.comm import Comm
from autopart.runtime.pieces import join, own_piece, pad_piece
from tests.worker_pool import WorkerPool

WORLD = 4
SHARDS = [Shard(0), Shard(1), Shard(1, (1, 1, 1)), Shard(1, (4, 1, 1))]


def _whole(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _shape(shard: Shard) -> tuple[int, int]:
    return (8, 24) if sum(shard.parts) != 3 else (8, 12 * 2)


def _through(call: str, rank: int, shard: Shard) -> dict[str, torch.Tensor]:
    """What a rank gives to a collective and its gradient, what comes out, and what they should be."""
    comm = Comm(dist.group.WORLD, rank, WORLD)
    shape = _shape(shard)
    parts = [_whole(10 + r, *shape) for r in range(WORLD)]  # partial values, one a rank
    whole, total = _whole(0, *shape), torch.stack(parts).sum(0)
    piece = own_piece(whole, shard, rank, WORLD)
    gradients = [_whole(20 + r, *shape) for r in range(WORLD)]
    gradient, summed = _whole(1, *shape), torch.stack(gradients).sum(0)
    dims = {"dim": shard.dim, "parts": shard.parts}
    other = Shard(1 - shard.dim)
    to = {"from_dim": shard.dim, "to_dim": other.dim, "from_parts": shard.parts}
    cases = {
        # call: (input, keywords, its output, gradient given, gradient wanted)
        "copy": (whole, {}, whole, gradients[rank], summed),
        "all_reduce": (parts[rank], {}, total, gradient, gradient),
        "all_reduce_both": (parts[rank], {}, total, gradients[rank], summed),
        "all_gather": (piece, dims, whole, gradients[rank], own_piece(summed, shard, rank, WORLD)),
        "gather": (piece, dims, whole, gradient, own_piece(gradient, shard, rank, WORLD)),
        "reduce_scatter": (
            parts[rank], dims, own_piece(total, shard, rank, WORLD), own_piece(gradient, shard, rank, WORLD), gradient,
        ),
        "split": (whole, dims, piece, own_piece(gradient, shard, rank, WORLD), gradient),
        "slice": (
            whole, dims, piece, own_piece(gradient, shard, rank, WORLD),
            pad_piece(own_piece(gradient, shard, rank, WORLD), shape, shard, rank, WORLD),
        ),
        "all_to_all": (
            piece, to, own_piece(whole, other, rank, WORLD), own_piece(gradient, other, rank, WORLD),
            own_piece(gradient, shard, rank, WORLD),
        ),
        "once": (whole, {}, whole if rank == 0 else torch.zeros_like(whole), gradient, gradient),
    }  # fmt: skip
    given, keywords, output, seed, wanted = cases[call]
    x = given.clone().requires_grad_()
    found = getattr(comm, call)(x, **keywords)
    found.backward(seed)
    return {"output": found.detach(), "wanted output": output, "gradient": x.grad, "wanted gradient": wanted}


def _rank_through(call: str, shard: Shard) -> dict[str, torch.Tensor]:
    return _through(call, dist.get_rank(), shard)


CALLS = [
    "copy",
    "all_reduce",
    "all_reduce_both",
    "all_gather",
    "gather",
    "reduce_scatter",
    "split",
    "slice",
    "all_to_all",
    "once",
]


@pytest.mark.parametrize("shard", SHARDS, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_collective(worker_pool: WorkerPool, call: str, shard: Shard) -> None:
    for found in worker_pool.run(_rank_through, WORLD, call, shard):
        torch.testing.assert_close(found["output"], found["wanted output"], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found["gradient"], found["wanted gradient"], rtol=1e-12, atol=1e-12)


def _large_rows() -> dict[str, bool]:
    comm = Comm(dist.group.WORLD, dist.get_rank(), WORLD)
    shard, shape = Shard(1), (2, 8, LEAST_ROW_BYTES // 64)
    whole = torch.arange(2 * 8, dtype=torch.float64).view(2, 8, 1).expand(shape)
    own = own_piece(whole, shard, comm.rank, WORLD)
    return {
        "each row is a collective": rows(shard, shape, 8) == 2,
        "all-gather": torch.equal(comm.all_gather(own, 1), whole),
        "reduce-scatter": torch.equal(comm.reduce_scatter(whole, 1), WORLD * own),
    }


def test_large_rows_are_sent_where_they_lie(worker_pool: WorkerPool) -> None:
    for found in worker_pool.run(_large_rows, WORLD):
        assert all(found.values()), found


@pytest.mark.parametrize(
    ("shard", "shape", "count"),
    [
        (Shard(0), (8, 3), 1),
        (Shard(1), (1, 8), 1),
        (Shard(1), (4, 2**23), 4),
        (Shard(1), (4, 2**22), 0),
        (Shard(1, (1, 1)), (1, 8), 0),
    ],
)
def test_rows(shard: Shard, shape: tuple[int, ...], count: int) -> None:
    assert rows(shard, shape, 2) == count


@pytest.mark.parametrize("shard", SHARDS, ids=str)
def test_pieces_join_to_the_whole(shard: Shard) -> None:
    whole = _whole(0, *_shape(shard))
    pieces = [own_piece(whole, shard, rank, WORLD) for rank in range(WORLD)]
    assert torch.equal(join(pieces, shard), whole)
    padded = [pad_piece(piece, whole.shape, shard, rank, WORLD) for rank, piece in enumerate(pieces)]
    assert torch.equal(torch.stack(padded).sum(0), whole)


def _vocabulary(dtype: torch.dtype) -> tuple[float, ...]:
    rank = dist.get_rank()
    comm = Comm(dist.group.WORLD, rank, WORLD)
    logits, weight = (3 * _whole(3, 6, 16)).to(dtype), _whole(4, 16, 5).to(dtype)
    targets = torch.tensor([0, 15, -100, 7, 8, 3])
    errors = []
    for reduction in ("none", "sum", "mean"):
        whole = logits.clone().requires_grad_()
        expected = torch.nn.functional.cross_entropy(whole, targets, reduction=reduction)
        expected.sum().backward()
        own = own_piece(logits, Shard(1), rank, WORLD).requires_grad_()
        loss = comm.cross_entropy(own, targets, reduction=reduction)
        loss.sum().backward()
        assert whole.grad is not None and own.grad is not None
        errors.append(float((loss - expected).abs().max()))
        errors.append(float((own.grad - own_piece(whole.grad, Shard(1), rank, WORLD)).abs().max()))
    indices = torch.tensor([[0, 5], [15, 9]])
    whole = weight.clone().requires_grad_()
    expected = torch.nn.functional.embedding(indices, whole, padding_idx=5)
    expected.square().sum().backward()
    own = own_piece(weight, Shard(0), rank, WORLD).requires_grad_()
    found = comm.all_reduce(comm.embedding(indices, own, padding_idx=5))
    found.square().sum().backward()
    assert whole.grad is not None and own.grad is not None
    errors.append(float((found - expected).abs().max()))
    errors.append(float((own.grad - own_piece(whole.grad, Shard(0), rank, WORLD)).abs().max()))
    return tuple(errors)


def test_sharded_vocabulary(worker_pool: WorkerPool) -> None:
    for errors in worker_pool.run(_vocabulary, WORLD, torch.float64):
        assert max(errors) < 1e-12, errors


def _random() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    comm = Comm(dist.group.WORLD, dist.get_rank(), WORLD)
    torch.manual_seed(7)
    ones = torch.ones(10_000)
    first = comm.sharded_random(torch.nn.functional.dropout, ones, 0.25)
    common = torch.rand(4)
    torch.manual_seed(7)
    again = comm.sharded_random(torch.nn.functional.dropout, ones, 0.25)
    assert torch.equal(first, again), "the same seed gives other numbers"
    return first, common, again


def test_random_ops_differ_between_ranks_and_leave_the_common_generator_common(worker_pool: WorkerPool) -> None:
    results = worker_pool.run(_random, WORLD)
    for rank, (dropped, common, _) in enumerate(results):
        assert torch.equal(common, results[0][1])
        assert abs(float((dropped == 0).float().mean()) - 0.25) < 0.02
        assert rank == 0 or not torch.equal(dropped, results[0][0])
