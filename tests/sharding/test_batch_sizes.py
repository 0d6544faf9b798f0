"""Models that take several samples together need micro-batches that have them: numbers before a run, and no others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autopart import PinError, PlanningError, api
from autopart.prepared import Prepared
from autopart.sharding.batch_sizes import BatchSizes

SIZES = range(1, 9)


class Of(nn.Module):
    """A loss made of a linear layer's output."""

    def __init__(self, loss: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.loss = nn.Linear(4, 4), loss

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, 4)."""
        return self.loss(self.layer(x))


def halves(x: Tensor) -> Tensor:
    one, other = x.chunk(2)
    return (one - other).square().mean()


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "every second": lambda x: (x[0::2] * x[1::2]).mean(),
    "halves": halves,
    "pairs in front": lambda x: x.view(2, x.shape[0] // 2, 4).prod(0).mean(),
    "pairs inside": lambda x: x.view(-1, 2, 4).prod(1).mean(),
    "neighbours": lambda x: (x[1:] - x[:-1]).square().mean(),
    "the largest": lambda x: x.mean(-1).topk(3).values.mean(),
    "the third": lambda x: (x - x[2]).square().mean(),
    "alone": lambda x: x.square().mean(),
}


def _prepared(loss: Callable[[Tensor], Tensor]) -> Prepared:
    return api.prepare(Of(loss), torch.randn(6, 4))


@pytest.mark.parametrize("name", CASES)
def test_sizes_that_run_are_those_that_fit(name: str) -> None:
    sizes = BatchSizes(_prepared(CASES[name]).folded.graph)
    for samples in SIZES:
        try:
            runs = bool(torch.isfinite(Of(CASES[name])(torch.randn(samples, 4))))
        except (RuntimeError, IndexError, ValueError):
            runs = False
        if name in ("every second", "halves") and samples == 3:
            runs = False  # two rows and one, which torch spreads over both by chance
        assert runs == (sizes.misfit(samples) is None), samples


def test_the_search_takes_sizes_that_fit_and_a_pin_that_does_not_is_refused() -> None:
    prepared = _prepared(CASES["every second"])
    plan: Any = lambda **pins: api.plan(prepared, pins.pop("world", 2), cluster="local-cpu", **pins)  # noqa: E731
    assert plan(global_batch=6, dp=1, tp=2).micro_batch in (2, 6)
    with pytest.raises(PinError, match=r"micro_batch=3: Of mixes samples.*which 3 cannot be; sizes that can: 2, 4, 6"):
        plan(global_batch=6, dp=1, micro_batch=3)
    with pytest.raises(PlanningError, match="cannot take 1, 3, 5"):
        plan(global_batch=5, world=1)
