"""The clusters and devices that a plan can be made for, as tables."""

from autopart.report.grid import grid
from autopart.report.quantity import GIB, digits
from cost_models.cluster import cluster_names, load_cluster
from cost_models.device import device_names, load_device
from cost_models.mixed_cluster import load_mixed_cluster, mixed_cluster_names

_DTYPES = ("bfloat16", "float16", "tf32", "float32", "float64")


def clusters() -> str:
    """All known clusters, those of several kinds of nodes, and all known devices, with what tells them apart.

    Raises:
        CostModelFileError: one of their files is damaged.
    """
    networks = [
        (
            cluster.name,
            f"{cluster.devices_per_node} {cluster.device.name}",
            digits(cluster.intra_node.bandwidth_bytes_per_s / 1e9),
            digits(cluster.inter_node.bandwidth_bytes_per_s / 1e9),
        )
        for cluster in map(load_cluster, cluster_names())
    ]
    devices = [
        (
            device.name,
            digits(device.memory_bytes / GIB),
            digits(device.memory_bandwidth_bytes_per_s / 1e9),
            *(digits(device.peak(dtype) / 1e12) for dtype in _DTYPES),
        )
        for device in map(load_device, device_names())
    ]
    # Two lines a heading: what, and its unit.
    of_networks = ("cluster", "node", "GB/s a device\nin a node", "GB/s a device\nbetween nodes")
    of_devices = ("device", "memory\nGiB", "memory\nGB/s", *(f"{dtype}\nTFLOP/s" for dtype in _DTYPES))
    mixed = [
        (
            cluster.name,
            " + ".join(f"{own.devices // own.cluster.devices_per_node} {own.cluster.name}" for own in cluster.groups),
            digits(cluster.between.bandwidth_bytes_per_s / 1e9),
        )
        for cluster in map(load_mixed_cluster, mixed_cluster_names())
    ]
    of_mixed = ("nodes of several kinds", "nodes", "GB/s a device\nbetween kinds")
    tables = (
        grid(networks, of_networks, "llrr"),
        grid(mixed, of_mixed, "llr"),
        grid(devices, of_devices, "l" + "r" * (len(of_devices) - 1)),
    )
    return "\n\n".join("\n".join(lines) for lines in tables)
