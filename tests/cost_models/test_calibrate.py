"""Calibration: fits recover known figures from synthetic measurements, and what is written is read back."""

from dataclasses import replace
from pathlib import Path

import pytest

from cost_models.calibrate.error import fit_of, nearest
from cost_models.calibrate.fit_cluster import COLLECTIVES, fit_cluster, message_s
from cost_models.calibrate.fit_device import fit_device, heads_s, products_s
from cost_models.calibrate.merge import merge
from cost_models.calibrate.samples import Heads, Message, Move, Product, Samples
from cost_models.calibrate.write import cluster_toml, device_toml
from cost_models.cluster import Cluster, Link, Protocol, cluster_names, load_cluster
from cost_models.collective import Group, all_gather_s, all_to_all_s, reduce_scatter_s
from cost_models.compute import attention_s
from cost_models.device import ATTENTION_RAMP_KEYS, Arithmetic, Device, device_names, load_device

BASE = load_device("cpu-core")
SIZES = tuple((m, n, k) for m in (64, 512, 2048) for n in (128, 1024) for k in (64, 256, 1024))
TRUE = replace(
    BASE,
    kernel_launch_s=7e-6,
    memory_bandwidth_bytes_per_s=40e9,
    bandwidth_fraction=0.4,
    matmul_prologue_k=32,
    arithmetics=(Arithmetic("float64", 55e9, 0.9), Arithmetic("float32", 180e9, 0.8), *BASE.arithmetics[2:]),
    attention_fractions=(("flash", 0.3),),
    attention_ramp_keys=64,
)
PROTOCOL = Protocol("true", 300e-6, 50e-6, 40e-6, 40e-6, 1.0, 1.0, 0.5, 0.4, 0.25, 0.8)
LINK = Link(3e9, 1.0)
CLUSTER = Cluster("true", TRUE, 4, 1.0, LINK, LINK, (PROTOCOL,), ())


def synthetic(device: Device, cluster: Cluster) -> Samples:
    """What would be measured if the formulas were exact."""
    products = [Product("float32", *size, 0.0) for size in SIZES] + [Product("float64", *s, 0.0) for s in SIZES[:4]]
    heads = [Heads("float32", 16, keys, 64, 0.0) for keys in (64, 128, 512, 2048)]
    copied, mixed = 40e9, 40e9 * 0.4
    moves = [Move("copy", size, 1, size / copied) for size in (2**20, 2**24)]
    # Copies are a part of what is sustained, so the others are slower than that by what the copies are faster.
    rest = sum(move.moved_bytes for move in moves)
    moves.append(Move("rest", rest, 2, 2 * rest / mixed - rest / copied))
    moves.append(Move("copy", 2**10, 1, 1.0))  # too small to count
    messages = [
        Message(collective, ranks, size, 0.0)
        for collective in COLLECTIVES
        for ranks in ((2,) if collective == "send" else (2, 4))
        for size in (2**10, 2**16, 2**20, 2**24)
    ]
    return Samples(
        "a processor",
        "cpu",
        device.kernel_launch_s,
        8 * 2**30,
        2**28,
        tuple(replace(sample, seconds=products_s(sample, device)) for sample in products),
        tuple(moves),
        tuple(replace(sample, seconds=heads_s(sample, device)) for sample in heads),
        tuple(replace(message, seconds=message_s(message, cluster)) for message in messages),
    )


def test_a_device_is_recovered() -> None:
    """Every fitted figure comes within the step of the grids, 1 %, and what is not measured stays the base's."""
    device, fits = fit_device(synthetic(TRUE, CLUSTER), "mine", BASE, "measured here")
    assert device.kernel_launch_s == TRUE.kernel_launch_s
    sustained = device.memory_bandwidth_bytes_per_s * device.bandwidth_fraction
    assert sustained == pytest.approx(TRUE.memory_bandwidth_bytes_per_s * TRUE.bandwidth_fraction)
    assert device.memory_bandwidth_bytes_per_s == pytest.approx(40e9)
    assert device.matmul_prologue_k == 32
    for dtype in ("float32", "float64"):
        found, true = device.arithmetic(dtype), TRUE.arithmetic(dtype)
        rate = found.peak_flops_per_s * found.matmul_fraction
        assert rate == pytest.approx(true.peak_flops_per_s * true.matmul_fraction, rel=0.011)
        assert found.matmul_fraction <= 1.0
    assert device.arithmetic("bfloat16") == BASE.arithmetic("bfloat16")
    assert device.attention_ramp_keys == 64
    attention = device.attention_fraction("flash") * device.peak("float32")
    assert attention == pytest.approx(TRUE.attention_fraction("flash") * TRUE.peak("float32"), rel=0.011)
    assert device.matmul_tiles == BASE.matmul_tiles
    assert {fit.what for fit in fits} == {"memory", "products, float32", "products, float64", "attention"}
    assert all(fit.mean_error < 0.01 for fit in fits if fit.what != "memory")
    said = dict(device.sources)
    assert said["matmul_fraction"].endswith("measured here") and said["matmul_tile"].startswith("As in cpu-core")


def test_a_slower_library_is_not_taken_for_a_slower_device() -> None:
    samples = synthetic(TRUE, CLUSTER)
    slower = replace(samples, products=tuple(replace(own, seconds=own.seconds / 0.8) for own in samples.products))
    found, _ = fit_device(slower, "mine", BASE, "x", product_speed=0.8)
    for dtype in ("float32", "float64"):
        own, true = (device.arithmetic(dtype) for device in (found, TRUE))
        assert own.peak_flops_per_s * own.matmul_fraction == pytest.approx(
            true.peak_flops_per_s * true.matmul_fraction, rel=0.011
        )


