"""Capture with torch.fx: the same graphs as with torch.export, and refusals where proxies would see something else."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.capture import fx_trace, torch_export
from autopart.capture.example_inputs import example_inputs
from autopart.capture.front_end import find_front_end, front_end_names
from autopart.errors import CaptureError, InputsError, UnknownNameError
from autopart.ir.graph import Graph
from tests.capture.models import Asserting
from tests.models import CASES, MORE_CASES, OPERATOR_CASES, Case

BATCHED = torch.empty(4, 8)
OUTSIDE = torch.ones(8)
# Transformers' models decide by shapes and types in every forward.
FOLLOWED = ["gpt", "residual_mlp", "conv_net", "u_net", "gated_mlp"]


def case_of(name: str) -> Case:
    return {**CASES, **MORE_CASES, **OPERATOR_CASES}[name]


def traced(model: nn.Module, inputs: object = BATCHED, loss: Any = None) -> Graph:
    return fx_trace.capture(model, example_inputs(model, inputs), loss).graph


def exported(model: nn.Module, inputs: object = BATCHED, loss: Any = None) -> Graph:
    return torch_export.capture(model, example_inputs(model, inputs), loss).graph


class Frozen(nn.Linear):
    """A region without gradients between layers that have them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = super().forward(x)
        with torch.no_grad():
            scale = super().forward(first).sum()
        return super().forward(first) * scale


class Statistics(nn.Sequential):
    """Buffers that change, and layers that work in place."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 4))


class Makers(nn.Linear):
    """Tensors made of nothing, and of sizes; a buffer that is used by itself first."""

    def __init__(self) -> None:
        super().__init__(8, 8)
        self.register_buffer("mask", torch.ones(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x) + torch.randn(8) + torch.arange(x.shape[1]) * torch.zeros((x.shape[0], 1))
        return x + self.mask[0].sum() + torch.tensor([1.0, 2.0]).sum() + torch.full((8,), 2.0)


class Model(nn.Module):
    """Modules called as an export's own are, a setting in the batch, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def forward(self, x: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.model(x) * scale
        return y, y.reshape(x.shape[0], 2, 4).sum(-1)


class TestTheSameGraph:
    @pytest.mark.parametrize("name", FOLLOWED)
    @pytest.mark.parametrize("front_end", [name for name in front_end_names() if name != "torch_export"])
    def test_of_the_models_of_the_equality_tests(self, front_end: str, name: str) -> None:
        case = case_of(name)
        batch, loss = case.batch(torch.float32), case.loss
        with torch.device("meta"):
            model = case.build()
        graph = find_front_end(front_end)(model, example_inputs(model, batch), loss).graph
        assert graph == exported(model, batch, loss)
        assert any(node.scope and node.location for node in graph.nodes)

    @pytest.mark.parametrize(
        ("build", "batch"),
        [
            (lambda: Frozen(8, 8), BATCHED),
            (Statistics, BATCHED),
            (Makers, BATCHED),
            (Model, {"x": BATCHED, "scale": 2.0}),
        ],
    )
    def test_of_traps(self, build: Callable[[], nn.Module], batch: Any) -> None:
        model = build()
        assert traced(model, batch) == exported(model, batch)

    def test_gradients_stop_where_the_model_stops_them(self) -> None:
        assert "aten.detach.default" in {node.op for node in traced(Frozen(8, 8)).nodes}


