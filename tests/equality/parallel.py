"""The parallel side of an equality proof: plan and write out here, train on the ranks of a pool."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from typing import Any

import torch

from autopart import api
from autopart.ir.graph import Graph
from autopart.ir.plan import PlanData
from autopart.ir.program import Program
from autopart.runtime.parallel import Parallel
from cost_models.mixed_cluster import MixedCluster
from tests.equality.single import STEPS, Trace, optimizer
from tests.models import SAMPLES, build
from tests.models import case as case_of
from tests.worker_pool import WorkerPool

Kinds = tuple[tuple[str, int], ...]


@cache
def prepared(name: str, dtype: torch.dtype) -> api.Prepared:
    """The captured model, once for all layouts."""
    case = case_of(name)
    return api.prepare(build(name, dtype), case.batch(dtype), case.loss, case.rules)


def train_parallel(
    pool: WorkerPool, name: str, dtype: torch.dtype, world: int, cluster: str | MixedCluster, **pins: Any
) -> tuple[Trace, PlanData]:
    """Train `name` on `world` ranks with these pins; what rank 0 gathered, and the plan."""
    data = plan_of(name, dtype, world, cluster, **pins)
    return train_plan(pool, name, dtype, data), data


def plan_of(name: str, dtype: torch.dtype, world: int, cluster: str | MixedCluster, **pins: Any) -> PlanData:
    """The plan for `name` on `world` ranks with these pins."""
    plan = api.make_plan(prepared(name, dtype), world, cluster, SAMPLES, api.Pins(**pins))
    return PlanData(**{item.name: getattr(plan, item.name) for item in fields(PlanData)})


def recomputing(plan: PlanData, kinds: Kinds) -> PlanData:
    """`plan` with these kinds of layers, in order."""
    every = [kind for kind, count in kinds for _ in range(count)]
    stages, first = [], 0
    for stage in plan.stages:
        stages.append(replace(stage, recompute=tuple((kind, 1) for kind in every[first : first + stage.layers])))
        first += stage.layers
    return replace(plan, stages=tuple(stages), recompute="as the test says")


def train_plan(
    pool: WorkerPool, name: str, dtype: torch.dtype, data: PlanData, on_rank: Callable[..., Any] | None = None
) -> Trace:
    """Train `name` as a plan says; what rank 0 gathered. `on_rank` is called in place of `train`."""
    ready = prepared(name, dtype)
    program = api.make_program(data, ready)
    args = (name, dtype, data, program, ready.captured.graph, dict(ready.captured.constants))
    results = pool.run(on_rank or train, data.world, *args)
    losses = {result[0] for result in results}
    assert len(losses) == 1, f"ranks disagree on the loss: {losses}"
    return Trace(*results[0])


def train(
    name: str, dtype: torch.dtype, plan: PlanData, program: Program, graph: Graph, constants: dict[str, torch.Tensor]
) -> tuple[Any, ...]:
    """What a rank does: losses, whole gradients and the state after all steps."""
    par = Parallel(plan, program, graph, build(name, dtype), constants)
    batch = case_of(name).batch(dtype)
    stepper = optimizer(par.parameters())
    losses, gradients = [], []
    for _ in range(STEPS):
        stepper.zero_grad()
        losses.append(float(par.train_step(par.shard_batch(batch))))
        gradients.append(par.full_gradients())
        stepper.step()
    return tuple(losses), tuple(gradients), par.full_state_dict()
