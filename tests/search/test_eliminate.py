"""Variable elimination is exact: it agrees with trying everything."""

from itertools import product

import numpy as np
import pytest
from numpy.random import Generator, default_rng

from autopart.errors import PlanningError
from autopart.search.eliminate import Table, eliminate


def draw(rng: Generator, forbidden: float = 0.2, integers: bool = False) -> list[Table]:
    """A few tables over a few variables."""
    sizes = {f"v{index}": int(rng.integers(1, 5)) for index in range(int(rng.integers(1, 7)))}
    names = list(sizes)
    tables = [Table((name,), rng.random(sizes[name])) for name in names]
    for _ in range(int(rng.integers(0, 9))):
        count = int(rng.integers(1, min(3, len(names)) + 1))
        chosen = tuple(str(name) for name in rng.choice(names, count, replace=False))
        costs = rng.random([sizes[name] for name in chosen])
        if integers:
            costs = np.floor(costs * 3)
        costs[rng.random(costs.shape) < forbidden] = np.inf
        tables.append(Table(chosen, costs))
    return tables


def cost(tables: list[Table], chosen: dict[object, int]) -> float:
    return sum(float(table.costs[tuple(chosen[name] for name in table.variables)]) for table in tables)


def brute_force(tables: list[Table]) -> float:
    sizes: dict[object, int] = {}
    for table in tables:
        sizes.update(zip(table.variables, table.costs.shape, strict=True))
    return min(
        cost(tables, dict(zip(sizes, values, strict=True))) for values in product(*(range(n) for n in sizes.values()))
    )


@pytest.mark.parametrize("forbidden", [0.0, 0.2, 0.6])
def test_it_agrees_with_brute_force(forbidden: float) -> None:
    rng = default_rng(0)
    infeasible = 0
    for _ in range(200):
        tables = draw(rng, forbidden)
        expected = brute_force(tables)
        if not np.isfinite(expected):
            infeasible += 1
            with pytest.raises(PlanningError, match="no combination of strategies fits together"):
                eliminate(tables)
            continue
        chosen, total = eliminate(tables)
        assert total == pytest.approx(expected, rel=1e-12)
        assert cost(tables, chosen) == pytest.approx(expected, rel=1e-12)
    assert 0 < infeasible < 200 if forbidden else infeasible == 0


def test_ties_are_the_same_every_time() -> None:
    rng = default_rng(1)
    for _ in range(50):
        tables = draw(rng, 0.0, integers=True)
        copies = [Table(table.variables, table.costs.copy()) for table in tables]
        assert eliminate(tables) == eliminate(copies)


def test_of_equal_costs_the_lower_choice() -> None:
    tables = [Table(("a",), np.array([1.0, 0.0, 0.0])), Table(("a", "b"), np.zeros((3, 4)))]
    assert eliminate(tables) == ({"a": 1, "b": 0}, 0.0)


def test_separate_parts_add_up() -> None:
    tables = [Table(("a",), np.array([3.0, 1.0])), Table(("b",), np.array([2.0, 5.0])), Table((), np.array(0.5))]
    assert eliminate(tables[:2]) == ({"a": 1, "b": 0}, 3.0)


def test_a_long_chain_is_quick() -> None:
    """A thousand variables: elimination keeps the tables small, whatever the order they come in."""
    rng = default_rng(2)
    tables = [Table((index, index + 1), rng.random((6, 6))) for index in range(1000)]
    best = np.zeros(6)
    for table in tables:
        best = (best[:, None] + table.costs).min(axis=0)
    rng.shuffle(tables)  # type: ignore[arg-type]
    chosen, total = eliminate(tables)
    assert total == pytest.approx(best.min(), rel=1e-12)
    assert cost(tables, chosen) == pytest.approx(total, rel=1e-12)


def test_a_graph_that_is_too_entangled() -> None:
    names = range(12)
    tables = [Table((a, b), np.zeros((6, 6))) for a in names for b in names if a < b]
    with pytest.raises(PlanningError, match="the graph is too entangled"):
        eliminate(tables)


def test_axes_may_come_in_any_order() -> None:
    costs = default_rng(3).random((2, 3, 4))
    straight = [Table(("a", "b", "c"), costs)]
    turned = [Table(("c", "a", "b"), costs.transpose(2, 0, 1)), Table(("b",), np.zeros(3))]
    assert eliminate(straight)[0] == eliminate(turned)[0]
