"""Which layers of which stage are recomputed, and the cuts, are those of trying all: no choice that fits is faster."""

from dataclasses import replace
from itertools import combinations, pairwise, product

import pytest
import torch
from numpy.random import Generator, default_rng

from autopart.estimate.block import UnitCost
from autopart.estimate.memory import stage_memory
from autopart.estimate.recompute import KINDS, NONE, is_repeated, recomputed
from autopart.schedules.find import find_schedule
from autopart.schedules.makespan import makespan_s
from autopart.search import mixes
from autopart.search.mixes import Mixes, worthwhile
from autopart.search.pipeline import CutSearch
from tests.capture.models import Attending
from tests.estimate.keepings import keeping
from tests.search.problems import problem

KEEPING = keeping()
Kinds = tuple[str, ...]


def layers(rng: Generator, count: int, first: int, repeated: bool) -> list[UnitCost]:
    """`count` equal layers; of whole numbers, so that sums are exact and ties occur."""
    forward, backward, more, transient, crossing = (float(x) for x in rng.integers(1, 7, 5))
    kept, entering = more + 6, float(rng.integers(1, 4)) if repeated else 0.0
    return [
        UnitCost(
            forward_s=forward,
            backward_s=backward,
            communication_s=0.0,
            kept_bytes=kept,
            input_bytes=entering,
            selective_bytes=float(rng.integers(int(entering) + 1, int(kept) + 1)) if repeated else kept,
            selective_s=float(rng.integers(1, 4)) if repeated else 0.0,
            weight_s=0.0,
            transient_bytes=transient,
            model_flops=0.0,
            parameters=((f"weight{first + index}", float(rng.integers(1, 3)), 1),),
            partial_bytes=0.0,
            crossing_bytes=crossing,
            full_s=forward,
        )
        for index in range(count)
    ]


def chain(rng: Generator) -> list[UnitCost]:
    """Up to seven units: layers of one, two or three sorts, and units that are never recomputed."""
    units: list[UnitCost] = []
    while len(units) < 3 or (len(units) < 7 and rng.random() < 0.6):
        repeated = rng.random() < 0.75
        own = layers(rng, int(rng.integers(1, 5)) if repeated else 1, len(units), repeated)
        units += [replace(own[0], parameters=unit.parameters) for unit in own]
    return units[:7]


def options(unit: UnitCost, kinds: Kinds) -> list[str]:
    return [NONE, *(step.kind for step in worthwhile(unit, kinds))] if is_repeated(unit) else [NONE]


def peak_bytes(units: list[UnitCost], start: int, stop: int, mix: Kinds, flying: int) -> int:
    """Of tensors, of the stage from `start` up to `stop`, straight from the definition of its memory."""
    own = [recomputed(unit, kind) for unit, kind in zip(units[start:stop], mix, strict=True)]
    memory = stage_memory(own, flying, KEEPING, units[start - 1].crossing_bytes if start else 0.0)
    return memory.total_bytes - memory.reserve_bytes


def time_s(units: list[UnitCost], start: int, stop: int, mix: Kinds) -> float:
    own = [recomputed(unit, kind) for unit, kind in zip(units[start:stop], mix, strict=True)]
    return sum(unit.forward_s + unit.backward_s + unit.again_s for unit in own)


def every_stage(units: list[UnitCost], start: int, stop: int, kinds: Kinds, flying: int) -> list[tuple[int, float]]:
    """(peak, time) of every mix of a stage."""
    mixes_of = product(*(options(unit, kinds) for unit in units[start:stop]))
    return [(peak_bytes(units, start, stop, m, flying), time_s(units, start, stop, m)) for m in mixes_of]


def brute_force(
    units: list[UnitCost], stages: int, kinds: Kinds, quantile: float
) -> tuple[float, tuple[float, float] | None]:
    """A limit that some stages meet only with recomputation, and the best (slowest stage, sum of squares) within it."""
    count, flying = len(units), range(stages, 0, -1)
    tables = {
        (s, a, b): every_stage(units, a, b, kinds, flying[s])
        for s in range(stages)
        for a, b in combinations(range(count + 1), 2)
    }
    every = [(0, *cuts, count) for cuts in combinations(range(1, count), stages - 1)]
    needs = sorted(
        max(ends(peak for peak, _ in tables[s, cuts[s], cuts[s + 1]]) for s in range(stages))
        for cuts in every
        for ends in (min, max)
    )
    limit = float(needs[int(quantile * (len(needs) - 1))])
    found = []
    for cuts in every:
        fitting = [[t for peak, t in tables[s, cuts[s], cuts[s + 1]] if peak <= limit] for s in range(stages)]
        if all(fitting):
            times = [min(own) for own in fitting]
            found.append((max(times), sum(time**2 for time in times)))
    return limit, min(found, default=None)


