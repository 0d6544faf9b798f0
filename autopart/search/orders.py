"""search_orders: on several kinds of nodes, the best order of the kinds along the pipeline."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations

from autopart.search.degrees import RUNNERS_UP, DegreeSearch, Found


def search_orders(search: DegreeSearch) -> tuple[DegreeSearch, Found]:
    """The search for the best plan, and what it found.

    With a mixed cluster there is one for every order of its groups, and for every group for whose prices the layout may
    be chosen, which is one for all stages; what is told of the others goes into what is found. Else there is one.

    Raises:
        PlanningError: as `DegreeSearch.run`.
    """
    mixed = search.request.mixed
    if mixed is None:
        return search, search.run()
    found: list[tuple[DegreeSearch, Found]] = []
    for order in permutations(range(len(mixed.groups))):
        ordered = mixed.ordered(order)
        for cluster in dict.fromkeys(group.cluster for group in mixed.groups):
            own = replace(search, request=replace(search.request, mixed=ordered, cluster=cluster))
            if (best := own.find()) is not None:
                found.append((own, best))
    if not found:
        return search, search.run()  # which says why
    winner, best = min(found, key=lambda one: one[1].best.step_s)
    return winner, _merged(best, [other for _, other in found])


def _merged(best: Found, every: Sequence[Found]) -> Found:
    """What `best` is among all of them."""
    others = sorted((own for one in every for own in (one.best, *one.others)), key=lambda own: own.step_s)
    fastest = {own.point.degrees: own for own in reversed(others) if own.point.degrees != best.best.point.degrees}
    return Found(
        best.best,
        tuple(sorted(fastest.values(), key=lambda own: own.estimated_s)[:RUNNERS_UP]),
        sum(own.points for own in every),
        sum(own.evaluated for own in every),
        min(own.least_s for own in every),
        min(own.least_of_any_cuts_s for own in every),
    )
