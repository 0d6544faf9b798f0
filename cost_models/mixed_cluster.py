"""Groups of nodes of different devices, each a cluster by itself, and the network between the groups."""

from dataclasses import dataclass, replace
from pathlib import Path

from cost_models.catalogue import file_names, find_file
from cost_models.cluster import Cluster, Link, load_cluster
from cost_models.collective import send_s
from cost_models.toml_table import TomlTable

_FOLDER = Path(__file__).parent / "mixed_clusters"


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """The first `devices` devices of equal nodes, which are those of `cluster`."""

    cluster: Cluster
    devices: int


@dataclass(frozen=True, slots=True)
class MixedCluster:
    """Groups of nodes. Fewer devices than all are the first of them.

    `between` is one device's share of the network between nodes of different groups; `sources` says where it is from.
    """

    name: str
    groups: tuple[NodeGroup, ...]
    between: Link
    sources: tuple[tuple[str, str], ...]

    @property
    def devices(self) -> int:
        """How many there are in all groups."""
        return sum(group.devices for group in self.groups)

    def first(self, devices: int) -> "MixedCluster":
        """The part that so many devices make up; groups that are left empty are left out."""
        groups, left = [], devices
        for group in self.groups:
            if left > 0:
                groups.append(NodeGroup(group.cluster, min(left, group.devices)))
            left -= group.devices
        return replace(self, groups=tuple(groups))

    @property
    def busiest(self) -> Cluster:
        """The nodes that can do the most together, by the peak of their devices in bfloat16."""
        return max(self.groups, key=lambda group: group.devices * group.cluster.device.peak("bfloat16")).cluster

    def crossing(self, group: int) -> Cluster:
        """The nodes of a group, as they reach those of other groups."""
        return replace(self.groups[group].cluster, inter_node=self.between)

    def send_s(self, size_bytes: float, one: int, other: int) -> float:
        """Seconds to move `size_bytes` from a device of one group to one of another: as the slower end takes."""
        ends = (self.crossing(one), self.crossing(other))
        return max(send_s(size_bytes, end.devices_per_node, end) for end in ends)


def mixed_cluster_names() -> tuple[str, ...]:
    """The names that `load_mixed_cluster` knows: the files of `cost_models/mixed_clusters`, sorted."""
    return file_names(_FOLDER)


def is_mixed(name_or_path: str | Path) -> bool:
    """Whether this is the name of a mixed cluster, or the path of the file of one: it has groups."""
    if isinstance(name_or_path, Path) or name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        return path.is_file() and TomlTable.read(path).has("group")
    return name_or_path in mixed_cluster_names()


def load_mixed_cluster(name_or_path: str | Path) -> MixedCluster:
    """Read a mixed cluster by its name, or from a path that ends in `.toml`.

    The `cluster` of a group is a cluster's name, or a path ending in `.toml`, relative to the file.

    Raises:
        UnknownCostModelError: there is no such cluster, or no such cluster of a group.
        CostModelFileError: a file has a missing, unknown or unfit key; or there is one group only.
    """
    path = find_file(name_or_path, _FOLDER, "mixed cluster")
    table = TomlTable.read(path)
    name, groups = table.text("name"), []
    for own in table.tables("group"):
        cluster = own.text("cluster")
        known = load_cluster(path.parent / cluster if cluster.endswith(".toml") else cluster)
        groups.append(NodeGroup(known, own.whole("nodes") * known.devices_per_node))
        own.finish()
    if len(groups) < 2:
        raise table.error("group", "must be given twice or more: equal nodes alone are a cluster, not a mixed one")
    link = table.table("between")
    between = Link(link.number("bandwidth_bytes_per_s"), link.fraction("fraction"))
    link.finish()
    mixed = MixedCluster(name, tuple(groups), between, table.sources(("group", "between")))
    table.finish()
    return mixed
