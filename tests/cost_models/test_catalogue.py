"""Every file of the folders, and what is said about bad names and files."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cost_models.cluster import Cluster, cluster_names, load_cluster
from cost_models.device import Device, device_names, load_device
from cost_models.errors import CostModelFileError, UnknownCostModelError

FOLDER = Path(__file__).parents[2] / "cost_models"
DEVICES = sorted(path.stem for path in (FOLDER / "devices").glob("*.toml"))
CLUSTERS = sorted(path.stem for path in (FOLDER / "clusters").glob("*.toml"))


def test_the_names_are_the_files() -> None:
    """Adding a file adds a name."""
    assert list(device_names()) == DEVICES
    assert list(cluster_names()) == CLUSTERS


def test_what_is_promised_is_there() -> None:
    """The catalogue of the documentation."""
    assert {"a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "cpu-core"} <= set(DEVICES)
    assert {"dgx-a100", "dgx-a100-40gb", "dgx-h100", "dgx-h200", "dgx-b200", "local-cpu"} <= set(CLUSTERS)


@pytest.mark.parametrize("name", DEVICES)
def test_device_loads_and_is_physical(name: str) -> None:
    """Peaks fall with width, and every figure has a source."""
    device = load_device(name)
    assert device.name == name
    assert device.peak("float64") <= device.peak("float32") <= device.peak("float16")
    assert device.peak("tf32") >= device.peak("float32")
    assert device.peak("int64") == device.peak("float32")
    assert all(source for _, source in device.sources)
    assert max(tile.fraction for tile in device.matmul_tiles) == 1.0
    assert hash(device) == hash(load_device(name))
    if name != "cpu-core":
        capacity_gb = int(re.search(r"(\d+)gb", name)[1])
        # Vendors count in units between 10^9 and 2^30 bytes; firmware and error correction take a part.
        assert 0.97 * capacity_gb * 1e9 < device.memory_bytes < capacity_gb * 2**30


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_loads_and_is_physical(name: str) -> None:
    """The network is not faster than the links in the node."""
    cluster = load_cluster(name)
    assert cluster.name == name
    assert cluster.device.name in DEVICES
    assert cluster.inter_node.sustained_bytes_per_s <= cluster.intra_node.sustained_bytes_per_s
    assert all(protocol.intra_node_latency_s <= protocol.inter_node_latency_s for protocol in cluster.protocols)
    assert all(math.isfinite(protocol.start_s) for protocol in cluster.protocols)
    assert hash(cluster) == hash(load_cluster(name))


def test_objects_are_frozen() -> None:
    """Nobody changes a device that others hold."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_device("cpu-core").memory_bytes = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("load", "kind", "known"), [(load_device, "device", DEVICES), (load_cluster, "cluster", CLUSTERS)]
)
@pytest.mark.parametrize("name", ["tpu-v9", "../devices/cpu-core", "", "nowhere/x.toml"])
def test_unknown_name(load: Callable[[str], Device | Cluster], kind: str, known: list[str], name: str) -> None:
    """The error is a LookupError that lists what there is and where."""
    with pytest.raises(UnknownCostModelError) as caught:
        load(name)
    text = str(caught.value)
    assert isinstance(caught.value, LookupError)
    assert repr(name) in text and kind in text and str(FOLDER / f"{kind}s") in text
    assert all(one in text for one in known)


