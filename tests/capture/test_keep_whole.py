"""Modules kept whole: which they are, what is found out about them, and what cannot be kept."""

from typing import Any

import pytest
import torch
from torch import nn

import autopart
from autopart import api
from autopart.capture.torch_export import capture
from autopart.errors import CaptureError, UnknownNameError
from autopart.ir.kept import KEPT, is_samplewise
from autopart.ir.size import BATCH
from tests.kept_models import Choosing, experts, experts_batch


def kept_nodes(model: nn.Module, batch: Any, keep_whole: Any) -> list[Any]:
    return [node for node in capture(model, batch, keep_whole=keep_whole).graph.nodes if node.op == KEPT]


class Around(nn.Module):
    """A module between two layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(8, 8), inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.first(x)).square().mean()


class Mixing(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) - x.mean(0) if x.sum() > 0 else super().forward(x) + x.mean(0)


class Filtering(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[x.sum(-1) > 0])


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.add_(1)
        return super().forward(x)


class Remembering(nn.Linear):
    """Adds up what it has seen, in an attribute that is no buffer."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.seen = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + x.detach().sum()
        return super().forward(x) + self.seen


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.mul_(2.0))


class Noting(nn.Linear):
    def forward(self, x: torch.Tensor, notes: list[torch.Tensor]) -> torch.Tensor:
        notes.append(x)
        return super().forward(x)


