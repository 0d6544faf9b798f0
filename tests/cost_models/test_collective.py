"""Collectives: identities between them, monotony, and known measurements."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.cluster import Cluster, cluster_names, load_cluster
from cost_models.collective import (
    Group,
    all_gather_s,
    all_reduce_s,
    all_to_all_s,
    ranks_in_node,
    reduce_scatter_s,
    send_s,
)

Collective = Callable[[float, Group, Cluster], float]
ALL: list[Collective] = [all_reduce_s, all_gather_s, reduce_scatter_s, all_to_all_s]
CLUSTERS = {name: load_cluster(name) for name in cluster_names()}
H100 = CLUSTERS["dgx-h100"]
A100 = CLUSTERS["dgx-a100"]
GIB = 2**30


def test_measured_all_reduce() -> None:
    """nccl-tests on one node: 480 GB/s bus bandwidth on H100, 230 to 240 on A100; 830 on B200."""
    assert 3e-3 < all_reduce_s(GIB, Group(8), H100) < 5.5e-3
    for cluster, bus_bytes_per_s in ((H100, 480e9), (A100, 235e9), (CLUSTERS["dgx-b200"], 830e9)):
        assert 2 * 7 / 8 * GIB / all_reduce_s(GIB, Group(8), cluster) == pytest.approx(bus_bytes_per_s, rel=0.05)


def test_measured_small_all_reduce() -> None:
    """A few tens of microseconds on eight H100, where latency and not bandwidth counts."""
    assert 10e-6 < all_reduce_s(32 * 1024, Group(8), H100) < 25e-6
    assert 20e-6 < all_reduce_s(2**20, Group(8), H100) < 40e-6
    assert 80e-6 < all_reduce_s(2**24, Group(8), H100) < 140e-6


@pytest.mark.parametrize("collective", ALL)
@pytest.mark.parametrize("name", sorted(CLUSTERS))
def test_one_rank_is_free(collective: Collective, name: str) -> None:
    """Exactly 0.0, whatever the size and stride."""
    assert collective(1e9, Group(1, 64), CLUSTERS[name]) == 0.0


@pytest.mark.parametrize("group", [Group(8), Group(4, 2), Group(64, 8), Group(128, 16)])
def test_an_all_reduce_is_a_reduce_scatter_and_an_all_gather(group: Group) -> None:
    """In a ring, but for the start, and up to what trees save in latency."""
    parts_s = reduce_scatter_s(GIB, group, A100) + all_gather_s(GIB, group, A100)
    assert all_reduce_s(GIB, group, A100) == pytest.approx(parts_s, rel=0.03)


@given(
    st.sampled_from(ALL),
    st.sampled_from(sorted(CLUSTERS)),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([2, 4, 8, 16, 64, 256]),
    st.floats(1, 1e10),
)
def test_monotonic_and_below_the_link(
    collective: Collective, name: str, stride: int, ranks: int, size_bytes: float
) -> None:
    """More bytes take longer, and the links' data sheet is not beaten."""
    cluster, group = CLUSTERS[name], Group(ranks, stride)
    seconds = collective(size_bytes, group, cluster)
    assert 0 < seconds < collective(2 * size_bytes, group, cluster)
    factor = max(protocol.all_reduce_factor for protocol in cluster.protocols)
    link = cluster.intra_node
    fastest = max(link.bandwidth_bytes_per_s, *(bandwidth for _, bandwidth in link.among), 0.0)
    assert seconds > size_bytes / 2 / (fastest * max(factor, 1.0))
    if group.stride >= cluster.devices_per_node:
        assert seconds > size_bytes / 2 / cluster.inter_node.bandwidth_bytes_per_s


@pytest.mark.parametrize("collective", ALL)
@pytest.mark.parametrize("name", ["dgx-h100", "dgx-a100", "dgx-2"])
def test_between_nodes_is_slower(collective: Collective, name: str) -> None:
    """The same ranks, spread out."""
    cluster = CLUSTERS[name]
    inside_s = collective(1e8, Group(8), cluster)
    assert collective(1e8, Group(8, cluster.devices_per_node), cluster) > 4 * inside_s


@pytest.mark.parametrize("collective", [all_gather_s, all_reduce_s])
def test_a_group_that_fills_nodes_uses_all_their_network(collective: Collective) -> None:
    """Two whole nodes have eight network shares, two ranks in two nodes one."""
    assert collective(GIB, Group(16), H100) < 0.25 * collective(GIB, Group(2, 8), H100)


def test_large_groups_have_logarithmic_latency_only_where_there_are_trees() -> None:
    """A small all-reduce over 1024 nodes beats a ring's all-gather."""
    assert all_reduce_s(1024, Group(1024, 8), H100) < 0.1 * all_gather_s(1024, Group(1024, 8), H100)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Group(8), 8),
        (Group(4), 4),
        (Group(16), 8),
        (Group(8, 2), 4),
        (Group(64, 8), 1),
        (Group(64, 64), 1),
        (Group(9, 3), 2),
    ],
)
def test_ranks_in_node(group: Group, expected: int) -> None:
    """Eight devices a node."""
    assert ranks_in_node(group, H100) == expected


def test_send() -> None:
    """Within a node below eight ranks apart, between nodes from there, either way round."""
    inside_s, outside_s = send_s(1e8, 7, H100), send_s(1e8, 8, H100)
    assert outside_s > 5 * inside_s
    assert send_s(1e8, -8, H100) == outside_s == send_s(1e8, 512, H100)
    assert send_s(1e8, 0, H100) == 0.0
    assert outside_s == pytest.approx(1e8 / 46.5e9, rel=0.02)
    assert 5e-6 < send_s(8, 1, H100) < 20e-6


@pytest.mark.parametrize(("ranks", "stride"), [(0, 1), (4, 0), (-1, 1)])
def test_a_group_has_ranks_and_a_stride(ranks: int, stride: int) -> None:
    """The error shows the two numbers."""
    with pytest.raises(ValueError, match=f"ranks={ranks}, stride={stride}"):
        Group(ranks, stride)


def test_few_devices_of_a_mesh_have_few_links() -> None:
    """Of a hybrid cube mesh's six links a device, neighbours share one and four devices four."""
    cluster = load_cluster("dgx-1")
    size_bytes = 2.0**30
    seconds = {ranks: all_gather_s(size_bytes, Group(ranks), cluster) * ranks / (ranks - 1) for ranks in (2, 4, 8)}
    assert seconds[2] / seconds[8] == pytest.approx(6, rel=0.01)
    assert seconds[4] / seconds[8] == pytest.approx(1.5, rel=0.01)


def test_large_all_reduces_of_two_nodes_go_around_a_ring() -> None:
    """Of which the network carries almost twice the size; NCCL does not count on a tree's halves."""
    cluster = load_cluster("v100-16gb-100g")
    size_bytes = 2.0**30
    network_bytes_per_s = 8 * cluster.inter_node.sustained_bytes_per_s
    assert all_reduce_s(size_bytes, Group(16), cluster) == pytest.approx(
        2 * 15 / 16 * size_bytes / network_bytes_per_s, rel=0.01
    )
