"""rank_groups: which nodes the ranks of a pipeline lie on, in a cluster of several kinds of nodes."""

from collections.abc import Iterable
from itertools import permutations

from autopart.search.point import Point
from cost_models.mixed_cluster import MixedCluster


def in_every_order(mixed: MixedCluster, points: Iterable[Point]) -> list[Point]:
    """The points whose stages lie on one kind of nodes each, with every order of the kinds along the pipeline.

    A stage on two kinds would wait for the slower devices, with the smaller memory, in every collective: its faster
    ones would be worth no more than the slower.
    """
    orders = list(permutations(range(len(mixed.groups))))
    return [
        point._replace(order=order)
        for point in points
        if all(group.devices % (point.tp * point.dp * point.cp) == 0 for group in mixed.groups)
        for order in orders
    ]


def rank_groups(mixed: MixedCluster, point: Point) -> tuple[int, ...]:
    """For each rank of the pipeline the number of its group."""
    each = point.tp * point.dp * point.cp
    return tuple(number for number in point.order for _ in range(mixed.groups[number].devices // each))
