"""Where elimination would need too large a table, the answer comes with a bound that holds."""

import numpy as np
import pytest
from numpy.random import default_rng

from autopart.errors import PlanningError
from autopart.search.eliminate import Table
from autopart.search.minimize import minimize
from tests.search.test_eliminate import brute_force, cost, draw


def test_with_room_it_is_the_optimum() -> None:
    rng = default_rng(1)
    for _ in range(50):
        tables = draw(rng, forbidden=0.0)
        found = minimize(tables)
        assert found.cost == found.bound == pytest.approx(brute_force(tables), rel=1e-12)


@pytest.mark.parametrize("largest", [4, 16])
@pytest.mark.parametrize("forbidden", [0.0, 0.2])
def test_without_room_the_optimum_is_between_the_bound_and_the_cost(largest: int, forbidden: float) -> None:
    rng = default_rng(2)
    optimal = bounded = refused = 0
    for _ in range(200):
        tables = draw(rng, forbidden)
        expected = brute_force(tables)
        try:
            found = minimize(tables, largest)
        except PlanningError:
            refused += 1
            continue
        assert cost(tables, dict(found.chosen)) == pytest.approx(found.cost, rel=1e-12)
        assert found.bound <= expected * (1 + 1e-12)
        assert expected <= found.cost * (1 + 1e-12)
        optimal += found.cost <= expected * (1 + 1e-12)
        bounded += found.bound < found.cost * (1 - 1e-12)
    assert bounded > 5, "some were not to be proved"
    assert optimal > 150 - refused
    assert refused == 0 or forbidden


def test_a_variable_that_all_others_share() -> None:
    """A weight of many layers: its value is the one that most of them want, and that is best for all."""
    rng = default_rng(3)
    wanted = np.array([1.0, 0.0, 1.0])
    tables = [Table(("hub",), np.zeros(3))]
    for layer in range(6):
        tables.append(Table(("hub", f"v{layer}"), wanted[:, None] + rng.random((3, 4))))
        tables += [Table((f"v{layer}", f"v{other}"), rng.random((4, 4))) for other in range(layer)]
    found = minimize(tables, largest=4**5)
    assert found.chosen["hub"] == 1
    assert found.bound <= found.cost


@pytest.mark.parametrize("hubs", [1, 3, 6])
def test_no_more_is_fixed_than_what_ties_the_others(hubs: int) -> None:
    """Chains that some variables tie together: with those fixed, the optimum is proved wherever it is voted for."""
    rng = default_rng(4)
    names = [f"hub{number}" for number in range(hubs)]
    tables = [Table((name,), np.array([0.0, 100.0])) for name in names]
    for place in range(12):
        tables.append(Table((f"v{place}", f"v{place + 1}"), rng.random((3, 3))))
        tables += [Table((name, f"v{place}"), rng.random((2, 3))) for name in names]
    found = minimize(tables, largest=9)
    whole = minimize(tables)
    assert whole.bound == whole.cost
    assert found.cost == pytest.approx(whole.cost, rel=1e-12)
    assert found.bound <= whole.cost * (1 + 1e-12)
