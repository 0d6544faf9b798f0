"""What layers take from each other and give, where one of each kind is traced."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.capture.layers_in_a_row import BATCH, Layer, Stack, assert_same, plain


class TestReachingIntoEachOther:
    """What a layer leaves behind for others. Only every layer traced gets these right."""

    @pytest.fixture
    def kept(self) -> Iterator[dict[str, torch.Tensor]]:
        yield {}

    def test_a_value_used_by_the_next(self, kept: dict[str, torch.Tensor]) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            before = kept.get("x") if layer.number else None
            kept["x"] = x.exp()
            return x if before is None else x + before

        assert_same(Stack(add), BATCH)

    def test_the_value_of_the_first_or_its_own(self, kept: dict[str, torch.Tensor]) -> None:
        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            own = x.exp()
            if layer.number == 0:
                kept.clear()
            return x + kept.setdefault("x", own)

        assert_same(Stack(add), BATCH)

    def test_a_value_used_at_the_end(self) -> None:
        class Leaking(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                kept.clear()
                return super().forward(x) + sum(value.sum() for value in kept)

        kept: list[torch.Tensor] = []

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            kept.append(x.exp())
            return x

        assert_same(Leaking(add), BATCH)

    def test_a_value_returned_by_the_model(self) -> None:
        class Returning(Stack):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # type: ignore[override]
                kept.clear()
                return (super().forward(x), *kept)

        kept: list[torch.Tensor] = []

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            kept.append(x.exp())
            return x

        assert len(assert_same(Returning(add), BATCH).graph.outputs) == 5

    def test_an_input_changed_in_place(self, copies: list[str]) -> None:
        def add(x: torch.Tensor, layer: Layer, **extra: torch.Tensor) -> torch.Tensor:
            extra["total"].add_(x)
            return x

        class Totals(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                total = torch.zeros_like(x)
                for layer in self.layers:
                    x = layer(x, total=total)
                return (x * total).sum()

        assert_same(Totals(add), BATCH)
        assert copies == []

    def test_a_result_changed_in_place(self) -> None:
        class InPlace(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                for layer in self.layers:
                    x = layer(x)
                    x += 1
                return x.sum()

        assert_same(InPlace(plain), BATCH)

    def test_a_state(self) -> None:
        """A layer that counts its calls and changes its ways: compared once in vain, it has been called once more."""

        class Counting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
                self.calls = 0

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                self.calls += 1
                return self.other(self.linear(x)) * self.calls

        class Counters(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                for layer in self.layers:
                    layer.calls = int(layer is self.layers[2])
                return super().forward(x)

        model = Counters(plain)
        model.layers = nn.ModuleList(Counting() for _ in range(4))
        assert_same(model, BATCH)


class TestResults:
    @pytest.mark.parametrize(
        ("give", "take"),
        [
            (lambda x: (x, None), lambda out: out[0]),
            (lambda x: (x, x.relu()), lambda out: out[0] * out[1]),
            (lambda x: [x, 3], lambda out: out[0] * out[1]),
            (lambda x: {"x": x, "flag": True}, lambda out: out["x"]),
            (lambda x: (x, (x.exp(), x)), lambda out: out[0] + out[1][0] + out[1][1]),
            (lambda x: x.max(-1, keepdim=True), lambda out: out.values.repeat(1, 8)),
        ],
    )
    def test_of_many_forms(self, copies: list[str], give: Any, take: Any) -> None:
        class Forms(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x)
                for layer in self.layers:
                    x = take(layer(x))
                return x.sum()

        assert_same(Forms(lambda x, layer: give(x)), BATCH)
        assert copies == ["layers.1", "layers.2", "layers.3"]

    def test_arguments_from_outside(self, copies: list[str]) -> None:
        """Masks that differ from layer to layer, one handed back untouched, and an argument that is None."""

        def add(x: torch.Tensor, layer: Layer, mask: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
            return x.masked_fill(mask, 0.0), mask, bias

        class Masked(Stack):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x, place = self.enter(x), torch.arange(8, device=x.device)
                masks = (place > 3, place > 5)
                for number, layer in enumerate(self.layers):
                    x, mask, _ = layer(x, mask=masks[number % 2], bias=None)
                    x = x * mask
                return x.sum()

        assert_same(Masked(add), BATCH)
        assert copies == ["layers.1", "layers.2", "layers.3"]

    def test_a_result_in_another_layout(self, copies: list[str]) -> None:
        """Whether `contiguous` copies depends on the strides of what a layer gives."""

        def add(x: torch.Tensor, layer: Layer) -> torch.Tensor:
            return torch.stack([x, x], dim=1).transpose(0, 1).contiguous().transpose(0, 1)[:, 0]

        assert_same(Stack(add), BATCH)