class Turning(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(-1, 2, 4)


class Averaging(torch.autograd.Function):
    """Keeps samples apart forward, and mixes them backward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2.0

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return 2.0 * gradient + gradient.mean(0)


class MixingBackward(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Averaging.apply(super().forward(x))


class Hooked(nn.Linear):
    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_forward_hook(lambda module, args, output: 2.0 * output)


class Borrowing(nn.Linear):
    """Uses a weight of a module that is not inside it."""

    def __init__(self, lender: nn.Linear) -> None:
        super().__init__(8, 8)
        self.lenders = (lender,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ self.lenders[0].weight


class Handing(nn.Linear):
    """Hands its input on, and gives a number without a gradient beside it."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, super().forward(x).detach()


class Taking(nn.Module):
    """Hands an object on."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Choosing(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, options=object()).sum()


X = torch.empty(4, 8)


def test_the_node() -> None:
    nodes = kept_nodes(experts(), experts_batch(), ["blocks.*.experts"])
    assert [node.scope for node in nodes] == ["blocks.0.experts", "blocks.1.experts", "blocks.2.experts"]
    for node in nodes:
        assert [(value.shape, value.requires_grad) for value in node.outputs] == [
            ((BATCH, 6, 16), True),
            ((BATCH, 6), True),
        ]
        assert is_samplewise(node)


def test_layers_are_folded_all_the_same() -> None:
    prepared = api.prepare(experts(), experts_batch(), None, keep_whole=["blocks.*.experts"])
    (loop,) = prepared.folded.loops
    assert loop.region.count == 3
    assert not prepared.batch.mixing


@pytest.mark.parametrize("every_layer", [True, False])
def test_it_is_the_same_graph_however_it_is_traced(every_layer: bool) -> None:
    names = ["blocks.*.experts"]
    found = capture(experts(), experts_batch(), keep_whole=names, every_layer=every_layer)
    with torch.device("meta"):
        model = experts()
    assert found.graph.fingerprint == capture(model, experts_batch(), keep_whole=names).graph.fingerprint


def test_the_model_is_left_as_it_was() -> None:
    model = experts()
    before = {name: (set(vars(module)), module.forward) for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept_nodes(model, experts_batch(), ["blocks.*.experts"])
    assert {name: (set(vars(module)), module.forward) for name, module in model.named_modules()} == before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_samples_that_are_mixed_are_noticed() -> None:
    (node,) = kept_nodes(Around(Mixing(8, 8)), (X,), ["inner"])
    assert not is_samplewise(node)
    prepared = api.prepare(Around(Mixing(8, 8)), (X,), None, keep_whole=["inner"])
    assert [mixing.op for mixing in prepared.batch.mixing] == [KEPT]


def test_a_function_can_give_the_shapes() -> None:
    seen: list[torch.device] = []

    def fake(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.device)
        return torch.empty_like(x)

    (node,) = kept_nodes(Around(Mixing(8, 8)), (X,), {"inner": fake})
    assert node.output.shape == (BATCH, 8)
    assert {device.type for device in seen} == {"meta"}


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Filtering(8, 8), "inner cannot be kept whole: the shape of its output depends on the values of its inputs"),
        (Counting(), "its forward changes its buffer calls"),
        (Remembering(), "called again with the same inputs it returns something else"),
        (Doubling(8, 8), "its forward changes its inputs in place"),
        (Turning(), "it returns a view of its input"),
        (Hooked(), "it has forward hooks"),
        (nn.Linear(9, 9), r"on random inputs a copy of it raised RuntimeError.*keep_whole=\{\"inner\": function\}"),
    ],
)
def test_what_cannot_be_kept(inner: nn.Module, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        kept_nodes(Around(inner), (X,), ["inner"])


def test_samples_that_are_mixed_backward_are_noticed() -> None:
    (node,) = kept_nodes(Around(MixingBackward(8, 8)), (X,), ["inner"])
    assert not is_samplewise(node)


def test_a_weight_that_lies_outside() -> None:
    lender = nn.Linear(8, 8)
    model = nn.Sequential(lender, Around(Borrowing(lender)))
    with pytest.raises(CaptureError, match=r"1\.inner cannot be kept whole: it refers to 0\.weight"):
        kept_nodes(model, (X,), ["1.inner"])
    assert kept_nodes(nn.Sequential(model), (X,), ["0"])


def test_an_input_that_is_handed_on_is_itself() -> None:
    class Using(Around):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first = self.first(x)
            same, other = self.inner(first)
            assert same is first
            return (same * other).sum()

    (node,) = kept_nodes(Using(Handing(8, 8)), (X,), ["inner"])
    assert [value.shape for value in node.outputs] == [(BATCH, 8)]
    graph = capture(Using(Handing(8, 8)), (X,), keep_whole=["inner"]).graph
    assert [used.op for used in graph.nodes if node.outputs[0].name in used.inputs] == ["aten.detach.default"]


def test_an_argument_that_cannot_be_written() -> None:
    with pytest.raises(CaptureError, match="its argument 'options' is a object, and only tensors, plain values"):
        kept_nodes(Taking(), (X,), ["inner"])


def test_a_list_that_is_changed() -> None:
    class Using(Around):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            notes: list[torch.Tensor] = []
            return self.inner(x, notes).sum() + notes[0].sum()

    with pytest.raises(CaptureError, match="its forward changes a list or dict that it is given"):
        kept_nodes(Using(Noting(8, 8)), (X,), ["inner"])


def test_autocast() -> None:
    class Using(Around):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return super().forward(x)

    with pytest.raises(CaptureError, match="it is called under autocast"):
        kept_nodes(Using(nn.Linear(8, 8)), (X,), ["inner"])


def test_a_name_that_no_module_has() -> None:
    with pytest.raises(UnknownNameError, match=r"Experts has no module 'block\.\*\.experts'; its own modules are"):
        kept_nodes(experts(), experts_batch(), ["block.*.experts"])


def test_what_the_report_names_can_be_kept() -> None:
    model = experts()
    with pytest.raises(CaptureError, match=r'keep_whole=\["blocks\.\*\.experts"\]'):
        capture(model, experts_batch())
    assert kept_nodes(model, experts_batch(), ["blocks.*.experts"])


def test_the_plan_says_so() -> None:
    plan = autopart.plan(
        experts(), 4, inputs=experts_batch(), global_batch=8, tp=2, pp=2, keep_whole=["blocks.*.experts"]
    )
    assert ("blocks.0.experts", "kept whole, as asked") in [(note.subject, note.text) for note in plan.replicated]
    assert any(note.subject == "keep_whole" and "is a guess" in note.text for note in plan.notes)
