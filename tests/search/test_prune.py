"""What bounds leave out is never chosen and never a runner-up: the answer is that of looking at every point."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise
from typing import Any

import pytest
import torch
from numpy.random import Generator, default_rng
from torch import nn

from autopart.errors import PlanningError
from autopart.search.candidate import Candidate
from autopart.search.degrees import DegreeSearch, Found
from autopart.search.group_bounds import GroupBounds
from autopart.search.point_order import PointOrder
from autopart.search.shortlist import fastest
from tests.capture.models import tiny_gpt, tiny_llama, token_batch
from tests.search.problems import Problem, problem


def gpt(hidden: int, layers: int) -> Callable[[], Problem]:
    def build() -> Problem:
        model = tiny_gpt(hidden=hidden, vocab=8192, context=1024, layers=layers).bfloat16()
        return problem(model, token_batch(1024))

    return build


def uneven() -> Problem:
    """A chain whose layers all differ, so that stages are never even."""
    sizes = [1024, 8192, 512, 4096, 16384, 2048, 1024, 8192]
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Sequential(layer.to("meta"), nn.ReLU()) for layer in layers)).bfloat16()
    return problem(model, torch.empty(4, 1024, dtype=torch.bfloat16, device="meta"))


MODELS: dict[str, Callable[[], Problem]] = {
    "small gpt": gpt(512, 5),
    "wide gpt": gpt(4096, 8),
    "deep gpt": gpt(2048, 24),
    "uneven": uneven,
    "llama": lambda: problem(tiny_llama(layers=4), token_batch()),
}


@cache
def model(name: str) -> Problem:
    return MODELS[name]()


def draw(rng: Generator) -> tuple[int, int, str, dict[str, Any]]:
    """A world, a global batch, a cluster and a few pins."""
    world = int(rng.choice([1, 2, 4, 6, 8, 16, 24, 64, 128]))
    pins: dict[str, Any] = {}
    choices: dict[str, list[Any]] = {
        "tp": [1, 2],
        "pp": [1, 2],
        "micro_batch": [1, 2],
        "recompute": ["none", "full", "selective"],
        "schedule": ["gpipe", "1f1b", "zb-h1"],
        "zero": [1, 2, 3],
        "memory_limit_bytes": [12e9, 30e9, float("inf")],
        "optimizer": ["sgd"],
    }
    for name, values in choices.items():
        if rng.random() < 0.2:
            pins[name] = values[int(rng.integers(len(values)))]
    return world, world * int(rng.choice([1, 2, 8])), str(rng.choice(["dgx-h100", "dgx-a100-40gb", "a100-roce"])), pins


def facts(candidate: Candidate) -> tuple[Any, ...]:
    return (
        *(candidate.tp, candidate.pp, candidate.dp, candidate.micro_batch, candidate.recompute, candidate.cuts),
        *(candidate.step_s, candidate.estimated_s, candidate.peak_bytes, candidate.tensor),
    )


def run(search: DegreeSearch) -> Found | None:
    try:
        return search.run()
    except PlanningError:
        return None


@pytest.mark.parametrize("name", MODELS)
def test_pruning_changes_nothing(name: str) -> None:
    rng = default_rng(list(MODELS).index(name))
    evaluated, points, feasible = 0, 0, 0
    for _ in range(8):
        world, batch, cluster, pins = draw(rng)
        search = model(name).search(world, batch, cluster, **pins)
        pruned, whole = run(search), run(replace(search, prune=False))
        assert (pruned is None) == (whole is None)
        if pruned is None or whole is None:
            continue
        assert facts(pruned.best) == facts(whole.best), (world, batch, cluster, pins)
        assert [facts(own) for own in pruned.others] == [facts(own) for own in whole.others]
        assert pruned.points >= whole.points, "bounds prove more points slower than are looked at"
        evaluated, points, feasible = evaluated + pruned.evaluated, points + whole.evaluated, feasible + 1
    assert feasible > 2
    assert evaluated < points, "nothing was left out"


@pytest.mark.parametrize("name", MODELS)
def test_the_bounds_hold(name: str) -> None:
    rng = default_rng(100 + list(MODELS).index(name))
    checked = raised = 0
    for _ in range(4):
        world, batch, cluster, pins = draw(rng)
        search = model(name).search(world, batch, cluster, **pins)
        if run(search) is None:
            continue
        groups, alone = (GroupBounds(search.points, search.pricing, float("inf")) for _ in range(2))
        groups.expect()  # with what has to be sent
        for point in search.points:
            candidate = search.pricing.candidate(point, float("inf"))
            if candidate is None:
                continue
            group = point.cp, point.tp, point.micro_batch
            raised += groups.estimated_s(group) > alone.estimated_s(group)
            assert groups.estimated_s(group) <= candidate.estimated_s * (1 + 1e-9), point
            assert search.pricing.bound_s(point) <= candidate.estimated_s * (1 + 1e-9), point
            if candidate.micro_batches * candidate.pp < 200:
                assert candidate.least_step_s <= candidate.step_s * (1 + 1e-9), point
                assert groups.played_s(group) <= candidate.step_s * (1 + 1e-9), point
                assert search.pricing.played_s(point) <= candidate.step_s * (1 + 1e-9), point
            checked += 1
    assert checked > 50
    assert raised > 0, "nothing has to be sent"


@pytest.mark.parametrize("name", ["wide gpt", "deep gpt"])
def test_the_bounds_of_groups_hold_within_a_limit(name: str) -> None:
    """Where memory is short: of what fits, nothing is below what its group says before a layout is searched."""
    raised = checked = 0
    for limit in (4e9, 10e9, 25e9):
        search = model(name).search(8, 64, memory_limit_bytes=limit + 2e9)
        groups, free = (GroupBounds(search.points, search.pricing, own) for own in (limit, float("inf")))
        groups.expect()
        free.expect()
        for point in search.points[::3]:
            group = point.cp, point.tp, point.micro_batch
            raised += groups.estimated_s(group) > free.estimated_s(group)
            candidate = search.pricing.candidate(point, limit)
            if candidate is not None and candidate.virtual_stages == 1:
                assert groups.estimated_s(group) <= candidate.estimated_s * (1 + 1e-9), point
                if candidate.micro_batches * candidate.pp < 100:
                    assert groups.played_s(group) <= candidate.step_s * (1 + 1e-9), point
                checked += 1
    assert checked > 100
    assert raised > 100, "memory says nothing"


def test_groups_are_priced_when_their_turn_comes() -> None:
    rng = default_rng(0)
    every = {(1, 1, size): sorted(rng.random(6) + size) for size in range(20)}
    numbers = {group: range(6 * place, 6 * place + 6) for place, group in enumerate(every)}
    priced: list[tuple[int, int, int]] = []

    def bounds(group: tuple[int, int, int]) -> list[tuple[float, int]]:
        priced.append(group)
        return list(zip(every[group], numbers[group], strict=True))

    order = PointOrder(every, lambda group: every[group][0], bounds)
    first = list(islice(order, 10))
    assert len(priced) < 4, "groups were priced before their turn"
    whole = list(order)
    assert whole[:10] == first
    assert whole == sorted((bound, n) for group in every for bound, n in zip(every[group], numbers[group], strict=True))


def test_the_fastest_is_that_of_playing_all_out() -> None:
    for schedule in ("1f1b", "gpipe", "zb-h1"):
        search = model("deep gpt").search(16, 64, schedule=schedule)
        found = [search.pricing.candidate(point, float("inf")) for point in search.points[::7]]
        candidates = [own for own in found if own is not None]
        assert len(candidates) > 10
        assert fastest(candidates).step_s == min(own.step_s for own in candidates)


@pytest.mark.parametrize("name", ["small gpt", "uneven"])
def test_nothing_is_below_what_is_said_to_be_the_least(name: str) -> None:
    search = model(name).search(8, 32)
    found = search.run()
    limit_bytes = search.request.cluster.device.memory_bytes
    every = [search.pricing.candidate(point, float("inf")) for point in search.points]
    fitting = [own.step_s for own in every if own is not None and own.peak_bytes <= limit_bytes]
    assert min(fitting) >= min(found.least_s, found.best.step_s) * (1 - 1e-9)
