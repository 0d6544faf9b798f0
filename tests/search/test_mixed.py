"""Pipelines over several kinds of nodes: exact cuts, the order of the kinds, memory of every kind, bounds that hold."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import pytest
from numpy.random import default_rng

from autopart.errors import InfeasiblePlanError, PlanningError
from autopart.estimate.block import UnitCost, unit_costs
from autopart.estimate.memory import stage_memory
from autopart.estimate.node import Prices
from autopart.ir.action import Kind
from autopart.schedules.find import find_schedule
from autopart.schedules.makespan import makespan_s
from autopart.search.any_cuts import least_of_any_cuts_s
from autopart.search.degrees import DegreeSearch, Found
from autopart.search.mixed_cuts import GroupOfStages, MixedCutSearch
from autopart.search.pipeline import CutSearch
from autopart.search.stage_plans import stage_plans
from cost_models.cluster import load_cluster
from cost_models.collective import send_s
from cost_models.memory import reserve_bytes
from cost_models.mixed_cluster import MixedCluster, NodeGroup
from tests.estimate.keepings import keeping
from tests.search.problems import Problem
from tests.search.test_degrees import heavy
from tests.search.test_pipeline import chain
from tests.search.test_prune import model

INFINITE = float("inf")


def mixed(*groups: tuple[str, int], between: str = "dgx-a100") -> MixedCluster:
    own = tuple(NodeGroup(load_cluster(name), devices) for name, devices in groups)
    return MixedCluster("here", own, load_cluster(between).inter_node, ())


def searched(whole: Problem, batch: int, cluster: MixedCluster, **pins: object) -> DegreeSearch:
    first = cluster.groups[0].cluster.name
    return whole.search(cluster.devices, batch, first, mixed=cluster, **pins)


def best(whole: Problem, batch: int, cluster: MixedCluster, **pins: object) -> Found:
    return searched(whole, batch, cluster, **pins).run()


@pytest.mark.parametrize("name", ["small gpt", "uneven"])
def test_groups_of_equal_nodes_are_one_cluster(name: str) -> None:
    """Every point costs what it does without groups; the embedding is tied across them."""
    twice = mixed(("dgx-h100", 8), ("dgx-h100", 8), between="dgx-h100")
    for pins in ({}, {"memory_limit_bytes": 6e9}):
        plain, grouped = model(name).search(16, 32, **pins), searched(model(name), 32, twice, **pins)
        limit = 1.5e9 if pins else INFINITE
        checked = ties = 0
        for point in grouped.points[::3]:
            if point.pp != 2 or point.zero > 1:
                continue
            one = plain.pricing.candidate(point._replace(order=()), limit)
            other = grouped.pricing.candidate(point, limit)
            assert (one is None) == (other is None)
            if one is None or other is None:
                continue
            times = [sorted(f + b for f, b in zip(x.forward_s, x.backward_s, strict=True)) for x in (one, other)]
            assert times[0] == pytest.approx(times[1], rel=1e-12)
            if other.cuts != one.cuts:  # of layers that are all alike, the fewer may come first
                ties += 1
                continue
            assert other.kinds == one.kinds
            assert other.memory == one.memory
            assert other.estimated_s == pytest.approx(one.estimated_s, rel=1e-12)
            checked += 1
        assert checked > 20, f"{ties} ties"


def slowest_and_squares(
    costs: Sequence[list[UnitCost]], paces: Sequence[float], groups: Sequence[int], cuts: tuple[int, ...],
    in_flight: Sequence[int], limits: Sequence[float],
) -> tuple[float, float] | None:  # fmt: skip
    """As in test_pipeline, with prices and a limit for each stage."""
    bounds, times = [0, *cuts, len(costs[0])], []
    for stage, group in enumerate(groups):
        own = costs[group][bounds[stage] : bounds[stage + 1]]
        entering = costs[group][bounds[stage] - 1].crossing_bytes if stage else 0.0
        memory = stage_memory(own, in_flight[stage], keeping(), entering)
        if memory.total_bytes - memory.reserve_bytes > limits[group]:
            return None
        times.append(paces[group] * sum(cost.forward_s + cost.backward_s for cost in own))
    return max(times), sum(time**2 for time in times)


def test_cuts_agree_with_brute_force() -> None:
    rng = default_rng(5)
    outcomes = {"fits": 0, "nothing fits": 0}
    for _ in range(150):
        units = chain(rng, int(rng.integers(2, 9)))
        slower = [float(factor) for factor in rng.integers(1, 5, len(units))]
        others = [replace(x, forward_s=x.forward_s * y, kept_bytes=y) for x, y in zip(units, slower, strict=True)]
        costs = [units, others]
        stages = int(rng.integers(1, len(units) + 1))
        groups = [int(x) for x in rng.integers(0, 2, stages)]
        in_flight, limit, paces = list(range(stages, 0, -1)), float(rng.integers(10, 150)), (1.0, 1.5)
        every = {
            cuts: value
            for cuts in combinations(range(1, len(units)), stages - 1)
            if (value := slowest_and_squares(costs, paces, groups, cuts, in_flight, (limit, limit / 2))) is not None
        }
        own = [
            GroupOfStages(CutSearch(tuple(x), keeping()), tuple(x), pace, memory)
            for x, pace, memory in zip(costs, paces, (1.0, 0.5), strict=True)
        ]
        found = MixedCutSearch(own, groups).cuts(stages, in_flight, limit)
        assert (found is None) == (not every)
        outcomes["nothing fits" if found is None else "fits"] += 1
        if found is not None:
            assert every[found] == min(every.values())
    assert min(outcomes.values()) > 10, outcomes


def played_s(whole: Problem, cluster: MixedCluster, schedule: str, cuts: tuple[int, ...], count: int) -> float:
    """A step with a device for each stage, straight from prices and the event simulator."""
    search = searched(whole, 1, cluster, tp=1, dp=1)
    plan, keeping = search.pricing.layouts(1).plan(1, 1, "fast"), search.pricing.keeping(search.points[0])
    definition, bounds = find_schedule(schedule), [0, *cuts, len(whole.units)]
    kinds = [group.cluster for group in cluster.groups for _ in range(group.devices)]
    forward_s, backward_s, weight_s, sends_s, steps_s = [], [], [], [], []
    for stage, own in enumerate(kinds):
        prices = Prices(whole.folded.graph, whole.rules, own, 1, 1, search.request.stack)
        costs = unit_costs(whole.folded, whole.units, prices, plan.strategies, plan.parameters)
        units, pace = costs[bounds[stage] : bounds[stage + 1]], own.device.pace(len(kinds)) / own.device_speed
        weight_s.append(pace * sum(cost.weight_s for cost in units) if definition.splits_backward else 0.0)
        forward_s.append(pace * sum(cost.forward_s for cost in units))
        backward_s.append(pace * sum(cost.backward_s for cost in units) - weight_s[-1])
        moved = (keeping.state.step_bytes - keeping.state.first_bytes) / keeping.element_bytes
        held = sum(size for cost in units for _, size, _ in cost.parameters)
        steps_s.append(moved * held / own.device.memory_bandwidth_bytes_per_s / own.device.bandwidth_fraction)
        if stage + 1 < len(kinds) and own == kinds[stage + 1]:
            sends_s.append(send_s(units[-1].crossing_bytes, 1, own))
        elif stage + 1 < len(kinds):
            ends = (replace(end, inter_node=cluster.between) for end in kinds[stage : stage + 2])
            sends_s.append(max(send_s(units[-1].crossing_bytes, 8, end) for end in ends))
    times = (tuple(forward_s), tuple(backward_s), tuple(sends_s))
    weights = tuple(weight_s) if definition.splits_backward else None
    played = makespan_s(definition(len(kinds), count, 1), *times, False, weights)
    return played + max(steps_s) + search.request.stack.step_s


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1"])
def test_the_best_is_that_of_all_cuts_and_orders_under_the_event_simulator(schedule: str) -> None:
    whole, cluster = model("uneven"), mixed(("dgx-h100", 1), ("dgx-a100-40gb", 2))
    found = best(whole, 6, cluster, tp=1, dp=1, micro_batch=1, schedule=schedule, recompute="none")
    orders = {order: replace(cluster, groups=tuple(cluster.groups[x] for x in order)) for order in ((0, 1), (1, 0))}
    every = {
        (order, cuts): played_s(whole, ordered, schedule, cuts, 6)
        for order, ordered in orders.items()
        for cuts in combinations(range(1, len(whole.units)), 2)
    }
    assert found.best.step_s == pytest.approx(min(every.values()), rel=1e-9)
    assert every[found.best.point.order, found.best.cuts] == pytest.approx(found.best.step_s, rel=1e-9)
    by_order = [min(own for (order, _), own in every.items() if order == each) for each in orders]
    assert by_order[0] != by_order[1], "the order makes no difference"


@pytest.mark.parametrize("name", ["small gpt", "uneven"])
def test_the_bounds_hold(name: str) -> None:
    rng, checked = default_rng(1), 0
    search = searched(model(name), 32, mixed(("dgx-h100", 4), ("dgx-a100-40gb", 4)))
    limit = search._limits[0]
    for point in search.points:
        candidate = search.pricing.candidate(point, limit)
        if candidate is None:
            continue
        assert search.pricing.bound_s(point, limit) <= candidate.estimated_s * (1 + 1e-9), point
        if candidate.micro_batches * candidate.pp > 64 or rng.random() < 0.7:
            continue
        least_s = max(search.pricing.played_s(point, limit), least_of_any_cuts_s(candidate))
        stages = candidate.pp * candidate.virtual_stages
        drawn = tuple(sorted(int(x) for x in rng.choice(range(1, len(search.units)), stages - 1, replace=False)))
        others = [own for own in (candidate, search.pricing.recut(candidate, drawn, limit)) if own.fits(limit)]
        assert all(least_s <= own.step_s * (1 + 1e-9) for own in others), point
        assert candidate.least_step_s <= candidate.step_s * (1 + 1e-9), point
        checked += len(others)
    assert checked > 50


def test_pruning_changes_nothing() -> None:
    for name in ("small gpt", "uneven"):
        search = searched(model(name), 16, mixed(("dgx-h100", 2), ("dgx-a100-40gb", 2)), schedule="1f1b")
        pruned, whole = search.run(), replace(search, prune=False).run()
        assert pruned.evaluated < whole.evaluated
        assert (pruned.best.step_s, pruned.best.cuts) == (whole.best.step_s, whole.best.cuts)


def test_every_stage_fits_its_own_device() -> None:
    """Half a GiB a layer, eight with its gradients and moments: more of them where there is more memory and speed."""
    cluster = mixed(("dgx-h100", 1), ("dgx-a100-40gb", 1))
    found = best(heavy(), 16384, cluster, tp=1).best
    sizes = {found.device_of(rank).name: found.memory[rank].total_bytes for rank in range(2)}
    small, large = (load_cluster(name).device.memory_bytes for name in ("dgx-a100-40gb", "dgx-h100"))
    assert sizes["a100-sxm-40gb"] <= small < sizes["h100-sxm-80gb"] <= large
    with pytest.raises(InfeasiblePlanError, match=r"stage .* needs .* GiB at the least"):
        best(heavy(), 16384, mixed(("dgx-a100-40gb", 1), ("p3-16xlarge", 1)), tp=1, zero=0)


@pytest.mark.parametrize("schedule", ["interleaved-1f1b", "zb-v"])
def test_stages_of_one_rank_are_on_its_device(schedule: str) -> None:
    found = best(model("small gpt"), 32, mixed(("dgx-h100", 2), ("dgx-a100", 2)), pp=2, schedule=schedule).best
    plans = stage_plans(found, model("small gpt").units)
    devices = [found.device_of(rank).name for rank in range(2)]
    assert len(set(devices)) == 2
    assert [plan.device for plan in plans] == [devices[rank] for rank in found.rank_of]
    assert {own.reserve_bytes for own in found.memory} == {
        reserve_bytes(load_cluster(name).device) for name in ("dgx-h100", "dgx-a100")
    }
    assert Kind.BACKWARD in find_schedule(schedule).kinds


def test_no_stage_is_on_two_kinds() -> None:
    search = searched(model("small gpt"), 24, mixed(("dgx-h100", 8), ("dgx-a100", 4)))
    assert {point.tp * point.dp * point.cp for point in search.points} <= {1, 2, 4}
    with pytest.raises(PlanningError, match=r"8 h100-sxm-80gb and 4 a100-sxm-80gb .* a stage lies on one kind"):
        best(model("small gpt"), 24, mixed(("dgx-h100", 8), ("dgx-a100", 4)), pp=2)
