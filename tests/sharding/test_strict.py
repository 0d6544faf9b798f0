"""strict=True: samples that are mixed are refused, all of them, with node and line."""

import pytest
import torch
from torch import nn

import autopart
from autopart.errors import MixingError
from tests.plain_models import Perceiver, TwoOrders

X = torch.randn(4, 6, 8)


class Normed(nn.Module):
    """A batch norm, and a loss that compares samples."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 6, 8) -> the loss."""
        x = self.norm(x[:, 0])
        return (x @ x.T).square().mean()


def test_all_places_are_listed() -> None:
    with pytest.raises(MixingError) as caught:
        autopart.plan(Normed(), 2, inputs=(X,), strict=True)
    lines = str(caught.value).splitlines()
    assert "Normed, which mixes the samples of a batch at 2 places" in lines[0]
    places = [line for line in lines if line.startswith(("1. ", "2. "))]
    assert len(places) == 2 and all("test_strict.py:" in place for place in places)
    assert "(aten.native_batch_norm.default) mixes samples" in str(caught.value)
    assert "leave strict out" in lines[-1]


@pytest.mark.parametrize("plans", [autopart.plan, autopart.parallelize])
def test_everything_that_captures_takes_it(plans: object) -> None:
    with pytest.raises(MixingError, match=r"plain_models\.py"):
        plans(TwoOrders(), 2, inputs=(X,), strict=True)  # type: ignore[operator]
    with pytest.raises(MixingError, match=r"plain_models\.py"):
        autopart.prepare(TwoOrders(), (X,), strict=True)


def test_a_prepared_model_is_looked_at_too() -> None:
    prepared = autopart.prepare(TwoOrders(), (X,))
    assert any("mixes the samples" in note.text for note in autopart.plan(prepared, 2).notes)
    with pytest.raises(MixingError):
        autopart.plan(prepared, 2, strict=True)


def test_nothing_mixed_nothing_refused() -> None:
    tokens = torch.zeros(4, 12, dtype=torch.long)
    assert autopart.plan(Perceiver(), 2, inputs=(tokens, tokens.clone()), strict=True).world == 2
