"""Write: a device or a cluster as the toml file that `load_device` or `load_cluster` reads."""

import json

from cost_models.cluster import Cluster
from cost_models.device import Device

_LINK = ("bandwidth_bytes_per_s", "fraction")
_PROTOCOL = (
    "name",
    "start_s",
    "send_start_s",
    "intra_node_latency_s",
    "inter_node_latency_s",
    "intra_node_fraction",
    "inter_node_fraction",
    "all_reduce_factor",
    "all_gather_factor",
    "reduce_scatter_factor",
    "all_to_all_factor",
)
_DEVICE = (
    "name",
    "memory_bytes",
    "context_bytes",
    "fragmentation_fraction",
    "memory_bandwidth_bytes_per_s",
    "bandwidth_fraction",
    "kernel_launch_s",
    "multiprocessors",
    "speed_spread",
    "matmul_prologue_k",
    "matmul_alignment_bytes",
    "attention_ramp_keys",
)


def device_toml(device: Device, comment: str) -> str:
    """The text of a device's file."""
    lines = [f"# {comment}", *_pairs(device, _DEVICE)]
    for arithmetic in device.arithmetics:
        lines += _table(f"[arithmetic.{arithmetic.dtype}]", arithmetic, ("peak_flops_per_s", "matmul_fraction"))
    for tile in device.matmul_tiles:
        lines += _table("[[matmul_tile]]", tile, ("rows", "columns", "fraction"))
    lines += ["", "[attention_fraction]", *(f"{kernel} = {_shown(own)}" for kernel, own in device.attention_fractions)]
    return "\n".join([*lines, *_sources(device.sources), ""])


def cluster_toml(cluster: Cluster, device: str, comment: str) -> str:
    """The text of a cluster's file; `device` is the name of its device, or the path of its file."""
    lines = [f"# {comment}", f"name = {json.dumps(cluster.name)}", f"device = {json.dumps(device)}"]
    lines += _pairs(cluster, ("devices_per_node", "device_speed"))
    for key, link in (("intra_node", cluster.intra_node), ("inter_node", cluster.inter_node)):
        lines += _table(f"[{key}]", link, _LINK)
        for ranks, bandwidth in link.among:
            lines += ["", f"[[{key}.among]]", f"ranks = {ranks}", f"bandwidth_bytes_per_s = {_shown(bandwidth)}"]
    for protocol in cluster.protocols:
        lines += _table("[[protocol]]", protocol, _PROTOCOL)
    return "\n".join([*lines, *_sources(cluster.sources), ""])


def _table(heading: str, values: object, keys: tuple[str, ...]) -> list[str]:
    return ["", heading, *_pairs(values, keys)]


def _pairs(values: object, keys: tuple[str, ...]) -> list[str]:
    return [f"{key} = {_shown(getattr(values, key))}" for key in keys]


def _sources(sources: tuple[tuple[str, str], ...]) -> list[str]:
    return ["", "[sources]", *(f"{key} = {json.dumps(text, ensure_ascii=False)}" for key, text in sources)]


def _shown(value: object) -> str:
    """As toml; five figures are more than a measurement has, and what data sheets have."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return f"{value:.5g}" if isinstance(value, float) else f"{value:_}"
