"""keep_whole="auto": which modules are kept, and what becomes of models in which none can be."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import autopart
from autopart import api
from autopart.capture.torch_export import capture
from autopart.errors import CaptureError, UnknownNameError
from tests.kept_models import Choosing, Quantized, experts, experts_batch

X = torch.empty(4, 8)


class Around(nn.Module):
    """Layers one after another, to a loss."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x.square().mean()


class Block(nn.Module):
    """A layer of its own before the one that it is given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(8, 8), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.first(x))


class Branching(nn.Linear):
    """Decides by values what it computes."""

    def __init__(self) -> None:
        super().__init__(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x[:1].sum() > 100 else -x)


class TakingObjects(Block):
    """Gives the inner layer an object, with which it cannot be called by itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.first(x), options=object())


class InParts(nn.Module):
    """Never called: a method of its own is."""

    def __init__(self) -> None:
        super().__init__()
        self.choosing = Choosing(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def other(self, x: torch.Tensor) -> torch.Tensor:
        """x: (batch, 8) -> the same; the layer inside takes an object."""
        return self.choosing(x, options=object())


class CallingParts(Block):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.inner, InParts)
        return self.inner.other(self.first(x))


class Doubling(torch.autograd.Function):
    """Takes a module, which no graph can hold."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: nn.Module) -> torch.Tensor:
        return x * 2.0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        return 3.0 * gradient, None


class OwnGradient(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Doubling.apply(x, self)


class Deciding(nn.Module):
    """The model itself decides by values; so does a layer in it."""

    def __init__(self) -> None:
        super().__init__()
        self.choosing = Choosing(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.choosing(x)
        return x.mean() if x.sum() > 0 else x.sum()


def kept(model: nn.Module, batch: Any = (X,)) -> Sequence[str]:
    with pytest.warns(UserWarning, match="kept whole, each computed by every tensor-parallel rank"):
        prepared = api.prepare(model, batch, keep_whole="auto")
    named = capture(model, batch, keep_whole=prepared.kept_unasked)
    assert named.graph.fingerprint == prepared.captured.graph.fingerprint, "the names say all"
    return prepared.kept_unasked


def test_what_stands_in_the_way_is_kept() -> None:
    assert kept(experts(), experts_batch()) == ("blocks.*.experts",)


def test_nothing_is_kept_where_nothing_has_to_be(recwarn: pytest.WarningsRecorder) -> None:
    assert api.prepare(Around(Block(nn.Linear(8, 8))), (X,), keep_whole="auto").kept_unasked == ()
    assert api.prepare(Quantized().double(), experts_batch(), keep_whole="auto").kept_unasked == ()
    assert not [warning for warning in recwarn if "kept whole" in str(warning.message)]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ((nn.Linear(8, 8), Block(Branching())), ("layers.1.inner",)),
        ((Block(Branching()), Block(Branching())), ("layers.*.inner",)),
        ((Block(nn.ReLU()), Block(Branching()), Block(Branching())), ("layers.1.inner", "layers.2.inner")),
        # What cannot be kept is kept together with what is around it.
        ((Block(nn.ReLU()), TakingObjects(Choosing(8))), ("layers.1",)),
        ((CallingParts(InParts()), Block(nn.ReLU())), ("layers.0",)),
        ((Block(OwnGradient()), Block(OwnGradient())), ("layers.*.inner",)),
        # Two reasons, of which the second shows only when the first is out of the way.
        (
            (TakingObjects(Choosing(8)), Block(OwnGradient()), Block(Branching())),
            ("layers.0", "layers.1.inner", "layers.2.inner"),
        ),
        # Returns its input for some values.
        ((Block(nn.ReLU()), Block(Choosing(8))), ("layers.1",)),
    ],
)
def test_the_smallest_modules_are_kept(layers: tuple[nn.Module, ...], names: tuple[str, ...]) -> None:
    assert set(kept(Around(*layers))) == set(names)


def test_layers_that_look_alike_are_kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from autopart.capture import keep_as_needed

    monkeypatch.setattr(keep_as_needed, "MOST_TRIES", 3)
    assert kept(Around(*(TakingObjects(Choosing(8)) for _ in range(8)))) == ("layers.*",)


@pytest.mark.parametrize("model", [Deciding(), TakingObjects(Choosing(8))])
def test_a_model_cannot_be_kept_whole_itself(model: nn.Module) -> None:
    with pytest.raises(CaptureError, match="keep_whole='auto' finds no modules to keep whole") as caught:
        api.prepare(model, (X,), loss=lambda out, batch: out.mean(), keep_whole="auto")
    assert caught.value.places


def test_errors_say_that_there_is_such_a_way() -> None:
    with pytest.raises(CaptureError, match='keep_whole="auto" keeps what has to be'):
        capture(experts(), experts_batch())
    with pytest.raises(CaptureError, match=r'keep_whole=\["layers.0.inner"\], or keep_whole="auto"'):
        capture(Around(Block(OwnGradient())), (X,))


def test_a_name_is_no_list_of_names() -> None:
    with pytest.raises(UnknownNameError, match="neither 'auto' nor a list of names"):
        api.prepare(Around(Block(Choosing(8))), (X,), keep_whole="layers.0")


@pytest.mark.filterwarnings("ignore:Experts")
def test_the_plan_says_so() -> None:
    plan = autopart.plan(experts(), 4, inputs=experts_batch(), global_batch=8, tp=2, pp=2, keep_whole="auto")
    texts = [note.text for note in plan.notes if note.subject == "keep_whole"]
    assert any("cannot be captured" in text and "blocks.*.experts" in text for text in texts)
