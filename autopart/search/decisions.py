"""decisions: what each decision of a plan is worth, by searching for the best plan in which it falls otherwise."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import itemgetter

from autopart.estimate.recompute import BY_LAYER, NONE
from autopart.ir.prediction import Decision
from autopart.search.candidate import Candidate
from autopart.search.degrees import DegreeSearch
from autopart.search.layouts import FAST
from autopart.search.parts import parts
from autopart.search.point import Point

_DECISIONS = ("tp", "pp", "dp", "cp", "micro_batch", "schedule", "recompute", "zero", "order")
# Each with what it is in a point: a schedule is nothing without its number of stages.
_READ: Mapping[str, Callable[[Point], object]] = {
    name: itemgetter(*map(Point._fields.index, (name, "virtual_stages") if name == "schedule" else (name,)))
    for name in _DECISIONS
}
# What there may be more memory for, and what then has to follow: degrees make the world together.
_NEAR: dict[str, tuple[str, ...]] = {"tp": ("dp",), "pp": ("dp",), "micro_batch": (), "recompute": ()}


def decisions(search: DegreeSearch, best: Candidate) -> tuple[Decision, ...]:
    """For each decision that `search` was free to take, the next best; and near plans that memory rules out.

    The next best is the fastest by the estimate, then played out; where it takes several decisions otherwise, it is
    told of the first of them. A near plan is `best` with one decision changed that would make it faster: without
    recomputation, with a larger micro-batch, or with replicas in place of shards or stages. Where recomputation is
    chosen layer by layer, the others are those of one kind for all layers.
    """
    own, found, told = best.point, list[Decision](), set[Point]()
    for name, read in _READ.items():
        if name in _NEAR and (near := _without_room(search, best, name)) is not None:
            found.append(_decision(name, best, near, fits=False))
        if name == "recompute" and own.recompute == BY_LAYER:
            made = (search.fitted(point) for point in _of_one_kind(search, best))
            other = min((each for each in made if each is not None), key=lambda each: each.estimated_s, default=None)
        else:
            chosen = read(own)
            other = search.fastest_other(lambda point, read=read, chosen=chosen: read(point) != chosen)  # type: ignore[misc]
        if other is not None and other.point not in told:
            told.add(other.point)
            found.append(_decision(name, best, other, fits=True))
    return tuple(found)


def unpinned(search: DegreeSearch, best: Candidate) -> tuple[Decision, ...]:
    """What pinned placements are worth: against the best plan that is free to choose them."""
    request = search.request
    free = search.again(replace(request, placements=())) if request.placements else None
    return () if free is None else (replace(_decision("placements", best, free, fits=True), other="them free"),)


def _of_one_kind(search: DegreeSearch, best: Candidate) -> list[Point]:
    """The point of `best` with one kind of recomputation for all layers; none where nothing is recomputed."""
    kinds = () if best.recompute == NONE else search.request.stack.space.recompute
    return [best.point._replace(recompute=kind) for kind in kinds if kind != best.recompute]


def _without_room(search: DegreeSearch, best: Candidate, name: str) -> Candidate | None:
    """Of the plans that differ from `best` in this decision alone, do not fit and would be faster, the smallest."""
    own, found = best.point, list[Candidate]()
    by_layer = name == "recompute" and own.recompute == BY_LAYER
    without = [point for point in _of_one_kind(search, best) if point.recompute == NONE]
    free = (name, *_NEAR[name], "variant", "micro_batches")
    rest = itemgetter(*(place for place, other in enumerate(Point._fields) if other not in free))
    kept = rest(own)
    for point in without if by_layer else [point for point in search.points if rest(point) == kept]:
        if point.variant not in (own.variant, FAST):
            continue
        if _READ[name](point) != _READ[name](own) and search.pricing.played_s(point) < best.step_s:
            near = search.pricing.candidate(point, float("inf"))
            if near is not None and near.least_step_s < best.step_s:
                found.append(near)
    for near in sorted(found, key=lambda near: near.peak_bytes):
        if search.fitted(near.point) is None and near.step_s < best.step_s:
            return near
    return None


def _told(name: str, candidate: Candidate) -> str:
    """What a decision is in a candidate."""
    if name == "placements":
        return "pinned"
    if name == "order":
        names = list(dict.fromkeys(candidate.device_of(rank).name for rank in range(candidate.pp)))
        short = [device.split("-")[0] for device in names]
        return " → ".join(short if len(set(short)) == len(names) else names)
    if name == "schedule":
        return _schedule(candidate.point)
    return candidate.recompute if name == "recompute" else str(_READ[name](candidate.point))


def _decision(name: str, own: Candidate, other: Candidate, fits: bool) -> Decision:
    besides = [(also, _told(also, other)) for also in _READ if also != name and _told(also, other) != _told(also, own)]
    stage = other.fullest
    return Decision(
        name=name,
        chosen=_told(name, own),
        other=_told(name, other),
        besides=tuple(besides),
        fits=fits,
        step_time_s=other.step_s,
        parts=parts(other),
        stage=stage,
        peak_memory_bytes=other.memory[stage].total_bytes,
        device=other.device_of(stage).name,
    )


def _schedule(point: Point) -> str:
    return point.schedule if point.virtual_stages == 1 else f"{point.schedule} × {point.virtual_stages}"