@pytest.mark.parametrize("kinds", [("none", "full"), KINDS], ids=str)
@pytest.mark.parametrize("most", [mixes.MOST_MIXES, 0], ids=["all numbers", "cheapest bytes first"])
def test_it_agrees_with_brute_force(kinds: Kinds, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers of several sorts of layers are not all tried out, what is found fits, and may take longer."""
    monkeypatch.setattr(mixes, "MOST_MIXES", most)
    rng, outcomes = default_rng(len(kinds)), {"none": 0, "some": 0, "nothing fits": 0, "slower": 0}
    for _ in range(40):
        units = chain(rng)
        stages = int(rng.integers(1, min(4, len(units)) + 1))
        flying = list(range(stages, 0, -1))
        limit, best = brute_force(units, stages, kinds, float(rng.random()) ** 2 - 1e-9)
        search = CutSearch(units, KEEPING, mixes=Mixes(units, KEEPING, kinds))
        cuts = search.cuts(stages, flying, limit)
        if best is None or cuts is None:
            assert most == 0 or (best is None and cuts is None)
            outcomes["nothing fits"] += 1
            continue
        chosen, bounds = search.kinds(cuts, flying, limit), [0, *cuts, len(units)]
        times = []
        for stage, (a, b) in enumerate(pairwise(bounds)):
            assert peak_bytes(units, a, b, chosen[a:b], flying[stage]) <= limit
            times.append(time_s(units, a, b, chosen[a:b]))
        own = (max(times), sum(time**2 for time in times))
        assert own >= best
        assert most == 0 or own == best, (units, limit, chosen)
        outcomes["slower"] += own > best
        outcomes["some" if any(kind != NONE for kind in chosen) else "none"] += 1
    assert outcomes["some"] > 10 and outcomes["none"] > 3, outcomes


def test_earlier_stages_recompute_more() -> None:
    """Of 1F1B stages of equal layers; and playing the schedule out, no other numbers of layers are faster."""
    units = [unit for unit in layers(default_rng(1), 1, 0, True) for _ in range(8)]
    least, whole = (peak_bytes(units, 0, 2, (kind, kind), 4) for kind in ("full", "none"))
    limit = (least + whole) / 2
    search = CutSearch(units, KEEPING, [2, 4, 6], mixes=Mixes(units, KEEPING, ("none", "full")))
    flying = [4, 3, 2, 1]
    assert search.cuts(4, flying, limit) == (2, 4, 6)
    kinds = search.kinds((2, 4, 6), flying, limit)
    counts = [kinds[start : start + 2].count("full") for start in (0, 2, 4, 6)]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1] == 0
    actions = find_schedule("1f1b")(4, 8, 1)

    def step_s(numbers: tuple[int, ...]) -> float | None:
        mixed = [("full",) * n + ("none",) * (2 - n) for n in numbers]
        if any(peak_bytes(units, 2 * s, 2 * s + 2, mix, flying[s]) > limit for s, mix in enumerate(mixed)):
            return None
        backward = [time_s(units, 2 * s, 2 * s + 2, mix) - 2 * units[0].forward_s for s, mix in enumerate(mixed)]
        return makespan_s(actions, [2 * units[0].forward_s] * 4, backward, [0.0] * 3)

    fitting = [found for numbers in product(range(3), repeat=4) if (found := step_s(numbers)) is not None]
    assert len(fitting) < 3**4
    assert step_s(tuple(counts)) == min(fitting)


def test_a_kind_that_is_dearer_by_the_byte_is_left_out() -> None:
    (unit,) = layers(default_rng(2), 1, 0, True)
    assert [step.kind for step in worthwhile(unit, ("none",))] == []
    assert [step.kind for step in worthwhile(unit, ("none", "full"))] == ["full"]
    cheap = replace(unit, kept_bytes=10.0, input_bytes=1.0, full_s=9.0, selective_bytes=5.0, selective_s=1.0)
    assert [step.kind for step in worthwhile(cheap, KINDS)] == ["selective", "full"]
    assert [step.kind for step in worthwhile(replace(cheap, selective_s=6.0), KINDS)] == ["full"]
    assert [step.kind for step in worthwhile(replace(cheap, selective_bytes=10.0), KINDS)] == ["full"]


def test_attention_that_is_written_out_is_recomputed_first() -> None:
    """Its scores are most of what is kept, and take least to make again."""
    with torch.device("meta"):
        model = Attending(6, 1024, 16).bfloat16()
        whole = problem(model, torch.empty(2, 2048, 1024, dtype=torch.bfloat16))
    pins = {"tp": 1, "pp": 1, "dp": 1, "micro_batch": 8}
    peaks = [whole.search(1, 8, recompute=kind, **pins).run().best.peak_bytes for kind in KINDS]
    assert peaks[0] > peaks[1] > peaks[2]
    for limit, wanted in ((sum(peaks[:2]) / 2, {"none", "selective"}), (sum(peaks[1:]) / 2, {"selective", "full"})):
        best = whole.search(1, 8, memory_limit_bytes=limit, **pins).run().best
        assert wanted <= {kind for kind, cost in zip(best.kinds, best.costs, strict=True) if is_repeated(cost)}
        assert best.peak_bytes <= limit
