"""Folding: repeated layers become one region, and nothing else does."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from autopart.capture.fold import fold
from autopart.ir.folded import ENTER, LEAVE, Folded, folded
from autopart.ir.graph import Graph
from autopart.ir.units import layer_parts, units_of
from tests.capture.models import graph_of, tiny_gpt, tiny_gpt2, tiny_llama, token_batch

BATCH = torch.empty(4, 8)


def mean(output: torch.Tensor, batch: Any) -> torch.Tensor:
    return output.mean()


@cache
def gpt() -> Folded:
    return folded(fold(graph_of(tiny_gpt(), token_batch())))


def regions(graph: Graph) -> list[tuple[int, int]]:
    """(nodes a run, runs) of every region."""
    return [(region.length, region.count) for region in graph.regions]


def assert_consistent(whole: Folded) -> None:
    """Every run of a loop is its body, renamed: the same ops on the renamed values, and runs linked as carried."""
    for loop in whole.loops:
        region = loop.region
        assert loop.stop - loop.start == region.length + len(loop.enters) + len(loop.leaves)
        previous: dict[str, str] = {}
        for run in range(region.count):
            table = whole.renaming(loop, run)
            for name, (initial, (offset, output)) in zip(loop.enters, region.carried, strict=True):
                inside = whole.graph.nodes[whole.graph.producer[name.removeprefix("enter_")]].output.name
                result = whole.graph.nodes[loop.body.start + offset].outputs[output].name
                table[inside] = initial if run == 0 else previous[result]
            for position, index in enumerate(loop.body):
                node = whole.graph.nodes[index]
                twin = whole.source.nodes[region.start + run * region.length + position]
                assert twin.op == node.op
                assert twin.inputs == tuple(table.get(name, name) for name in node.inputs)
                assert tuple(v.name for v in twin.outputs) == tuple(table[v.name] for v in node.outputs)
                assert [v.shape for v in twin.outputs] == [v.shape for v in node.outputs]
            previous = table


class Block(nn.Module):
    def __init__(self, width: int = 8, inner: int = 16) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Gate(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.gate(x))


def test_layers_of_a_gpt() -> None:
    whole = gpt()
    assert [count for _, count in regions(whole.source)] == [4]
    assert_consistent(whole)
    assert len(whole.graph.nodes) == len(whole.source.nodes) - 3 * whole.source.regions[0].length + 2


@pytest.mark.parametrize(("build", "layers"), [(tiny_llama, 3), (tiny_gpt2, 5)])
def test_layers_of_transformers(build: Any, layers: int) -> None:
    whole = folded(fold(graph_of(build(layers=layers))))
    assert [count for _, count in regions(whole.source)] == [layers]
    assert_consistent(whole)


def test_one_layer_is_no_region() -> None:
    assert fold(graph_of(tiny_gpt(layers=1), token_batch())).regions == ()


def test_the_folded_size_does_not_depend_on_depth() -> None:
    def nodes(layers: int) -> int:
        model = nn.Sequential(nn.Linear(8, 8), *(Block() for _ in range(layers)), nn.Linear(8, 4))
        return len(folded(fold(graph_of(model))).graph.nodes)

    assert nodes(12) == nodes(2)


def test_enter_and_leave() -> None:
    whole = gpt()
    (loop,) = whole.loops
    (carried,) = loop.region.carried
    enter, leave = whole.graph.nodes[loop.start], whole.graph.nodes[loop.stop - 1]
    assert (enter.op, leave.op) == (ENTER, LEAVE)
    assert loop.enters == (enter.name,) and loop.leaves == (leave.name,)
    assert enter.inputs == (carried[0],)
    inner = [name for index in loop.body for name in whole.graph.nodes[index].inputs]
    assert enter.output.name in inner and carried[0] not in inner
    assert whole.graph.producer[leave.inputs[0]] in loop.body
    users = whole.graph.consumers[leave.output.name]
    assert users and min(users) >= loop.stop
    assert leave.output.name == whole.source.nodes[loop.region.stop - 1].output.name


def test_runs_and_copies() -> None:
    whole = gpt()
    (loop,) = whole.loops
    assert [whole.runs[index] for index in loop.body] == [4] * loop.region.length
    assert whole.runs[loop.start] == 1  # entered once
    assert whole.runs[loop.stop - 1] == 4
    assert all(whole.runs[i] == 1 for i in range(len(whole.graph.nodes)) if i not in whole.loop_of)
    copies = {parameter.target: whole.copies[parameter.value.name] for parameter in whole.graph.parameters}
    assert {count for target, count in copies.items() if target.startswith("blocks.")} == {4}
    assert {count for target, count in copies.items() if not target.startswith("blocks.")} == {1}
    total = sum(whole.copies[parameter.value.name] for parameter in whole.graph.parameters)
    assert total == len(whole.source.parameters)


def test_units() -> None:
    whole = gpt()
    units = units_of(whole)
    names = [unit.name for unit in units]
    assert names == ["wte", "wpe", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "norm", "lm_head"]
    assert [unit.run for unit in units if unit.loop] == [0, 1, 2, 3]
    once = {index for unit in units if unit.loop is None for index in unit.nodes}
    assert not once & set(whole.loop_of)
    in_no_unit = set(range(len(whole.graph.nodes))) - once - set(whole.loop_of)
    for index in in_no_unit:  # each stage computes it for itself
        assert all(value.name in whole.graph.recomputable for value in whole.graph.nodes[index].outputs)


class TestAlternatingLayers:
    @staticmethod
    def alternating(pairs: int) -> nn.Module:
        # The first layer of a model is another one: its input needs no gradient.
        return nn.Sequential(nn.Linear(8, 8), *(layer for _ in range(pairs) for layer in (Block(), Gate())))

    def test_two_kinds_fold_with_period_two(self) -> None:
        whole = folded(fold(graph_of(self.alternating(3), BATCH, mean)))
        assert regions(whole.source) == [(4 + 3, 3)]
        assert_consistent(whole)

    def test_modules_of_a_run(self) -> None:
        whole = folded(fold(graph_of(self.alternating(3), BATCH, mean)))
        assert layer_parts(whole, whole.loops[0]) == (("1", "2"), ("3", "4"), ("5", "6"))
        assert [unit.name for unit in units_of(whole)][:4] == ["0", "1", "3", "5"]

    def test_a_pair_in_a_module(self) -> None:
        pairs = [nn.Sequential(Block(), Gate()) for _ in range(3)]
        whole = folded(fold(graph_of(nn.Sequential(nn.Linear(8, 8), *pairs), BATCH, mean)))
        assert regions(whole.source) == [(7, 3)]
        assert_consistent(whole)
        assert layer_parts(whole, whole.loops[0]) == (("1",), ("2",), ("3",))

    def test_an_odd_layer_is_left_over(self) -> None:
        whole = folded(fold(graph_of(nn.Sequential(*self.alternating(3), Block()), BATCH, mean)))
        assert [count for _, count in regions(whole.source)] == [3]
        assert_consistent(whole)

    def test_layers_that_differ_in_a_fixed_value_alone(self) -> None:
        """Every second layer takes another mask, as Gemma's do: the ops are the same, the layers are not."""

        class Masked(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter = nn.Linear(8, 8)
                self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = self.enter(x).sigmoid()
                place = torch.arange(8, device=x.device)
                masks = (place > 3, place > 5)
                for number, layer in enumerate(self.layers):
                    x = layer(x).relu().masked_fill(masks[number % 2], 0.0)
                return x.sum()

        whole = folded(fold(graph_of(Masked(), BATCH)))
        assert regions(whole.source) == [(6, 3)]
        assert_consistent(whole)

    def test_gemma_2(self) -> None:
        from transformers import Gemma2Config, Gemma2ForCausalLM

        config = Gemma2Config(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, max_position_embeddings=16, sliding_window=4,
        )  # fmt: skip
        with torch.device("meta"):
            whole = folded(fold(graph_of(Gemma2ForCausalLM(config))))
        assert [count for _, count in regions(whole.source)] == [2]
        assert_consistent(whole)
        names = [unit.name for unit in units_of(whole) if unit.loop]
        assert names == ["model.layers.0", "model.layers.2"]

    def test_five_of_one_kind_and_one_of_another(self) -> None:
        layers = [Gate() if number % 6 == 5 else Block() for number in range(18)]
        whole = folded(fold(graph_of(nn.Sequential(nn.Linear(8, 8), *layers), BATCH, mean)))
        assert regions(whole.source) == [(5 * 4 + 3, 3)]
        assert_consistent(whole)


class TestUnequalLayers:
    def test_other_sizes(self) -> None:
        model = nn.Sequential(*(Block(inner=16 + 8 * number) for number in range(4)))
        assert fold(graph_of(model, BATCH, mean)).regions == ()

    def test_another_activation(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Tanh())
        assert fold(graph_of(model, BATCH, mean)).regions == ()

    def test_another_number(self) -> None:
        model = nn.Sequential(*(layer for slope in (0.1, 0.2) for layer in (nn.Linear(8, 8), nn.LeakyReLU(slope))))
        assert fold(graph_of(model, BATCH, mean)).regions == ()

    def test_a_frozen_layer(self) -> None:
        model = nn.Sequential(*(Block() for _ in range(5)))
        model[2].requires_grad_(False)
        whole = folded(fold(graph_of(model, BATCH, mean)))
        for loop in whole.loops:
            for run in range(loop.region.count):
                for name, other in whole.renaming(loop, run).items():
                    assert whole.source.values[other].requires_grad == whole.graph.values[name].requires_grad
        assert_consistent(whole)

    def test_ops_without_weights(self) -> None:
        class Weightless(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = super().forward(x)
                for _ in range(5):
                    x = torch.relu(x) * 2
                return x.sum()

        assert fold(graph_of(Weightless(8, 8), BATCH)).regions == ()


def test_the_fingerprint_is_of_the_whole_graph() -> None:
    graph = graph_of(tiny_gpt(), token_batch())
    assert fold(graph).fingerprint == graph.fingerprint
