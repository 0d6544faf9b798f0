"""Orders of samples: dims merged with the batch, behind it or before it, and where two orders meet."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autopart import api
from autopart.sharding.batch import BatchSharding
from autopart.sharding.sample_order import rows_apart
from tests.plain_models import Perceiver, Recurrent, TwoOrders

TOKENS = torch.zeros(4, 12, dtype=torch.long)


def _batch(model: nn.Module, *inputs: Tensor) -> BatchSharding:
    return api.prepare(model, inputs, None).batch


class Folded(nn.Module):
    """Rows of (batch, 6) or (6, batch) in one dim, taken apart again as the other or as they were."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        self.layer, self.first, self.second = nn.Linear(8, 8), first, second

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, 6, 8) -> the loss."""
        rows = self.layer((x.transpose(0, 1) if self.first == "length" else x).reshape(-1, 8))
        shape = (6, x.shape[0], 8) if self.second == "length" else (x.shape[0], 6, 8)
        return rows.view(shape).cumsum(0 if self.second == "length" else 1).square().mean()


def test_rows_are_taken_apart_as_they_were_merged() -> None:
    x = torch.randn(4, 6, 8)
    assert not _batch(Folded("length", "length"), x).mixing
    assert not _batch(Folded("batch", "batch"), x).mixing
    assert _batch(Folded("length", "batch"), x).mixing
    assert _batch(Folded("batch", "length"), x).mixing


def test_the_attention_and_recurrent_modules_of_torch_mix_nothing() -> None:
    assert not _batch(Perceiver(), TOKENS, TOKENS.clone()).mixing
    assert not _batch(Recurrent(), TOKENS, TOKENS.clone()).mixing


def test_two_orders_that_meet_are_named() -> None:
    found = _batch(TwoOrders(), torch.randn(4, 6, 8))
    assert [item.op for item in found.mixing] == ["aten.mul.Tensor"] and "plain_models.py" in found.mixing[0].location


def test_labels_in_another_order_than_their_rows_are_named() -> None:
    class Paired(nn.Linear):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(super().forward(x).transpose(0, 1).reshape(-1, 8), y.reshape(-1))

    found = _batch(Paired(8, 8), torch.randn(4, 6, 8), torch.zeros(4, 6, dtype=torch.long))
    assert [item.op for item in found.mixing] == ["aten.cross_entropy_loss.default"]


def test_outputs_whose_rows_lie_apart_are_known() -> None:
    class Rows(nn.Linear):
        def __init__(self, first: str) -> None:
            super().__init__(8, 8)
            self.first = first

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return (y.transpose(0, 1) if self.first == "length" else y).reshape(-1, 8)

    for first, expected in (("length", True), ("batch", False)):
        prepared = api.prepare(Rows(first), (torch.randn(4, 6, 8),), None)
        graph = prepared.folded.graph
        assert bool(rows_apart(graph, prepared.rules)) is expected
