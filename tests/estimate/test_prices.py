"""Prices of nodes, units and stages against formulas written out by hand."""

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autopart.estimate.block import UnitCost, unit_costs
from autopart.estimate.memory import parameter_bytes, stage_memory
from autopart.estimate.node import Prices
from autopart.estimate.recompute import recomputed
from autopart.ir.graph import Node
from autopart.ir.placement import PARTIAL_GRADIENT
from autopart.search.tensor import search_tensor
from cost_models.device import load_device
from tests.capture.models import tiny_gpt, token_batch
from tests.estimate.keepings import keeping
from tests.search.problems import Problem, problem

HIDDEN, SEQUENCE, VOCAB, LAYERS, HEADS = 64, 32, 128, 3, 4
DEVICE = load_device("h100-sxm-80gb")
# Of a GPT layer: qkv and proj (4 h^2), up and down (8 h^2), their biases (9 h), two norms (4 h).
LAYER_ELEMENTS = 12 * HIDDEN**2 + 13 * HIDDEN
OUTSIDE_ELEMENTS = VOCAB * HIDDEN + SEQUENCE * HIDDEN + 2 * HIDDEN  # wte (tied to the head), wpe, the last norm


@cache
def gpt() -> Problem:
    return problem(tiny_gpt(hidden=HIDDEN, vocab=VOCAB, context=SEQUENCE, layers=LAYERS), token_batch(SEQUENCE))


def costs(whole: Problem, tp: int, batch: int, byte_price: float = 0.0) -> tuple[UnitCost, ...]:
    prices = whole.prices(tp, batch)
    plan = search_tensor(whole.folded, whole.options(tp), prices, seconds_per_byte=byte_price)
    return unit_costs(whole.folded, whole.units, prices, plan.strategies, plan.parameters)


def nodes(whole: Problem, op: str) -> list[Node]:
    return [node for node in whole.folded.graph.nodes if node.op.split(".")[1] == op]


