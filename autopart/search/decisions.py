"""decisions: what each decision of a plan is worth, by searching for the best plan in which it falls otherwise."""

from collections.abc import Callable

from autopart.ir.plan import Decision
from autopart.search.candidate import Candidate
from autopart.search.degrees import DegreeSearch
from autopart.search.layouts import FAST
from autopart.search.parts import parts
from autopart.search.point import Point

# Each with what it is in a point: a schedule is nothing without its number of stages.
_READ: dict[str, Callable[[Point], str]] = {
    "tp": lambda point: str(point.tp),
    "pp": lambda point: str(point.pp),
    "dp": lambda point: str(point.dp),
    "cp": lambda point: str(point.cp),
    "micro_batch": lambda point: str(point.micro_batch),
    "schedule": lambda point: _schedule(point),
    "recompute": lambda point: point.recompute,
    "zero": lambda point: str(point.zero),
}
# What there may be more memory for, and what then has to follow: degrees make the world together.
_NEAR: dict[str, tuple[str, ...]] = {"tp": ("dp",), "pp": ("dp",), "micro_batch": (), "recompute": ()}


def decisions(search: DegreeSearch, best: Candidate) -> tuple[Decision, ...]:
    """For each decision that `search` was free to take, the next best; and near plans that memory rules out.

    The next best is the fastest by the estimate, then played out; where it takes several decisions otherwise, it is
    told of the first of them. A near plan is `best` with one decision changed that would make it faster: without
    recomputation, with a larger micro-batch, or with replicas in place of shards or stages.
    """
    own, found, told = best.point, list[Decision](), set[Point]()
    for name, read in _READ.items():
        if name in _NEAR and (near := _without_room(search, best, name)) is not None:
            found.append(_decision(name, own, near, fits=False))
        other = search.fastest_other(lambda point, read=read: read(point) != read(own))  # type: ignore[misc]
        if other is not None and other.point not in told:
            told.add(other.point)
            found.append(_decision(name, own, other, fits=True))
    return tuple(found)


def _without_room(search: DegreeSearch, best: Candidate, name: str) -> Candidate | None:
    """Of the plans that differ from `best` in this decision alone, do not fit and would be faster, the smallest."""
    own, found = best.point, list[Candidate]()
    for point in search.points:
        same = all(read(point) == read(own) for other, read in _READ.items() if other not in (name, *_NEAR[name]))
        if not same or _READ[name](point) == _READ[name](own) or point.variant not in (own.variant, FAST):
            continue
        near = None if search.fits(point) else search.pricing.candidate(point, float("inf"))
        if near is not None and near.step_s < best.step_s:
            found.append(near)
    return min(found, key=lambda near: near.peak_bytes, default=None)


def _decision(name: str, own: Point, other: Candidate, fits: bool) -> Decision:
    point = other.point
    besides = [(also, read(point)) for also, read in _READ.items() if also != name and read(point) != read(own)]
    stage = max(range(other.pp), key=lambda rank: other.memory[rank].total_bytes)
    return Decision(
        name=name,
        chosen=_READ[name](own),
        other=_READ[name](point),
        besides=tuple(besides),
        fits=fits,
        step_time_s=other.step_s,
        parts=parts(other),
        stage=stage,
        peak_memory_bytes=other.peak_bytes,
    )


def _schedule(point: Point) -> str:
    return point.schedule if point.virtual_stages == 1 else f"{point.schedule} × {point.virtual_stages}"
