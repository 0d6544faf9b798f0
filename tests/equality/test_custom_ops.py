"""An operator of the user's own comes through: captured, planned, written out and trained, with a rule and without."""

import pytest
import torch

import autopart
from autopart import api
from autopart.ir.placement import Shard
from autopart.ir.plan import PlanData
from tests.equality.parallel import prepared, train_parallel
from tests.equality.single import assert_equal, single_process, tolerance
from tests.models import GATE, OPERATOR_CASES, build, case
from tests.worker_pool import WorkerPool

DTYPE = torch.float64


def gates(name: str, plan: PlanData) -> list[bool]:
    """For every call of the operator in a plan, whether its output is sharded."""
    of = {node.name for node in prepared(name, DTYPE).folded.graph.nodes if node.op == GATE}
    return [isinstance(choice.outputs[0].value, Shard) for choice in plan.nodes if choice.node in of]


@pytest.mark.parametrize("layout", [(2, 1, 1), (2, 2, 2)], ids=lambda layout: "tp{}-pp{}-dp{}".format(*layout))
@pytest.mark.parametrize("name", OPERATOR_CASES)
def test_equal_to_a_single_process(worker_pool: WorkerPool, name: str, layout: tuple[int, int, int]) -> None:
    tp, pp, dp = layout
    pins = {"tp": tp, "pp": pp, "dp": dp, "micro_batch": 2}
    found, plan = train_parallel(worker_pool, name, DTYPE, tp * pp * dp, "local-cpu", **pins)
    assert_equal(found, single_process(name, DTYPE), tolerance(name, DTYPE))
    if case(name).rules is None:
        assert not any(gates(name, plan))
        assert any(note.subject == GATE and "no sharding rule knows it" in note.text for note in plan.replicated)
    else:
        assert all(gates(name, plan)) and gates(name, plan)
        assert not any(note.subject == GATE for note in plan.replicated)
    sources = "\n".join(text for _, text in api.make_program(plan, prepared(name, DTYPE)).sources)
    assert "torch.ops.autopart_tests.gate" in sources
    assert "custom_ops" not in sources


def test_the_rule_is_the_one_discovered() -> None:
    def r(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))

    build("gated_mlp", DTYPE)  # registers the operator
    examples = [(r(12), r(12), r(12)), (r(6, 12), r(6, 12), r(12)), (r(6, 18, 12), r(6, 18, 12), r(12))]
    found = autopart.rules.discover(torch.ops.autopart_tests.gate, examples)
    assert {found.op: found.notation} == OPERATOR_CASES["gated_mlp_ruled"].rules


def test_a_rule_goes_before_those_of_the_package() -> None:
    model, own = build("residual_mlp", DTYPE), case("residual_mlp")
    whole = {"aten.linear.default": "B* I, O I, O? -> B* O"}
    known = api.prepare(model, own.batch(DTYPE), own.loss, whole)
    rules = [known.rules[node.name] for node in known.folded.graph.nodes if node.op == "aten.linear.default"]
    assert rules and all(rule is not None and {"I", "O"} <= rule.whole for rule in rules)


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        (
            {"autopart_tests.gat.default": "a -> a"},
            autopart.UnknownNameError,
            "gat.default' is registered",
        ),
        ({"autopart_tests.gate": "a -> a"}, autopart.UnknownNameError, "namespace.name.overload"),
        ({GATE: "a b, a b"}, autopart.RuleError, "cannot be read"),
        ({GATE: "a, a, a -> a; lineal 0"}, autopart.RuleError, "'lineal 0' is not a fact"),
        ({GATE: 3}, autopart.RuleError, "cannot be read"),
    ],
)
def test_rules_that_cannot_be(rules: dict[str, str], error: type[Exception], message: str) -> None:
    own = case("gated_mlp")
    with pytest.raises(error, match=message):
        autopart.plan(build("gated_mlp", DTYPE), 2, inputs=own.batch(DTYPE), loss=own.loss, rules=rules)


def test_a_plan_made_with_rules_needs_them_again() -> None:
    own = case("gated_mlp_ruled")
    args = {"inputs": own.batch(DTYPE), "loss": own.loss}
    plan = autopart.plan(build("gated_mlp", DTYPE), 2, cluster="local-cpu", tp=2, rules=own.rules, **args)
    with pytest.raises(autopart.PlanMismatchError, match="pass the rules= that it was made with"):
        autopart.parallelize(build("gated_mlp", DTYPE), plan=plan, **args)