def test_one_disturbed_sample_does_not_decide() -> None:
    samples = synthetic(TRUE, CLUSTER)
    first, *others = samples.products
    disturbed = replace(samples, products=(replace(first, seconds=20 * first.seconds), *others))
    assert fit_device(disturbed, "mine", BASE, "x")[0] == fit_device(samples, "mine", BASE, "x")[0]


def test_a_cluster_is_recovered() -> None:
    """Exactly: its formulas are linear in what is fitted."""
    cluster, fits = fit_cluster(synthetic(TRUE, CLUSTER).messages, "mine", TRUE, 4, "measured here")
    found = cluster.protocols[0]
    assert cluster.intra_node.sustained_bytes_per_s * found.intra_node_fraction == pytest.approx(3e9)
    for key in ("start_s", "send_start_s", "intra_node_latency_s", "all_reduce_factor", "all_gather_factor"):
        assert getattr(found, key) == pytest.approx(getattr(PROTOCOL, key)), key
    assert found.reduce_scatter_factor == pytest.approx(0.25) and found.all_to_all_factor == pytest.approx(0.8)
    assert {fit.what for fit in fits} == set(COLLECTIVES)
    assert max(fit.worst_error for fit in fits) < 1e-6


def test_no_figure_of_a_cluster_is_negative(tmp_path: Path) -> None:
    """Where large messages are faster than the small ones promise, a plain fit would start before it begins."""
    messages = tuple(
        Message(collective, 2, size, (size / 2**20) ** 1.3 * 1e-3)
        for collective in COLLECTIVES
        for size in (2**16, 2**20, 2**24)
    )
    cluster, _ = fit_cluster(messages, "mine", TRUE, 2, "x")
    path = tmp_path / "cluster.toml"
    path.write_text(cluster_toml(cluster, "cpu-core", "x"))
    assert load_cluster(path).protocols[0].start_s > 0


def test_ranks_are_merged() -> None:
    """Times are means; of memory counts what the poorest has."""
    one = synthetic(TRUE, CLUSTER)
    slow = tuple(replace(sample, seconds=3 * sample.seconds) for sample in one.products)
    other = replace(one, products=slow, memory_bytes=2**30, context_bytes=2**29, launch_s=3 * one.launch_s)
    both = merge([one, other])
    assert both.products[3].seconds == pytest.approx(2 * one.products[3].seconds)
    assert both.messages == one.messages
    assert (both.memory_bytes, both.context_bytes) == (2**30, 2**29)
    assert both.launch_s == pytest.approx(2 * one.launch_s)


@pytest.mark.parametrize("name", device_names())
def test_devices_are_written_as_they_are_read(name: str, tmp_path: Path) -> None:
    device = replace(load_device(name), attention_ramp_keys=100, checked=False)
    device = replace(device, sources=(*device.sources, ("attention_ramp_keys", 'a "quoted" word, 3 µs')))
    path = tmp_path / "mine.toml"
    path.write_text(device_toml(device, "a comment"), encoding="utf-8")
    assert load_device(path) == device


@pytest.mark.parametrize("name", cluster_names())
def test_clusters_are_written_as_they_are_read(name: str, tmp_path: Path) -> None:
    cluster = load_cluster(name)
    protocols = tuple(replace(protocol, all_gather_factor=0.25) for protocol in cluster.protocols)
    cluster = replace(cluster, protocols=protocols)
    path = tmp_path / "mine.toml"
    path.write_text(cluster_toml(cluster, cluster.device.name, "a comment"), encoding="utf-8")
    assert load_cluster(path) == cluster


def test_own_factors_of_collectives() -> None:
    """Each slows its collective's bytes alone, not its steps."""
    group, size = Group(4), 2**26
    plain = replace(CLUSTER, protocols=(replace(PROTOCOL, start_s=0.0, intra_node_latency_s=0.0),))
    one = replace(plain.protocols[0], all_gather_factor=1.0, reduce_scatter_factor=1.0, all_to_all_factor=1.0)
    whole = replace(plain, protocols=(one,))
    for seconds, factor in ((all_gather_s, 0.4), (reduce_scatter_s, 0.25), (all_to_all_s, 0.8)):
        assert seconds(size, group, plain) == pytest.approx(seconds(size, group, whole) / factor)


def test_the_ramp_of_attention() -> None:
    """Left out it is FlashAttention-2's; at as many keys as its ramp, attention runs at half its speed."""
    assert load_device("h100-sxm-80gb").attention_ramp_keys == ATTENTION_RAMP_KEYS
    device = replace(TRUE, kernel_launch_s=0.0)
    half, full = (attention_s(1e9, 0.0, "float32", "flash", keys, device) for keys in (64, 1e9))
    assert half == pytest.approx(2 * full)


def test_the_nearest_candidate() -> None:
    """By ratios, whatever the size."""
    assert nearest([1.0, 2.0, 4.0], lambda rate: [rate * 1e-6, rate * 10.0], [2.2e-6, 19.0]) == 2.0
    fit = fit_of("x", [1.1, 2.0], [1.0, 4.0])
    assert (fit.samples, fit.mean_error, fit.worst_error) == (2, pytest.approx(0.3), pytest.approx(0.5))
