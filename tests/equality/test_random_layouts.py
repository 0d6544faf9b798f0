"""Layouts that no search would choose: everything sharded at random, as far as the rules allow, and still equal."""

import random
from collections import Counter
from dataclasses import dataclass, field, replace

import pytest
import torch

from autopart.estimate.conversions import Cost
from autopart.estimate.node import Prices
from autopart.ir.graph import Node
from autopart.ir.placement import Layout
from autopart.ir.plan import NodeChoice, ParameterChoice
from autopart.search.tensor import search_tensor
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.reshard import conversion
from autopart.sharding.strategies import Strategy, strategies
from cost_models.cluster import load_cluster
from cost_models.stack import load_stack
from tests.equality.parallel import plan_of, prepared, train_plan
from tests.equality.single import assert_equal, single_process, tolerance
from tests.worker_pool import WorkerPool


@dataclass(frozen=True)
class RandomPrices(Prices):
    """Prices drawn at random, whole work made dear, so that the cheapest layout is a random one."""

    draw: random.Random = field(default_factory=random.Random)

    def node(self, node: Node, strategy: Strategy) -> Cost:
        return Cost(self.draw.random() + (0.0 if strategy.divided else 0.7), 0.0)

    def conversion(self, name: str, source: Layout, target: Layout) -> Cost | None:
        if source == target:
            return Cost()
        possible = conversion(source, target, self.graph.values[name].requires_grad)
        return Cost(self.draw.random() * 0.5, 0.0) if possible else None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("name", "tp", "pp"), [("gpt", 2, 1), ("gpt", 4, 2), ("llama", 2, 2), ("llama", 4, 1), ("conv_net", 2, 1)]
)
def test_a_random_layout_is_equal_too(worker_pool: WorkerPool, name: str, tp: int, pp: int, seed: int) -> None:
    dtype = torch.float64
    ready = prepared(name, dtype)
    graph = ready.folded.graph
    plan = plan_of(name, dtype, tp * pp, "local-cpu", tp=tp, pp=pp, dp=1, micro_batch=4)
    axes = infer_axes(graph, ready.rules)
    options = {n.name: strategies(n, graph, ready.rules[n.name], axes.parts_of, tp) for n in graph.nodes}
    prices = RandomPrices(
        graph, ready.rules, load_cluster("local-cpu"), tp, 4, load_stack("autopart"), draw=random.Random(seed)
    )
    found = search_tensor(ready.folded, options, prices)
    choices = tuple(
        NodeChoice(node, own.letter, own.inputs, own.outputs, own.call) for node, own in found.strategies.items()
    )
    layouts = tuple(ParameterChoice(parameter, layout) for parameter, layout in found.parameters.items())
    kinds = Counter(str(layout) for choice in choices for layout in (*choice.inputs, *choice.outputs))
    assert len(kinds) > 3, f"the layout is not random: {kinds}"
    trace = train_plan(worker_pool, name, dtype, replace(plan, nodes=choices, parameters=layouts))
    assert_equal(trace, single_process(name, dtype), tolerance(name, dtype))