def edited(tmp_path: Path, source: str, old: str, new: str) -> Path:
    """A copy of `source` with its first `old` replaced."""
    text = (FOLDER / source).read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("multiprocessors = 132\n", "", "'multiprocessors'", "is missing"),
        ("multiprocessors = 132\n", "multiprocessors = 132\ncolour = 3\n", "'colour'", "is unknown"),
        ("multiprocessors = 132", "multiprocessors = 13.5", "'multiprocessors'", "whole number"),
        ("multiprocessors = 132", "multiprocessors = -1", "'multiprocessors'", "above 0"),
        ("multiprocessors = 132", "multiprocessors = true", "'multiprocessors'", "must be a number"),
        ("multiprocessors = 132", 'multiprocessors = "many"', "'multiprocessors'", "must be a number"),
        ("multiprocessors = 132", "multiprocessors = 1.5", "'multiprocessors'", "whole number"),
        ("kernel_launch_s = 4e-06", "kernel_launch_s = nan", "'kernel_launch_s'", "finite"),
        ("fragmentation_fraction = 0.04", "fragmentation_fraction = 1.0", "'context_bytes'", "leave nothing"),
        ('name = "h100-sxm-80gb"', 'name = ""', "'name'", "non-empty string"),
        ("[arithmetic.float32]", "[arithmetic.float31]", "'arithmetic.float32'", "is missing"),
        ("[arithmetic.float8]", "[arithmetic.float4]", "'arithmetic.float4'", "is unknown"),
        ("peak_flops_per_s = 67e12\n", "", "'arithmetic.float64.peak_flops_per_s'", "is missing"),
        ("rows = 128\n", "rows = 128\ndepth = 1\n", "'matmul_tile[0].depth'", "is unknown"),
        ("[[matmul_tile]]", "[[matmul_tiles]]", "'matmul_tiles'", "is unknown"),
        ("[sources]\n", '[sources]\nweather = "fine"\n', "'sources.weather'", "is unknown"),
    ],
)
def test_malformed_device(tmp_path: Path, old: str, new: str, key: str, problem: str) -> None:
    """The error is a ValueError that names the file, the key and what is wrong with it."""
    path = edited(tmp_path, "devices/h100-sxm-80gb.toml", old, new)
    with pytest.raises(CostModelFileError) as caught:
        load_device(path)
    assert isinstance(caught.value, ValueError)
    assert str(path) in str(caught.value) and key in str(caught.value) and problem in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "key", "problem"),
    [
        ("[intra_node]", "[intra]", "'intra_node'", "is missing"),
        ("fraction = 0.82", "fraction = 0.82\nlatency = 1", "'intra_node.latency'", "is unknown"),
        ("[[protocol]]", "[[protocols]]", "'protocols'", "is unknown"),
        ("start_s = 8.4e-6\n", "", "'protocol[0].start_s'", "is missing"),
        ("[inter_node]", "inter_node = 3\n[other]", "'intra_node.inter_node'", "is unknown"),
        ("all_reduce_factor = 1.3", "all_reduce_factor = 3.0", "'protocol[0].all_reduce_factor'", "at most 2"),
    ],
)
def test_malformed_cluster(tmp_path: Path, old: str, new: str, key: str, problem: str) -> None:
    """Clusters are read as strictly as devices."""
    path = edited(tmp_path, "clusters/dgx-h100.toml", old, new)
    with pytest.raises(CostModelFileError) as caught:
        load_cluster(path)
    assert str(path) in str(caught.value) and key in str(caught.value) and problem in str(caught.value)


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"protocol = 3"])
def test_not_a_cost_model(tmp_path: Path, content: bytes) -> None:
    """Neither broken toml nor another file's toml goes through."""
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    for load in (load_device, load_cluster):
        with pytest.raises(CostModelFileError, match=r"broken.toml"):
            load(path)


@pytest.mark.parametrize("as_text", [False, True])
def test_a_users_own_files(tmp_path: Path, as_text: bool) -> None:
    """A cluster by path, with a device file next to it, from any working directory."""
    (tmp_path / "gpu.toml").write_text(
        (FOLDER / "devices/h100-sxm-80gb.toml").read_text().replace("multiprocessors = 132", "multiprocessors = 100")
    )
    path = edited(tmp_path, "clusters/dgx-h100.toml", 'device = "h100-sxm-80gb"', 'device = "gpu.toml"')
    assert load_cluster(str(path) if as_text else path).device.multiprocessors == 100


def test_a_users_cluster_with_an_unknown_device(tmp_path: Path) -> None:
    """The list is then of devices."""
    path = edited(tmp_path, "clusters/dgx-h100.toml", 'device = "h100-sxm-80gb"', 'device = "h1000"')
    with pytest.raises(UnknownCostModelError, match=r"unknown device 'h1000'.*a100-sxm-40gb"):
        load_cluster(path)


def test_a_device_without_published_runs_claims_no_error() -> None:
    """`checked` stands for rows of docs/fidelity.md: no CPU and no B200 is among them."""
    checked = {name for name in DEVICES if load_device(name).checked}
    assert {"a100-sxm-80gb", "h100-sxm-80gb"} <= checked
    assert not checked & {"cpu-core", "b200-sxm-180gb"}