class Keeping(nn.Module):
    """Layers that keep a tensor each, which the loss takes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Kept(8, 8) for _ in range(2))
        self.seen: list[object] = ["before"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
            self.seen.append(x)
        return x.square().mean() + sum(layer.penalty for layer in self.layers)


class Kept(nn.Linear):
    penalty: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = super().forward(x)
        self.penalty = x.abs().mean()
        return x


class TestWhatTheModelDoesBeside:
    def test_a_tensor_kept_for_later(self) -> None:
        assert traced(Keeping()) == exported(Keeping())

    def test_the_model_is_as_before(self) -> None:
        model = Keeping()
        traced(model)
        assert model.seen == ["before"]
        assert all("penalty" not in vars(layer) for layer in model.layers)

    def test_assertions_are_no_branches(self) -> None:
        with pytest.raises(CaptureError, match="the value of a tensor decides what runs"):
            exported(Asserting(8, 4))
        (node,) = traced(Asserting(8, 4)).nodes
        assert node.op == "aten.linear.default"

    def test_an_assertion_that_fails(self) -> None:
        with pytest.raises(CaptureError, match="an assert of the model fails"):
            traced(Asserting(16, 4), torch.empty(4, 16))


class BySize(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1] > 4:  # what stands in the way
            x = -x
        return super().forward(x)


class ByType(nn.Linear):
    def forward(self, x: Any) -> torch.Tensor:
        y = super().forward(x)
        if isinstance(y, torch.Tensor):  # what stands in the way
            y = -y
        return y


class ByTypeOfTorch(nn.Linear):
    def forward(self, x: Any) -> torch.Tensor:
        return super().forward(-x if torch.is_tensor(x) else x)  # what stands in the way


class ByValue(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(-x if x.sum() > 0 else x)  # what stands in the way


class Casting(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x)  # what stands in the way


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.round()


class OwnGradient(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Straight.apply(super().forward(x))  # what stands in the way


def line_of(model: type[nn.Module]) -> int:
    """The number of the line in `model` that stands in the way."""
    lines, first = inspect.getsourcelines(model)
    return first + next(index for index, line in enumerate(lines) if line.endswith("# what stands in the way\n"))


class Outside(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * OUTSIDE  # what stands in the way


class TestErrors:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            (BySize, "control flow"),
            (ByType, "the type of a value decides what runs"),
            (ByTypeOfTorch, "the type of a value decides what runs"),
            (ByValue, "control flow"),
            (Outside, "register it as a buffer"),
            (Casting, r"a region of torch\.autocast"),
            (OwnGradient, r"Straight, a torch\.autograd\.Function"),
        ],
    )
    def test_the_users_line(self, model: type[nn.Linear], reason: str) -> None:
        with pytest.raises(CaptureError, match=reason) as caught:
            traced(model(8, 8))
        name, start = (
            Path(__file__).name,
            Path(__file__).read_text(encoding="utf-8").split(f"class {model.__name__}(")[0],
        )
        first = start.count("\n") + 1
        lines = Path(__file__).read_text(encoding="utf-8").splitlines()[first:]
        line = first + 1 + next(index for index, text in enumerate(lines) if text.endswith("what stands in the way"))
        assert f"{name}:{line}" in str(caught.value)

    def test_the_next_step(self) -> None:
        with pytest.raises(CaptureError, match="front_end='torch_export'"):
            traced(BySize(8, 8))

    def test_a_fixed_batch(self) -> None:
        class Fixed(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return super().forward(x) + torch.zeros(4, 8)

        with pytest.raises(CaptureError, match="batch"):
            traced(Fixed(8, 8))

    def test_no_tensor(self) -> None:
        with pytest.raises(InputsError, match="no tensor"):
            traced(nn.Linear(8, 8), {"x": 1})


class TestChoosing:
    def test_by_listing(self) -> None:
        assert front_end_names() == ("fx_trace", "torch_export")
        assert find_front_end("fx_trace") is fx_trace.capture
        assert find_front_end("torch_export") is torch_export.capture

    @pytest.mark.parametrize("name", ["jit", "simplify", ""])
    def test_unknown(self, name: str) -> None:
        with pytest.raises(UnknownNameError, match=r"known front ends: fx_trace, torch_export"):
            find_front_end(name)


def test_a_loss_function_sees_tensors() -> None:
    def loss(output: torch.Tensor, batch: Any) -> torch.Tensor:
        assert isinstance(output, torch.Tensor)
        return F.mse_loss(output, torch.ones_like(output)) if output.ndim == 2 else output.sum()

    model = nn.Sequential(nn.Linear(8, 4))
    assert traced(model, BATCHED, loss) == exported(model, BATCHED, loss)
