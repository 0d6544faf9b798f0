"""rank_groups: which nodes the ranks of a pipeline lie on, in a cluster of several kinds of nodes."""

from autopart.search.point import Point
from cost_models.mixed_cluster import MixedCluster


def rank_groups(mixed: MixedCluster, point: Point) -> tuple[int, ...] | None:
    """For each rank of the pipeline the number of its group; None where the devices of one would be of two groups.

    Such a rank would wait for the slower devices, with the smaller memory, in every collective: its faster ones would
    be worth no more than the slower.
    """
    each = point.tp * point.dp * point.cp
    if any(group.devices % each for group in mixed.groups):
        return None
    return tuple(number for number, group in enumerate(mixed.groups) for _ in range(group.devices // each))
