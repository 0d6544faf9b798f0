"""The tensor search against a MILP: on real blocks, too large to try all, HiGHS finds the same optimum."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from autopart.search.eliminate import Table
from autopart.search.objective import Objective
from autopart.search.tensor import TensorSearch
from tests.search.test_what_comes_out import captured

SCALE = 1e6  # HiGHS works to absolute tolerances: microseconds, not seconds


def least_cost(tables: Sequence[Table]) -> float:
    """The least sum of tables, by a MILP over the local marginal polytope.

    A binary for each choice of a variable, of which exactly one is taken, and for each entry of a table of two
    variables a share in [0, 1], whose rows and columns sum to those binaries (Wainwright and Jordan 2008, section 4.1).
    """
    costs: list[float] = []
    entries: list[tuple[int, int, float]] = []
    right: list[float] = []
    first: dict[object, int] = {}
    sizes: dict[object, int] = {}

    def equation(terms: list[tuple[int, float]], value: float) -> None:
        entries.extend((len(right), column, factor) for column, factor in terms)
        right.append(value)

    for table in tables:
        for axis, variable in enumerate(table.variables):
            if variable not in first:
                first[variable], sizes[variable] = len(costs), table.costs.shape[1 + axis]
                costs.extend([0.0] * sizes[variable])
                equation([(first[variable] + choice, 1.0) for choice in range(sizes[variable])], 1.0)
    binaries = len(costs)
    most = [1.0] * binaries
    for table in tables:
        own = SCALE * table.costs[0]
        if len(table.variables) == 1:
            start = first[table.variables[0]]
            for choice, cost in enumerate(own):
                if np.isfinite(cost):
                    costs[start + choice] += cost
                else:
                    most[start + choice] = 0.0
            continue
        one, other = table.variables
        start = len(costs)
        costs.extend(np.where(np.isfinite(own), own, 0.0).ravel())
        most.extend(np.isfinite(own).ravel().astype(float))
        rows, columns = own.shape
        for row in range(rows):
            shares = [(start + row * columns + column, 1.0) for column in range(columns)]
            equation([*shares, (first[one] + row, -1.0)], 0.0)
        for column in range(columns):
            shares = [(start + row * columns + column, 1.0) for row in range(rows)]
            equation([*shares, (first[other] + column, -1.0)], 0.0)
    numbers, places, factors = zip(*entries, strict=True)
    matrix = csr_array((factors, (numbers, places)), shape=(len(right), len(costs)))
    integral = np.array([1] * binaries + [0] * (len(costs) - binaries))
    found = milp(
        costs,
        integrality=integral,
        bounds=Bounds(0.0, most),
        constraints=LinearConstraint(matrix, right, right),
        options={"time_limit": 120.0, "mip_rel_gap": 1e-9},
    )
    assert found.status == 0, found.message
    return float(found.fun) / SCALE


@pytest.mark.parametrize(
    ("name", "tp"),
    [
        ("llama 70b", 8),
        ("gemma 2 27b", 8),
        ("phi with grouped queries", 8),
        ("gpt-neox 20b", 2),
        ("gpt-3 175b", 2),
        ("gpt-3 175b", 8),
    ],
)
def test_real_blocks(name: str, tp: int) -> None:
    whole = captured(name)
    prices = whole.prices(tp, 1)
    search = TensorSearch(whole.folded, whole.options(tp))
    for weights, kept in ((0.0, 0.0), (3e-13, 3e-12)):  # without a price on memory, and with one
        objective = Objective(prices, 8, weights, kept)
        (plan,) = search.run([objective])
        assert plan.bound_s == plan.seconds, "the elimination is exact"
        assert plan.seconds == pytest.approx(least_cost(search.tables.of([objective])), rel=1e-6)


def test_the_milp_sees_what_is_forbidden_and_what_costs() -> None:
    """The check itself: against trying every joint choice of tables drawn at random."""
    random = np.random.default_rng(0)
    for _ in range(20):
        pair = random.random((3, 3))
        pair[random.random((3, 3)) < 0.2] = np.inf
        alone = random.random((2, 3))
        tables = [Table(("a",), alone[:1]), Table(("b",), alone[1:]), Table(("a", "b"), pair[None])]
        joint = alone[0][:, None] + alone[1][None, :] + pair
        assert least_cost(tables) == pytest.approx(joint.min(), rel=1e-9)
