"""Cuts against trying all of them under the event simulator: warm-up, steady state, drain and sums of gradients."""

from dataclasses import replace
from itertools import combinations
from math import comb

import pytest
from numpy.random import default_rng

from autopart.search.candidate import Candidate
from autopart.search.degrees import DegreeSearch
from autopart.search.polish import FEW, polished
from tests.search.test_prune import model

TRIED = 8


def all_cuts_s(candidate: Candidate, limit_bytes: float) -> list[float]:
    """The step, played out, of every way to cut that fits."""
    units, stages = len(candidate.costs), candidate.pp * candidate.virtual_stages
    every = (replace(candidate, cuts=cuts) for cuts in combinations(range(1, units), stages - 1))
    return [own.step_s for own in every if own.peak_bytes <= limit_bytes]


def candidates(search: DegreeSearch, limit_bytes: float, least: int, most: int) -> list[Candidate]:
    """Some that fit, of few cuts and short schedules."""
    found = []
    units = len(search.units)
    for number in default_rng(0).permutation(len(search.points)):
        point = search.points[number]
        short = point.pp > 1 and point.micro_batches * point.pp * point.virtual_stages <= 64
        if short and least <= comb(units - 1, point.pp * point.virtual_stages - 1) <= most:
            own = search.pricing.candidate(point, limit_bytes)
            if own is not None and own.peak_bytes <= limit_bytes:
                found.append(own)
        if len(found) == TRIED:
            break
    return found


@pytest.mark.parametrize(("name", "stack"), [("uneven", "autopart"), ("uneven", "megatron-2023-zb")])
def test_few_cuts_are_exact(name: str, stack: str) -> None:
    search = model(name).search(8, 32, stack=stack)
    limit_bytes = float(search.request.cluster.device.memory_bytes)
    tried = candidates(search, limit_bytes, 2, FEW)
    assert len(tried) == TRIED
    for own in tried:
        least_s = min(all_cuts_s(own, limit_bytes))
        better = polished(own, limit_bytes, float("inf"))
        assert better.peak_bytes <= limit_bytes
        assert better.step_s == pytest.approx(least_s, rel=1e-9)
        assert search.pricing.played_s(own.point) <= least_s * (1 + 1e-9), own.point


def test_many_cuts_are_no_worse_and_within_their_bound() -> None:
    search = model("wide gpt").search(8, 32)
    limit_bytes = float(search.request.cluster.device.memory_bytes)
    tried = candidates(search, limit_bytes, FEW + 1, 400)
    assert len(tried) > 2
    for own in tried:
        least_s = min(all_cuts_s(own, limit_bytes))
        better = polished(own, limit_bytes, float("inf"))
        assert least_s * (1 - 1e-9) <= better.step_s <= own.step_s * (1 + 1e-9)
        assert search.pricing.played_s(own.point) <= least_s * (1 + 1e-9), own.point


def test_a_plan_says_how_much_faster_other_cuts_could_be() -> None:
    search = model("uneven").search(8, 32, pp=4)
    found = search.run()
    limit_bytes = float(search.request.cluster.device.memory_bytes)
    assert found.least_of_any_cuts_s <= min(all_cuts_s(found.best, limit_bytes)) * (1 + 1e-9)
    assert found.best.step_s == pytest.approx(min(all_cuts_s(found.best, limit_bytes)), rel=1e-9)
