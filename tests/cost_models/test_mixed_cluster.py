"""Files of clusters with several kinds of nodes."""

from pathlib import Path

import pytest

from cost_models.cluster import cluster_names, load_cluster
from cost_models.collective import send_s
from cost_models.errors import CostModelFileError, UnknownCostModelError
from cost_models.mixed_cluster import is_mixed, load_mixed_cluster, mixed_cluster_names

FILE = """
name = "two"
[[group]]
cluster = "dgx-h100"
nodes = 2
[[group]]
cluster = "dgx-a100"
nodes = 1
[between]
bandwidth_bytes_per_s = 12.5e9
fraction = 0.9
[sources]
group = "a test"
between = "a test"
"""


@pytest.mark.parametrize("name", mixed_cluster_names())
def test_it_loads_and_is_physical(name: str) -> None:
    """Nodes of known kinds; what connects them is not faster than the slowest of their networks."""
    mixed = load_mixed_cluster(name)
    assert mixed.name == name not in cluster_names()
    assert len({group.cluster for group in mixed.groups}) > 1
    networks = [group.cluster.inter_node.sustained_bytes_per_s for group in mixed.groups]
    assert mixed.between.sustained_bytes_per_s <= min(networks)
    assert all(source for _, source in mixed.sources)
    assert hash(mixed) == hash(load_mixed_cluster(name))
    assert is_mixed(name) and not is_mixed(mixed.groups[0].cluster.name)


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(FILE)
    assert is_mixed(path) and is_mixed(str(path))
    mixed = load_mixed_cluster(path)
    assert [(own.cluster.name, own.devices) for own in mixed.groups] == [("dgx-h100", 16), ("dgx-a100", 8)]
    assert [own.devices for own in mixed.first(20).groups] == [16, 4]
    assert [own.devices for own in mixed.first(16).groups] == [16]
    own_network = send_s(1e9, 8, load_cluster("dgx-h100"))
    assert mixed.send_s(1e9, 0, 1) == mixed.send_s(1e9, 1, 0) > 1e9 / (12.5e9 * 0.9) > own_network
    for text, problem in (
        (FILE.replace("nodes = 1", "nodes = 1.5"), r"group\[1\].nodes' must be a whole number"),
        (FILE.replace('[[group]]\ncluster = "dgx-a100"\nnodes = 1\n', ""), "'group' must be given twice or more"),
        (FILE.replace("fraction = 0.9", "fraction = 0.9\nlatency_s = 1"), "'between.latency_s' is unknown"),
    ):
        path.write_text(text)
        with pytest.raises(CostModelFileError, match=problem):
            load_mixed_cluster(path)
    path.write_text(FILE.replace("dgx-a100", "dgx-a1000"))
    with pytest.raises(UnknownCostModelError, match="unknown cluster 'dgx-a1000'"):
        load_mixed_cluster(path)
