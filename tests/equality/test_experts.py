"""Tokens that are dispatched to experts: micro-batches, stages, tp and dp leave the numbers as they are."""

import json
from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch

from autopart import api
from autopart.errors import UnsupportedError
from autopart.estimate.block import unit_costs
from autopart.estimate.node import Prices
from autopart.ir.placement import sharded
from autopart.ir.plan import NodeChoice, ParameterChoice, PlanData
from autopart.ir.plan_json import plan_from_json, plan_to_json
from autopart.ir.units import units_of
from autopart.search.pipeline import search_cuts
from autopart.search.tensor import search_tensor
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.rules.experts import GROUPED
from autopart.sharding.strategies import Strategy, strategies
from cost_models.cluster import load_cluster
from cost_models.stack import load_stack
from tests.equality.parallel import prepared, train_parallel, train_plan
from tests.equality.single import assert_equal, single_process, tolerance
from tests.estimate.keepings import keeping
from tests.models import EXPERT_CASES, SAMPLES, mixtral
from tests.worker_pool import WorkerPool


@pytest.mark.parametrize(
    "layout", [(2, 2, 1), (1, 2, 2), (1, 1, 2)], ids=lambda layout: "tp{}-pp{}-dp{}".format(*layout)
)
@pytest.mark.parametrize("name", EXPERT_CASES)
def test_equal_to_a_single_process(worker_pool: WorkerPool, name: str, layout: tuple[int, int, int]) -> None:
    tp, pp, dp = layout
    dtype = torch.float32
    assert not prepared(name, dtype).batch.mixing and not prepared(name, dtype).batch.weighted
    found, plan = train_parallel(
        worker_pool, name, dtype, tp * pp * dp, "local-cpu", tp=tp, pp=pp, dp=dp, micro_batch=2
    )
    assert (plan.tp, plan.pp, plan.dp, plan.micro_batches) == (tp, pp, dp, 4 // dp)
    assert not any("mix" in note.text for note in plan.notes)
    assert_equal(found, single_process(name, dtype), tolerance(name, dtype))


def with_experts_shared(plan: PlanData, ready: api.Prepared) -> PlanData:
    """`plan` with the fastest layout of those in which each rank has its own experts."""
    graph = ready.folded.graph
    axes = infer_axes(graph, ready.rules)
    options = {n.name: strategies(n, graph, ready.rules[n.name], axes.parts_of, plan.tp) for n in graph.nodes}
    for node in graph.nodes:
        if node.op in GROUPED:
            options[node.name] = tuple(own for own in options[node.name] if own.call == "grouped_mm")
    prices = Prices(graph, ready.rules, load_cluster(plan.cluster), plan.tp, plan.micro_batch, load_stack("autopart"))
    found = search_tensor(ready.folded, options, prices)
    choices = tuple(NodeChoice(n, x.letter, x.inputs, x.outputs, x.call) for n, x in found.strategies.items())
    layouts = tuple(ParameterChoice(name, layout) for name, layout in found.parameters.items())
    return replace(plan, nodes=choices, parameters=layouts)


@pytest.mark.parametrize(("name", "tp"), [("mixtral", 2), ("qwen3_moe", 2), ("qwen3_moe", 3)])
def test_each_rank_has_its_own_experts(worker_pool: WorkerPool, name: str, tp: int) -> None:
    dtype, ready = torch.float32, prepared(name, torch.float32)
    made = api.make_plan(ready, 2 * tp, "local-cpu", SAMPLES, api.Pins(tp=tp, pp=2, dp=1, micro_batch=2))
    plan = with_experts_shared(PlanData(**{item.name: getattr(made, item.name) for item in fields(PlanData)}), ready)
    experts = [choice.layout for choice in plan.parameters if "experts" in choice.name]
    assert len(experts) == 2 and all(layout == sharded(0) for layout in experts)
    plan = PlanData(**plan_from_json(json.loads(json.dumps(plan_to_json(plan))), "here"))
    assert_equal(train_plan(worker_pool, name, dtype, plan), single_process(name, dtype), tolerance(name, dtype))


def test_no_stage_is_cut_between_an_expert_and_its_rows() -> None:
    """Each rank has experts of its own: how many rows these get, the next stage cannot know."""
    model = mixtral()
    model.model.layers = model.model.layers[:1]
    tokens = torch.zeros(2, 16, dtype=torch.long)
    ready = api.prepare(model, {"input_ids": tokens, "labels": tokens})
    made = api.make_plan(ready, 4, "local-cpu", SAMPLES, api.Pins(tp=2, pp=2, dp=1, micro_batch=2))
    plan = with_experts_shared(PlanData(**{item.name: getattr(made, item.name) for item in fields(PlanData)}), ready)
    units = units_of(ready.folded)
    prices = Prices(ready.folded.graph, ready.rules, load_cluster("local-cpu"), 2, 2, load_stack("autopart"))
    chosen = {own.node: Strategy(own.letter, own.inputs, own.outputs, own.call) for own in plan.nodes}
    costs = unit_costs(ready.folded, units, prices, chosen, {own.name: own.layout for own in plan.parameters})
    places = [cost.cut_behind for cost in costs[:-1]]
    assert 0 < sum(places) < len(places)
    for place, possible in enumerate(places, start=1):
        first, second = plan.stages
        cut = replace(plan, cuts=(place,), stages=(replace(first, stop=place), replace(second, start=place)))
        with nullcontext() if possible else pytest.raises(UnsupportedError, match="known only when the model runs"):
            api.make_program(cut, ready)
    for place, possible in enumerate(places, start=1):
        assert search_cuts(costs, 2, (1, 1), float("inf"), keeping(), [place]) == ((place,) if possible else None)


def test_emitted_experts_need_no_transformers() -> None:
    ready = prepared("mixtral", torch.float32)
    plan = api.make_plan(ready, 2, "local-cpu", SAMPLES, api.Pins(tp=1, pp=2, dp=1))
    texts = [text for _, text in api.make_program(plan, ready).sources]
    assert any("self.comm.grouped_mm(" in text for text in texts) and not any("transformers" in text for text in texts)