class TestFlops:
    @pytest.mark.parametrize("batch", [1, 3, 8])
    def test_linear(self, batch: int) -> None:
        prices = gpt().prices(1, batch)
        qkv = nodes(gpt(), "linear")[0]
        expected = 2 * batch * SEQUENCE * HIDDEN * 3 * HIDDEN
        assert prices.flops(qkv) == expected
        assert prices.backward_flops(qkv) == 2 * expected

    @pytest.mark.parametrize("batch", [1, 4])
    def test_causal_attention(self, batch: int) -> None:
        """Two products of (seq x head size) and (head size x seq) a head, half of it masked; backward 2.5 times."""
        prices = gpt().prices(1, batch)
        (attention,) = nodes(gpt(), "scaled_dot_product_attention")
        expected = 2 * (2 * batch * SEQUENCE * SEQUENCE * HIDDEN) / 2
        assert prices.flops(attention) == expected
        assert prices.backward_flops(attention) == 2.5 * expected

    def test_attention_without_a_mask(self) -> None:
        class Cross(nn.Linear):
            def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
                q, k = (
                    super(Cross, self).forward(t).view(t.shape[0], t.shape[1], 2, 4).transpose(1, 2) for t in (x, y)
                )
                return F.scaled_dot_product_attention(q, k, k).sum()

        whole = problem(Cross(8, 8), (torch.empty(4, 6, 8), torch.empty(4, 10, 8)))
        (attention,) = nodes(whole, "scaled_dot_product_attention")
        assert whole.prices(1, 5).flops(attention) == 2 * (2 * 5 * 6 * 10 * 8)

    def test_a_frozen_input_costs_no_gradient(self) -> None:
        whole = problem(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 4)), torch.empty(4, 8))
        first, second = nodes(whole, "linear")
        prices = whole.prices(1, 2)
        assert prices.backward_flops(first) == prices.flops(first)  # the data needs no gradient
        assert prices.backward_flops(second) == 2 * prices.flops(second)

    def test_convolution(self) -> None:
        whole = problem(nn.Sequential(nn.Conv2d(3, 8, 5)), torch.empty(2, 3, 12, 12))
        (conv,) = nodes(whole, "conv2d")
        assert whole.prices(1, 2).flops(conv) == 2 * 2 * 8 * 8 * 8 * 3 * 5 * 5

    def test_grouped_convolution(self) -> None:
        whole = problem(nn.Sequential(nn.Conv1d(8, 16, 3, groups=4)), torch.empty(2, 8, 12))
        (conv,) = nodes(whole, "conv1d")
        assert whole.prices(1, 2).flops(conv) == 2 * 2 * 10 * 16 * (8 // 4) * 3

    def test_experts(self) -> None:
        class Experts(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.empty(4, 8, 16, dtype=torch.bfloat16))
                self.ends = nn.Buffer(torch.tensor([0, 1, 1, 2], dtype=torch.int32))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return F.grouped_mm(x, self.weight, offs=self.ends)

        whole = problem(Experts(), torch.empty(2, 8, dtype=torch.bfloat16))
        (product,) = nodes(whole, "_grouped_mm")
        assert whole.prices(1, 6).flops(product) == 2 * 6 * 8 * 16  # each row meets one expert

    def test_what_is_no_matmul_counts_nothing(self) -> None:
        prices = gpt().prices(1, 2)
        for op in ("layer_norm", "gelu", "embedding", "add", "view", "cross_entropy_loss"):
            for node in nodes(gpt(), op):
                assert (prices.flops(node), prices.backward_flops(node)) == (0, 0)

    def test_a_whole_gpt(self) -> None:
        """6 flops a parameter and token, and attention: the formula that the field counts with."""
        batch = 2
        tokens = batch * SEQUENCE
        matmul = 6 * tokens * (LAYERS * 12 * HIDDEN**2 + VOCAB * HIDDEN)
        attention = LAYERS * 3.5 * (2 * batch * SEQUENCE**2 * HIDDEN)
        assert sum(cost.model_flops for cost in costs(gpt(), 1, batch)) == pytest.approx(matmul + attention, rel=1e-12)

    def test_sharing_does_not_change_the_models_flops(self) -> None:
        alone = sum(cost.model_flops for cost in costs(gpt(), 1, 2))
        shared = sum(cost.model_flops for cost in costs(gpt(), 4, 2, byte_price=1.0))
        assert shared == pytest.approx(alone, rel=1e-12)


class TestSeconds:
    @pytest.mark.parametrize(("tp", "byte_price"), [(1, 0.0), (4, 0.0), (4, 1.0)])
    def test_units_sum_to_the_objective(self, tp: int, byte_price: float) -> None:
        """What the tensor search minimizes is what the units cost, and its share of what a step does once."""
        whole, prices = gpt(), gpt().prices(tp, 2)
        plan = search_tensor(whole.folded, whole.options(tp), prices, 8, byte_price)
        units = unit_costs(whole.folded, whole.units, prices, plan.strategies, plan.parameters)
        held = parameter_bytes(units)[0]
        once = prices.optimizer_s(held) + sum(
            prices.partial_gradient_s(name) * whole.folded.copies[name]
            for name, layout in plan.parameters.items()
            if layout == PARTIAL_GRADIENT
        )
        # The gradients of the first micro-batch are not added to any.
        once -= sum(
            prices.gradient_sum_s(name, layout) * whole.folded.copies[name] for name, layout in plan.parameters.items()
        )
        in_units = {index for unit in whole.units for index in unit.nodes} | set(whole.folded.loop_of)
        helpers = [node for index, node in enumerate(whole.folded.graph.nodes) if index not in in_units]
        apart = sum(prices.node(node, plan.strategies[node.name]).total_s for node in helpers)
        total = sum(unit.forward_s + unit.backward_s for unit in units)
        matrices = sum(
            prices.local_bytes(name, layout) * whole.folded.copies[name]
            for name, layout in plan.parameters.items()
            if len(whole.folded.graph.values[name].shape) > 1
        )
        assert total + apart + once / 8 + byte_price * matrices == pytest.approx(plan.seconds, rel=1e-9)

    def test_equal_layers_cost_the_same(self) -> None:
        layers = [cost for cost, unit in zip(costs(gpt(), 1, 2), gpt().units, strict=True) if unit.loop]
        assert len(layers) == LAYERS
        assert len({(cost.forward_s, cost.backward_s, cost.kept_bytes) for cost in layers}) == 1
        assert parameter_bytes(layers)[0] == pytest.approx(LAYERS * parameter_bytes(layers[:1])[0])

    def test_more_work_takes_longer(self) -> None:
        times = [sum(c.forward_s + c.backward_s for c in costs(gpt(), 1, batch)) for batch in (1, 64, 256)]
        assert times == sorted(times) and times[0] < times[-1]

    def test_no_communication_alone(self) -> None:
        assert all(cost.communication_s == 0 for cost in costs(gpt(), 1, 2))

    def test_communication_is_part_of_the_passes(self) -> None:
        shared = costs(gpt(), 4, 2, byte_price=1.0)
        assert sum(cost.communication_s for cost in shared) > 0
        for cost in shared:
            assert cost.communication_s <= cost.forward_s + cost.backward_s


class TestBytes:
    def test_parameters_of_a_gpt(self) -> None:
        units = costs(gpt(), 1, 2)
        elements = LAYERS * LAYER_ELEMENTS + OUTSIDE_ELEMENTS
        assert parameter_bytes(units) == (4 * elements, elements)
        layer = next(cost for cost, unit in zip(units, gpt().units, strict=True) if unit.loop)
        assert sum(size for _, size, _ in layer.parameters) == 4 * LAYER_ELEMENTS

    def test_a_tied_weight_counts_once_a_stage(self) -> None:
        units = costs(gpt(), 1, 2)
        first, last = units[0], units[-1]
        assert first.parameters == last.parameters == (("wte.weight", 4 * VOCAB * HIDDEN, VOCAB * HIDDEN),)
        assert parameter_bytes([first, last])[0] == parameter_bytes([first])[0]

    def test_sharing_divides_what_it_shards(self) -> None:
        alone, shared = costs(gpt(), 1, 2), costs(gpt(), 4, 2, byte_price=1.0)
        sharded_bytes = parameter_bytes(shared)[0]
        matrices = 4 * (LAYERS * 12 * HIDDEN**2 + VOCAB * HIDDEN)
        assert matrices / 4 <= sharded_bytes < parameter_bytes(alone)[0] - 0.7 * matrices
        assert parameter_bytes(shared)[1] == parameter_bytes(alone)[1]

    def test_state_of_a_stage(self) -> None:
        units = costs(gpt(), 1, 2)
        held = 4 * (LAYERS * LAYER_ELEMENTS + OUTSIDE_ELEMENTS)
        memory = stage_memory(units, 1, keeping(), 0.0)
        assert (memory.parameters_bytes, memory.gradients_bytes, memory.optimizer_bytes) == (held, held, 2 * held)
        assert stage_memory(units, 1, keeping(optimizer="sgd"), 0.0).optimizer_bytes == 0

    def test_activations_of_a_linear_stack(self) -> None:
        """Autograd keeps a linear's input and a relu's output: they are the same tensor."""
        whole = problem(nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(32, 32, bias=False), nn.ReLU()))), None)
        kept = sum(cost.kept_bytes for cost in costs(whole, 1, 10))
        # The data, and the outputs of three relus, of which two are the inputs of the next linear as well.
        assert kept == 4 * (4 * 10 * 32)

    def test_activations_grow_with_what_is_in_flight(self) -> None:
        units = costs(gpt(), 1, 2)
        one, three = (stage_memory(units, n, keeping(), 1000.0).activations_bytes for n in (1, 3))
        assert three == 3 * one
        assert one == int(sum(cost.kept_bytes for cost in units)) + 1000

    def test_what_crosses_a_cut(self) -> None:
        """Between layers one activation crosses; the labels, which every stage has, do not."""
        units = costs(gpt(), 1, 2)
        after_layers = [cost.crossing_bytes for cost, unit in zip(units, gpt().units, strict=True) if unit.loop]
        assert after_layers == [4 * 2 * SEQUENCE * HIDDEN] * LAYERS
        assert units[-1].crossing_bytes == 0

    def test_a_skip_crosses_every_cut_on_its_way(self) -> None:
        class Skip(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList(nn.Linear(16, 16 * (2 + i % 2)) for i in range(2))
                self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 24), nn.Linear(24, 16)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                first = self.a(x)
                return (self.c(torch.relu(self.b(torch.relu(first)))) + first).sum()

        whole = problem(Skip(), torch.empty(4, 16))
        a, b, c = (cost.crossing_bytes for cost in costs(whole, 1, 10))
        assert b == 4 * 10 * (24 + 16)
        assert a == 4 * 10 * (16 + 16)  # relu(first) for b, and first for the sum
        assert c == 0


