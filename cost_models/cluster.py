"""Devices in nodes, nodes in a network, and how the communication library uses them."""

from dataclasses import dataclass
from pathlib import Path

from cost_models.catalogue import file_names, find_file
from cost_models.device import Device, load_device
from cost_models.toml_table import TomlTable

_FOLDER = Path(__file__).parent / "clusters"
_FIGURES = ("devices_per_node", "intra_node", "inter_node", "protocol")
_OTHER_FACTORS = ("all_gather_factor", "reduce_scatter_factor", "all_to_all_factor")  # 1 where a file is silent


@dataclass(frozen=True, slots=True)
class Link:
    """What connects one device to the others in its node, or to other nodes.

    Attributes:
        bandwidth_bytes_per_s: of one device, in one direction, on the data sheet.
        fraction: of the bandwidth, left after protocol overhead.
        among: (ranks, bandwidth of one device) for groups of up to so many devices, in ascending order: without a
            switch, a device's links go to different others, and a few devices have few links between them.
    """

    bandwidth_bytes_per_s: float
    fraction: float
    among: tuple[tuple[int, float], ...] = ()

    @property
    def sustained_bytes_per_s(self) -> float:
        """Bytes per second that payload moves at."""
        return self.bandwidth_bytes_per_s * self.fraction

    def sustained_among(self, ranks: int) -> float:
        """The same where only `ranks` neighbours take part."""
        bandwidth = next((own for most, own in self.among if ranks <= most), self.bandwidth_bytes_per_s)
        return bandwidth * self.fraction


@dataclass(frozen=True, slots=True)
class Protocol:
    """One of the ways in which the communication library moves bytes; it takes the fastest for each call.

    Attributes:
        start_s: once for a collective.
        send_start_s: once for a point-to-point transfer.
        intra_node_latency_s: for each step within a node.
        inter_node_latency_s: for each step between nodes.
        intra_node_fraction: of the intra-node link's sustained bandwidth.
        inter_node_fraction: of the inter-node link's sustained bandwidth.
        all_reduce_factor: speed of an all-reduce within a node, relative to a ring at its bandwidth: above 1 where the
            switch adds, below 1 where the adding itself is slow.
        all_gather_factor, reduce_scatter_factor, all_to_all_factor: the same of these, where the library copies besides
            (gloo makes a reduce-scatter of an all-reduce).
    """

    name: str
    start_s: float
    send_start_s: float
    intra_node_latency_s: float
    inter_node_latency_s: float
    intra_node_fraction: float
    inter_node_fraction: float
    all_reduce_factor: float
    all_gather_factor: float = 1.0
    reduce_scatter_factor: float = 1.0
    all_to_all_factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """Equal nodes of `devices_per_node` equal devices; ranks fill a node before the next.

    `device_speed` is what its devices reach in its racks, of what the device's file says: power, cooling, clocks.
    `inter_node` is one device's share of its node's network; `sources` says where each figure is from.
    """

    name: str
    device: Device
    devices_per_node: int
    device_speed: float
    intra_node: Link
    inter_node: Link
    protocols: tuple[Protocol, ...]
    sources: tuple[tuple[str, str], ...]


def cluster_names() -> tuple[str, ...]:
    """The names that `load_cluster` knows: the files of `cost_models/clusters`, sorted."""
    return file_names(_FOLDER)


def load_cluster(name_or_path: str | Path) -> Cluster:
    """Read a cluster by its name, or from a path that ends in `.toml`.

    The file's `device` is a device's name, or a path ending in `.toml`, relative to the cluster's file.

    Raises:
        UnknownCostModelError: there is no such cluster, or no such device.
        CostModelFileError: the file, or its device's, has a missing, unknown or unfit key.
    """
    path = find_file(name_or_path, _FOLDER, "cluster")
    table = TomlTable.read(path)
    device = table.text("device")
    cluster = Cluster(
        name=table.text("name"),
        device=load_device(path.parent / device if device.endswith(".toml") else device),
        devices_per_node=table.whole("devices_per_node"),
        device_speed=table.number("device_speed", at_most=1.2) if table.has("device_speed") else 1.0,
        intra_node=_link(table.table("intra_node")),
        inter_node=_link(table.table("inter_node")),
        protocols=tuple(_protocol(protocol) for protocol in table.tables("protocol")),
        sources=table.sources(_FIGURES),
    )
    table.finish()
    return cluster


def _link(table: TomlTable) -> Link:
    bandwidth = table.number("bandwidth_bytes_per_s")
    among = tuple(sorted(map(_few, table.tables("among")))) if table.has("among") else ()
    link = Link(bandwidth, table.fraction("fraction"), among)
    table.finish()
    return link


def _few(table: TomlTable) -> tuple[int, float]:
    found = table.whole("ranks"), table.number("bandwidth_bytes_per_s")
    table.finish()
    return found


def _protocol(table: TomlTable) -> Protocol:
    others = {key: table.number(key, at_most=2.0) for key in _OTHER_FACTORS if table.has(key)}
    protocol = Protocol(
        name=table.text("name"),
        start_s=table.number("start_s"),
        send_start_s=table.number("send_start_s"),
        intra_node_latency_s=table.number("intra_node_latency_s"),
        inter_node_latency_s=table.number("inter_node_latency_s"),
        intra_node_fraction=table.fraction("intra_node_fraction"),
        inter_node_fraction=table.fraction("inter_node_fraction"),
        all_reduce_factor=table.number("all_reduce_factor", at_most=2.0),
        **others,
    )
    table.finish()
    return protocol
