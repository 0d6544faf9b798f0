"""The cuts are optimal: they agree with trying all of them."""

from itertools import combinations

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import stage_memory
from autopart.estimate.recompute import recomputed
from autopart.search.pipeline import search_cuts
from tests.estimate.keepings import keeping

INFINITE = float("inf")


def unit_cost(
    forward: float,
    backward: float,
    kept: float,
    entering: float,
    transient: float = 0.0,
    weights: tuple[tuple[str, float, int], ...] = (),
    crossing: float = 0.0,
) -> UnitCost:
    return UnitCost(
        forward_s=forward,
        backward_s=backward,
        communication_s=0.0,
        kept_bytes=kept,
        input_bytes=entering,
        selective_bytes=kept,
        selective_s=0.0,
        weight_s=0.0,
        transient_bytes=transient,
        model_flops=0.0,
        parameters=weights,
        partial_bytes=0.0,
        crossing_bytes=crossing,
        full_s=forward,
    )


def unit(forward: float, backward: float, kept: float = 0.0, entering: float = 0.0) -> UnitCost:
    return unit_cost(forward, backward, kept, entering)


def chain(rng: Generator, count: int) -> list[UnitCost]:
    """Units of whole numbers, so that sums are exact and ties occur; some use a weight of an earlier one."""
    units = []
    for index in range(count):
        f, b, kept, held, transient, crossing = (float(x) for x in rng.integers(1, 7, 6))
        entering = float(rng.integers(1, 3)) if rng.random() < 0.5 else 0.0
        weights = [(f"weight{index}", held, 1)] + ([("tied", 5.0, 1)] if rng.random() < 0.4 else [])
        units.append(unit_cost(f, b, kept, entering, transient, tuple(weights), crossing))
    return units


def kind(recompute: bool) -> str:
    return "full" if recompute else "none"


def evaluate(
    units: list[UnitCost], cuts: tuple[int, ...], in_flight: list[int], limit: float, recompute: bool, zero: int = 0
) -> tuple[float, float] | None:
    """(slowest stage, sum of squares), or None where a stage does not fit: straight from their definitions."""
    bounds = [0, *cuts, len(units)]
    times = []
    for stage in range(len(bounds) - 1):
        own = [recomputed(unit, kind(recompute)) for unit in units[bounds[stage] : bounds[stage + 1]]]
        entering = units[bounds[stage] - 1].crossing_bytes if stage else 0.0
        memory = stage_memory(own, in_flight[stage], keeping(zero=zero), entering)
        if memory.total_bytes - memory.reserve_bytes > limit:
            return None
        times.append(sum(u.forward_s + u.backward_s + u.again_s for u in own))
    return max(times), sum(time**2 for time in times)


@pytest.mark.parametrize(("recompute", "zero"), [(False, 0), (True, 0), (True, 3)])
def test_it_agrees_with_brute_force(recompute: bool, zero: int) -> None:
    rng = default_rng(0)
    outcomes = {"fits": 0, "nothing fits": 0}
    for _ in range(150):
        units = chain(rng, int(rng.integers(2, 9)))
        stages = int(rng.integers(1, len(units) + 1))
        in_flight = list(range(stages, 0, -1))
        limit = float(rng.integers(10, 150))
        every = {
            cuts: value
            for cuts in combinations(range(1, len(units)), stages - 1)
            if (value := evaluate(units, cuts, in_flight, limit, recompute, zero)) is not None
        }
        costs = [recomputed(unit, kind(recompute)) for unit in units]
        found = search_cuts(costs, stages, in_flight, limit, keeping(zero=zero))
        if not every:
            assert found is None
            outcomes["nothing fits"] += 1
            continue
        assert found is not None
        own = evaluate(units, found, in_flight, limit, recompute, zero)
        assert own is not None, "the cuts do not fit"
        assert own == min(every.values())
        outcomes["fits"] += 1
    assert min(outcomes.values()) > 10, outcomes


def test_among_equals_the_even_one() -> None:
    # The last unit is the slowest stage whatever is done; the others should still be even.
    units = [unit(1, 1), unit(1, 1), unit(1, 1), unit(1, 1), unit(50, 50)]
    assert search_cuts(units, 3, [3, 2, 1], INFINITE, keeping()) == (2, 4)


def test_even_though_the_first_stages_alone_would_be_cut_otherwise() -> None:
    """The first four units alone have a faster slowest stage cut unevenly; the last stage is slower than both."""
    for seed in range(20):
        rng = default_rng(seed)
        units = [*(unit(float(rng.integers(1, 9)), 0.0) for _ in range(9)), unit(40.0, 0.0)]
        found = search_cuts(units, 5, [5, 4, 3, 2, 1], INFINITE, keeping())
        assert found is not None
        every = (evaluate(units, cuts, [5, 4, 3, 2, 1], INFINITE, False) for cuts in combinations(range(1, 10), 4))
        assert evaluate(units, found, [5, 4, 3, 2, 1], INFINITE, False) == min(value for value in every if value)


def test_one_stage() -> None:
    assert search_cuts([unit(1, 1), unit(1, 1)], 1, [1], INFINITE, keeping()) == ()


def test_more_stages_than_units() -> None:
    assert search_cuts([unit(1, 1)], 2, [2, 1], INFINITE, keeping()) is None


def test_no_stage_is_empty() -> None:
    units = [unit(100, 100), unit(0, 0), unit(0, 0)]
    assert search_cuts(units, 3, [3, 2, 1], INFINITE, keeping()) == (1, 2)


def test_only_where_it_is_allowed() -> None:
    rng = default_rng(1)
    for _ in range(50):
        units = chain(rng, 8)
        allowed = sorted(int(x) for x in rng.choice(range(1, 8), 4, replace=False))
        found = search_cuts(units, 3, [3, 2, 1], INFINITE, keeping(), allowed)
        assert found is not None and set(found) <= set(allowed)
        every = [evaluate(units, cuts, [3, 2, 1], INFINITE, False) for cuts in combinations(allowed, 2)]
        own = evaluate(units, found, [3, 2, 1], INFINITE, False)
        assert own is not None and own == min(value for value in every if value)


def test_exact_cuts() -> None:
    units = chain(default_rng(2), 8)
    assert search_cuts(units, 3, [3, 2, 1], INFINITE, keeping(), (2, 3)) == (2, 3)


def test_early_stages_hold_more_micro_batches() -> None:
    """Where memory binds, the first stage of a 1F1B pipeline must be the smaller one."""
    units = [unit(1, 1, kept=10.0) for _ in range(6)]
    assert search_cuts(units, 2, [2, 1], INFINITE, keeping()) == (3,)
    assert search_cuts(units, 2, [2, 1], 40.0, keeping()) == (2,)
    assert search_cuts(units, 2, [2, 1], 39.0, keeping()) is None


def test_recomputation_makes_room_and_takes_time() -> None:
    units = [unit(1.0, 2.0, kept=10.0, entering=1.0) for _ in range(4)]
    assert search_cuts(units, 2, [2, 1], 15.0, keeping()) is None
    assert search_cuts([recomputed(unit, "full") for unit in units], 2, [2, 1], 15.0, keeping()) == (2,)


def test_a_limit_does_not_change_the_arguments() -> None:
    units = chain(default_rng(3), 5)
    before = [np.array([cost.forward_s, cost.kept_bytes]) for cost in units]
    search_cuts(units, 2, [2, 1], 50.0, keeping())
    assert all((np.array([c.forward_s, c.kept_bytes]) == b).all() for c, b in zip(units, before, strict=True))