class TestRecomputation:
    @staticmethod
    def memory(recompute: str, in_flight: int) -> Any:
        return stage_memory([recomputed(cost, recompute) for cost in costs(gpt(), 1, 4)], in_flight, keeping(), 0.0)

    def test_it_lowers_activations(self) -> None:
        for in_flight in (1, 4):
            assert self.memory("full", in_flight).activations_bytes < self.memory("none", in_flight).activations_bytes

    def test_a_layer_keeps_its_input_alone(self) -> None:
        layers = [cost for cost, unit in zip(costs(gpt(), 1, 4), gpt().units, strict=True) if unit.loop]
        assert all(cost.input_bytes == 4 * 4 * SEQUENCE * HIDDEN for cost in layers)
        memory = stage_memory([recomputed(cost, "full") for cost in layers], 2, keeping(), 0.0)
        assert memory.activations_bytes == int(2 * LAYERS * layers[0].input_bytes + layers[0].kept_bytes)

    def test_it_repeats_the_forward_pass_of_layers(self) -> None:
        plain, again = (
            gpt().search(1, 8, tp=1, pp=1, dp=1, micro_batch=4, recompute=recompute).run().best
            for recompute in ("none", "full")
        )
        layers = sum(cost.forward_s for cost, unit in zip(plain.costs, gpt().units, strict=True) if unit.loop)
        assert again.forward_s == plain.forward_s
        assert again.backward_s[0] == pytest.approx(plain.backward_s[0] + layers, rel=1e-12)
        assert again.peak_bytes < plain.peak_bytes

    def test_what_is_outside_layers_is_kept(self) -> None:
        units = [cost for cost, unit in zip(costs(gpt(), 1, 4), gpt().units, strict=True) if unit.loop is None]
        assert all(recomputed(cost, "full") is cost for cost in units)


def test_prices_are_of_the_given_cluster() -> None:
    qkv = nodes(gpt(), "linear")[0]
    strategy = gpt().options(1)[qkv.name][0]

    def seconds(cluster: str) -> float:
        prices: Prices = gpt().prices(1, 512, cluster)
        return prices.node(qkv, strategy).total_s

    assert seconds("dgx-a100") > seconds("dgx-h100")
