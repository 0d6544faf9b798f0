"""The proof of a strategy, as the package has it; here ranks that wait for each other run at once, as threads."""

import threading
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from autopart.ir.graph import Node
from autopart.probe import prove as package
from autopart.probe.ranks import RankRun, Tensors, in_turn
from autopart.probe.traced import Traced
from autopart.runtime.comm import Comm
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy


def prove(node: Node, traced: Traced, rule: Rule, strategy: Strategy, degree: int) -> None:
    """Raise Disproved unless `strategy` computes what `node` does."""
    package.prove(node, traced, rule, strategy, degree, runner=in_turn if strategy.call is None else together)


def together(rank_run: RankRun, local: list[list[torch.Tensor]]) -> list[Tensors]:
    """Run the ranks as threads whose all-reduce is a real one."""
    degree = len(local)
    barrier = threading.Barrier(degree, timeout=20)
    slots: list[Any] = [None] * degree
    results: list[Any] = [None] * degree
    current = threading.local()

    def all_reduce(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM, group: Any = None) -> None:
        slots[current.rank] = tensor.clone()
        barrier.wait()
        stacked = torch.stack(slots)
        barrier.wait()
        tensor.copy_(stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0))

    def work(rank: int) -> None:
        current.rank = rank
        try:
            results[rank] = rank_run(Comm(None, rank, degree), local[rank])
        except BaseException as error:
            results[rank] = error
            barrier.abort()

    with patch.multiple(dist, all_reduce=all_reduce, get_backend=lambda group=None: "threads"):
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(degree)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
