"""Tokens that are dispatched to experts: micro-batches, stages, tp and dp leave the numbers as they are."""

import json
from dataclasses import fields, replace

import pytest
import torch

from autopart import api
from autopart.estimate.node import Prices
from autopart.ir.placement import sharded
from autopart.ir.plan import NodeChoice, ParameterChoice, PlanData, from_json, to_json
from autopart.search.tensor import search_tensor
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.rules.experts import GROUPED
from autopart.sharding.strategies import strategies
from cost_models.cluster import load_cluster
from tests.equality.parallel import prepared, train_parallel, train_plan
from tests.equality.single import assert_equal, single_process, tolerance
from tests.models import EXPERT_CASES, SAMPLES
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
    prices = Prices(graph, ready.rules, load_cluster(plan.cluster), plan.tp, plan.micro_batch)
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
    plan = PlanData(**from_json(json.loads(json.dumps(to_json(plan))), "here"))
    assert_equal(train_plan(worker_pool, name, dtype, plan), single_process(name, dtype), tolerance(name, dtype))


def test_emitted_experts_need_no_transformers() -> None:
    ready = prepared("mixtral", torch.float32)
    plan = api.make_plan(ready, 2, "local-cpu", SAMPLES, api.Pins(tp=1, pp=2, dp=1))
    texts = [text for _, text in api.make_program(plan, ready).sources]
    assert any("self.comm.grouped_mm(" in text for text in texts) and not any("transformers" in text for text in texts)
