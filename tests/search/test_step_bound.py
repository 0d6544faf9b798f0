"""The bound on the step over all cuts against trying all of them, with what each has to recompute."""

from itertools import combinations
from math import inf

import pytest

from autopart.search.candidate import Candidate
from autopart.search.degrees import DegreeSearch
from tests.search.test_polish import candidates
from tests.search.test_prune import model


def every_way(search: DegreeSearch, candidate: Candidate, limit_bytes: float) -> list[Candidate]:
    """All cuts that fit, each recomputed as it needs."""
    units = len(candidate.table.costs)
    made = (
        search.pricing.recut(candidate, cuts, limit_bytes) for cuts in combinations(range(1, units), candidate.pp - 1)
    )
    whole = search._limits[1]
    return [own for own in made if own.fits(whole)]


@pytest.mark.parametrize(
    ("schedule", "zero", "limit_gb"),
    [("1f1b", 1, 1000), ("1f1b", 1, 14), ("1f1b", 2, 14), ("1f1b", 3, 14), ("zb-h1", 1, 14), ("gpipe", 1, 40)],
)
def test_the_bound_is_the_least_of_all_cuts(schedule: str, zero: int, limit_gb: int) -> None:
    search = model("wide gpt").search(8, 64, schedule=schedule, zero=zero, memory_limit_bytes=limit_gb * 1e9)
    limit_bytes, _ = search._limits
    tried = candidates(search, limit_bytes, 2, 150)[:3]
    assert tried
    for own in tried:
        ways = every_way(search, own, limit_bytes)
        bound = search.pricing.step_bound(own, limit_bytes)
        assert bound is not None
        found = bound.least_s(0.0, max(way.step_s for way in ways))
        assert found <= min(way.step_s for way in ways) * (1 + 1e-9)
        least_s = min(way.least_step_s - way.tail_s for way in ways) + bound.tail_s
        if zero < 3:  # where exchanging depends on what is recomputed, the bound takes the least of it
            assert found == pytest.approx(least_s, rel=1e-3)  # by 12 halvings of what lies between
        within_s = least_s * 1.05
        chains = set(bound.chains(within_s))
        assert chains >= {way.cuts for way in ways if way.least_step_s - way.tail_s + bound.tail_s <= within_s}
        assert bound.least_s(0.0, found * 0.99) == inf
        assert not set(bound.chains(found * 0.99))
