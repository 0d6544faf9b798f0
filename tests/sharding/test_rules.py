"""Every sharding rule, proved by running it."""

import pytest
import torch

from autopart.capture.evaluate import overload
from autopart.probe.prove import all_strategies, cut, show
from autopart.probe.ranks import run_ranks
from autopart.probe.traced import Traced, single
from autopart.sharding.find_rule import find_rule, rule_table
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import PartsOf, Strategy
from tests.sharding.captured import Case
from tests.sharding.op_cases import CASES
from tests.sharding.proof import prove
from tests.sharding.tensors import b, i, t

pytestmark = [
    pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning"),  # kl_div
    pytest.mark.usefixtures("filled_memory"),
]

RULED = [(case, rule) for case in CASES if (rule := find_rule(case.node, case.traced.graph)) is not None]
PARTS: dict[int, PartsOf] = {}


def parts_of(traced: Traced) -> PartsOf:
    if id(traced) not in PARTS:
        rules = {node.name: find_rule(node, traced.graph) for node in traced.graph.nodes}
        PARTS[id(traced)] = infer_axes(traced.graph, rules).parts_of
    return PARTS[id(traced)]


def strategies_of(case: Case, rule: Rule, degree: int) -> tuple[Strategy, ...]:
    return all_strategies(case.node, case.traced, rule, parts_of(case.traced), degree)


@pytest.mark.parametrize(("case", "rule"), [pytest.param(*known, id=known[0].name) for known in RULED])
def test_ranks_together_compute_what_one_does(case: Case, rule: Rule) -> None:
    """Each strategy of the rule, on two ranks and on four."""
    failed = []
    for degree in (2, 4):
        for strategy in strategies_of(case, rule, degree):
            if strategy.divided or degree == 2:
                try:
                    prove(case.node, case.traced, rule, strategy, degree)
                except Exception as error:
                    failed.append(f"on {degree} ranks, {show(strategy)}: {type(error).__name__}: {error}")
    assert not failed, "\n".join(failed)


def test_every_rule_has_an_example_that_it_fits() -> None:
    assert set(rule_table()) - {case.node.op for case, _ in RULED} == set()


def test_every_rule_is_of_an_op_that_exists() -> None:
    for op in rule_table():
        assert overload(op) is not None


NEVER_SHARDED = {f"aten.{name}.default" for name in ("all", "any", "max", "min", "prod", "std", "var")}


def test_every_rule_is_tried_on_shards() -> None:
    sharded: set[str] = set()
    for case, rule in RULED:
        if case.node.op not in sharded and any(strategy.divided for strategy in strategies_of(case, rule, 2)):
            sharded.add(case.node.op)
    assert set(rule_table()) - sharded == NEVER_SHARDED


# Calls that a rule does not hold for, although their op has one.
WITHOUT = [
    single("aten.embedding.default", t(8, 4), i(8, 4), -1, True),
    single("aten.roll.default", t(4, 8), [3]),
    single("aten.einsum.default", "ii->i", [t(4, 4)]),
    single("aten.index.Tensor", t(4, 8), [b(4)]),
    single("aten.scaled_dot_product_attention.default", t(2, 4, 8, 4), t(1, 4, 8, 4), t(1, 4, 8, 4)),
]


@pytest.mark.parametrize("traced", WITHOUT, ids=[traced.graph.nodes[0].op for traced in WITHOUT])
def test_a_call_that_cannot_be_sharded_has_no_rule(traced: Traced) -> None:
    assert find_rule(traced.graph.nodes[0], traced.graph) is None


def test_random_numbers_are_common_where_the_work_is_and_differ_where_it_is_not() -> None:
    traced = single("aten.dropout.default", torch.ones(64, 64, dtype=torch.float64).requires_grad_(), 0.25, True)
    node = traced.graph.nodes[0]
    rule = find_rule(node, traced.graph)
    assert rule is not None
    for strategy in all_strategies(node, traced, rule, {}, 4):
        torch.manual_seed(0)
        inputs = cut(traced.values["x0"], strategy.inputs[0].value, 4)
        kept = [own for (own,) in run_ranks(node, rule, strategy, [[x] for x in inputs])]
        if strategy.divided:
            assert not any(torch.equal(kept[0], other) for other in kept[1:])
        assert all(set(own.unique().tolist()) == {0.0, 1 / 0.75} for own in kept)
        assert all(abs(own.mean() - 1) < 0.1 for own in kept)
