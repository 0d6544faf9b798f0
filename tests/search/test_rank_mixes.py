"""What ranks with several stages recompute: they fit, and no other numbers of layers that fit take less time."""

from dataclasses import replace
from itertools import product

import pytest

from autopart.estimate.recompute import FULL, NONE
from autopart.search.candidate import Candidate
from tests.search.test_prune import model


def recomputed_s(candidate: Candidate, rank: int) -> float:
    return sum(
        candidate.costs[unit].again_s for stage in candidate.homes[rank] for unit in range(*candidate.spans[stage])
    )


def least_recomputed_s(candidate: Candidate, rank: int, limit_bytes: float) -> float:
    """The least over all numbers of layers of each stage of a rank, the first ones of it."""
    spans = [candidate.spans[stage] for stage in candidate.homes[rank]]
    found = [float("inf")]
    for counts in product(*(range(stop - start + 1) for start, stop in spans)):
        kinds = [NONE] * len(candidate.kinds)
        for (start, stop), count in zip(spans, counts, strict=True):
            layers = [unit for unit in range(start, stop) if candidate.table.costs[unit].full_s > 0]
            for unit in layers[:count]:
                kinds[unit] = FULL
        own = replace(candidate, kinds=tuple(kinds))
        if own.memory[rank].total_bytes <= limit_bytes:
            found.append(recomputed_s(own, rank))
    return min(found)


@pytest.mark.parametrize(("schedule", "limit_gb"), [("interleaved-1f1b", 16), ("interleaved-1f1b", 12), ("zb-v", 12)])
def test_a_rank_recomputes_as_little_as_it_can(schedule: str, limit_gb: int) -> None:
    pins = {"tp": 1, "pp": 2, "zero": 1, "micro_batch": 4, "virtual_stages": 2}
    search = model("deep gpt").search(4, 64, schedule=schedule, memory_limit_bytes=limit_gb * 1e9, **pins)
    limit_bytes, whole = search._limits
    found = [own for point in search.points if (own := search.pricing.candidate(point, limit_bytes)) is not None]
    assert found
    some = 0
    for own in found:
        assert own.fits(whole)
        for rank in range(own.pp):
            assert recomputed_s(own, rank) == pytest.approx(least_recomputed_s(own, rank, whole)), (own.point, rank)
            some += recomputed_s(own, rank) > 0
    assert some


def test_ranks_that_fit_recompute_nothing() -> None:
    search = model("deep gpt").search(4, 64, schedule="interleaved-1f1b", pp=2, virtual_stages=2, zero=1)
    limit_bytes, _ = search._limits
    found = [own for point in search.points if (own := search.pricing.candidate(point, limit_bytes)) is not None]
    assert any(set(own.kinds) == {NONE} for own in found)
