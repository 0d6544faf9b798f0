"""Batches: nothing of a batch is overlooked, and shares have its form."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from autopart import BatchError, api
from autopart.runtime.batches import Batches


class Model(nn.Module):
    """Takes a mask or none, and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None, twice: bool = False) -> torch.Tensor:
        """x, mask: (batch, 4)."""
        x = self.layer(x)
        x = x if mask is None else x * mask
        return (2 * x if twice else x).sum()


class Pair(NamedTuple):
    """A batch by names and by positions."""

    x: torch.Tensor
    mask: torch.Tensor


X = torch.ones(4, 4)


def _batches(inputs: Any, plain: dict[str, object] | None = None) -> Batches:
    return Batches(api.prepare(Model(), inputs).captured.graph, dp=2, global_batch=4, plain=plain)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (
            {"mask": X},
            r"has an item 'mask', which the plan was not made with \(but with \['x', 'twice'\]\), so that it",
        ),
        ({"scale": 2.0}, "has an item 'scale', which the plan was not made with"),
        ({"twice": True}, "item 'twice' is True, the plan was made for False: plan again with inputs="),
    ],
)
def test_what_would_be_ignored(further: dict[str, Any], message: str) -> None:
    batches = _batches({"x": X, "twice": False}, {"twice": False})
    assert batches.named({"x": X, "twice": False, "mask": None}).keys() == {"x"} == batches.named({"x": X}).keys()
    with pytest.raises(BatchError, match=message):
        batches.named({"x": X, "twice": False, **further})


def test_a_named_tuple_is_shared_as_one() -> None:
    share = _batches((X, X)).cut(Pair(X, X), 1)
    assert isinstance(share, Pair) and share.mask.shape == (2, 4)
