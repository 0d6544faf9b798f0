"""Every sharding rule, proved by running it."""

import pytest

from autopart.sharding.find_rule import find_rule, rule_table
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.strategies import PartsOf
from tests.sharding.captured import Traced, nodes
from tests.sharding.op_examples import FAMILIES
from tests.sharding.proof import all_strategies, prove, show

ALL = tuple(nodes(FAMILIES))
RULED = [
    (name, traced, node, rule) for name, traced, node in ALL if (rule := find_rule(node, traced.graph)) is not None
]
PARTS: dict[int, PartsOf] = {}


def parts_of(traced: Traced) -> PartsOf:
    if id(traced) not in PARTS:
        rules = {node.name: find_rule(node, traced.graph) for node in traced.graph.nodes}
        PARTS[id(traced)] = infer_axes(traced.graph, rules).parts_of
    return PARTS[id(traced)]


PROOFS = [
    pytest.param(traced, node, rule, strategy, degree, id=f"{name}-{degree}-{show(strategy)}")
    for name, traced, node, rule in RULED
    for degree in (2, 4)
    for strategy in all_strategies(node, traced, rule, parts_of(traced), degree)
    if strategy.divided or degree == 2
]


@pytest.mark.parametrize(("traced", "node", "rule", "strategy", "degree"), PROOFS)
def test_ranks_together_compute_what_one_does(traced, node, rule, strategy, degree):
    prove(node, traced, rule, strategy, degree)


def test_every_rule_has_an_example_that_it_fits():
    assert set(rule_table()) - {node.op for _, _, node, _ in RULED} == set()
