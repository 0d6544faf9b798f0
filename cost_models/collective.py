"""Seconds of one collective or transfer on an otherwise idle cluster.

With p ranks, latency a and bandwidth b, a ring all-gather or reduce-scatter of S bytes takes (p-1) a + (p-1)/p S/b, and
an all-reduce twice that: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in
MPICH" (its ring algorithms, alpha + n beta model); the byte term is the least possible (Patarasuk and Yuan 2009,
"Bandwidth optimal all-reduce algorithms for clusters of workstations", its lower bound).

A group that spans nodes has g ranks in each of its n nodes:
- Ring, as NCCL lays it out: g rings, each leaving a node once, through a different rank's network share. The pass moves
  at the slower of one rank's intra-node link and g network shares; n-1 of the steps are between nodes.
- Two levels (all-reduce only): reduce-scatter in the node, a tree across nodes on each g-th of the data, all-gather in
  the node, pipelined, so that the slower level sets the pace. Its latency grows with log2(n), not n (double binary
  trees: Sanders, Speck and Traeff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan"). Every
  node passes all data up and down; that between two or three nodes less would do, NCCL does not count on.

As in NCCL's own model (src/graph/tuning.cc, `ncclTopoTuneModel` and `ncclTopoGetAlgoTime`) the fastest combination of
algorithm and protocol is taken: trees for small sizes, rings for large ones. One rank is free: 0.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

from cost_models.cluster import Cluster

# Trees reach less than the ring's bandwidth: 0.92, and 0.7-0.9 of that at medium sizes (NCCL's tuning.cc).
_TREE_FRACTION = 0.85


@dataclass(frozen=True, slots=True)
class Group:
    """`ranks` ranks whose global numbers differ by `stride`: tp has stride 1, dp stride tp, pp stride tp x dp.

    Raises:
        ValueError: fewer than one rank, or a stride below one.
    """

    ranks: int
    stride: int = 1

    def __post_init__(self) -> None:
        """Check the two numbers."""
        if self.ranks < 1 or self.stride < 1:
            raise ValueError(f"a group needs at least 1 rank and a stride of at least 1, not {self!r}")


def ranks_in_node(group: Group, cluster: Cluster) -> int:
    """How many ranks of the group share a node: `devices_per_node // stride`, at least 1, at most all.

    The group is taken to start at the first device of a node.
    """
    return min(group.ranks, max(1, cluster.devices_per_node // group.stride))


def all_reduce_s(size_bytes: float, group: Group, cluster: Cluster) -> float:
    """Seconds until every rank has the sum of all ranks' `size_bytes`."""
    p = group.ranks
    if p == 1:
        return 0.0
    g = ranks_in_node(group, cluster)
    n = -(-p // g)
    intra_bytes_per_s = cluster.intra_node.sustained_among(g)
    inter_bytes_per_s = cluster.inter_node.sustained_bytes_per_s
    ring_bytes = 2 * (p - 1) / p * size_bytes
    node_bytes = 2 * (g - 1) / g * size_bytes
    network_bytes = 2 * size_bytes / g
    tree_depth = ceil(log2(n))
    best_s = float("inf")
    for protocol in cluster.protocols:
        intra_s, inter_s = protocol.intra_node_latency_s, protocol.inter_node_latency_s
        factor = protocol.all_reduce_factor
        # A switch that adds has nothing to gain over a plain exchange between two.
        rate = intra_bytes_per_s * protocol.intra_node_fraction * (min(factor, 1.0) if g <= 2 else factor)
        if n == 1:
            time_s = protocol.start_s + 2 * (p - 1) * intra_s + ring_bytes / rate
            best_s = min(best_s, time_s)
            continue
        network_rate = inter_bytes_per_s * protocol.inter_node_fraction
        ring_rate = network_rate if g == 1 else min(rate, g * network_rate)
        ring_s = 2 * ((n - 1) * inter_s + (p - n) * intra_s) + ring_bytes / ring_rate
        tree_bytes_s = max(node_bytes / rate, network_bytes / (network_rate * _TREE_FRACTION))
        tree_s = 2 * (tree_depth * inter_s + (g - 1) * intra_s) + tree_bytes_s
        best_s = min(best_s, protocol.start_s + min(ring_s, tree_s))
    return best_s


def all_gather_s(size_bytes: float, group: Group, cluster: Cluster) -> float:
    """Seconds until every rank has the whole tensor of `size_bytes`, of which each held an equal part."""
    return _ring_s(size_bytes, group, cluster, [protocol.all_gather_factor for protocol in cluster.protocols])


def _ring_s(size_bytes: float, group: Group, cluster: Cluster, factors: Sequence[float]) -> float:
    """Seconds of one pass around a ring: of `p` ranks, each sends p-1 parts. `factors` of speed, by protocol."""
    p = group.ranks
    if p == 1:
        return 0.0
    g = ranks_in_node(group, cluster)
    n = -(-p // g)
    intra_bytes_per_s = cluster.intra_node.sustained_among(g)
    inter_bytes_per_s = cluster.inter_node.sustained_bytes_per_s
    moved_bytes = (p - 1) / p * size_bytes
    best_s = float("inf")
    for protocol, factor in zip(cluster.protocols, factors, strict=True):
        rate = intra_bytes_per_s * protocol.intra_node_fraction * factor
        if n > 1:
            network_rate = g * inter_bytes_per_s * protocol.inter_node_fraction
            rate = network_rate if g == 1 else min(rate, network_rate)
        steps_s = (n - 1) * protocol.inter_node_latency_s + (p - n) * protocol.intra_node_latency_s
        best_s = min(best_s, protocol.start_s + steps_s + moved_bytes / rate)
    return best_s


def reduce_scatter_s(size_bytes: float, group: Group, cluster: Cluster) -> float:
    """Seconds until every rank has its part of the sum of all ranks' whole tensors of `size_bytes`.

    An all-gather run backwards, with the same steps and bytes (Thakur et al. 2005).
    """
    return _ring_s(size_bytes, group, cluster, [protocol.reduce_scatter_factor for protocol in cluster.protocols])


def all_to_all_s(size_bytes: float, group: Group, cluster: Cluster) -> float:
    """Seconds until each rank has sent an equal part of its `size_bytes` to every rank, itself included.

    Pairwise exchange (Thakur et al. 2005): p-1 messages a rank. Those within the node and those between
    nodes go through different links at the same time. The library issues them together, so that a message costs its
    protocol's smallest latency.
    """
    p = group.ranks
    if p == 1:
        return 0.0
    g = ranks_in_node(group, cluster)
    part_bytes = size_bytes / p
    intra_bytes = (g - 1) * part_bytes / cluster.intra_node.sustained_among(g)
    inter_bytes = (p - g) * part_bytes / cluster.inter_node.sustained_bytes_per_s
    intra_latency_s = min(protocol.intra_node_latency_s for protocol in cluster.protocols)
    inter_latency_s = min(protocol.inter_node_latency_s for protocol in cluster.protocols)
    best_s = float("inf")
    for protocol in cluster.protocols:
        intra_fraction = protocol.intra_node_fraction * protocol.all_to_all_factor
        intra_s = (g - 1) * intra_latency_s + intra_bytes / intra_fraction
        inter_s = (p - g) * inter_latency_s + inter_bytes / protocol.inter_node_fraction
        best_s = min(best_s, protocol.start_s + max(intra_s, inter_s))
    return best_s


def send_s(size_bytes: float, stride: int, cluster: Cluster) -> float:
    """Seconds to move `size_bytes` from one rank to the one `stride` further: a + S/b (Thakur et al. 2005).

    The two are taken to be in one node if `stride` is below `devices_per_node`. A pipeline whose stages are smaller
    than a node crosses to the next node only now and then; its stages are priced as if it did not. Stride 0 is free.
    """
    if stride == 0:
        return 0.0
    best_s = float("inf")
    if abs(stride) < cluster.devices_per_node:
        rate = cluster.intra_node.sustained_among(2)
        for protocol in cluster.protocols:
            time_s = protocol.intra_node_latency_s + size_bytes / (rate * protocol.intra_node_fraction)
            best_s = min(best_s, protocol.send_start_s + time_s)
    else:
        rate = cluster.inter_node.sustained_bytes_per_s
        for protocol in cluster.protocols:
            time_s = protocol.inter_node_latency_s + size_bytes / (rate * protocol.inter_node_fraction)
            best_s = min(best_s, protocol.send_start_s + time_s)
    return best_s
