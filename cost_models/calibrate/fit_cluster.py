"""Fit a cluster: the link and the protocol with which the formulas of `collective` come nearest to what was measured.

In what is fitted the formulas are linear: with p ranks and S bytes,

    all_reduce                               start + 2 (p-1) latency + 2 (p-1)/p S / own rate
    all_gather, reduce_scatter, all_to_all   start +   (p-1) latency +   (p-1)/p S / own rate
    send                                send_start +         latency +           S / own rate

and no figure is negative.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from cost_models.calibrate.error import Fit, fit_of
from cost_models.calibrate.samples import Message
from cost_models.cluster import Cluster, Link, Protocol
from cost_models.collective import Group, all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s, send_s
from cost_models.device import Device

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
COLLECTIVES = ("send", "all_reduce", "all_gather", "reduce_scatter", "all_to_all")
# Where a fit says none; files want more.
_LEAST_S, _LEAST_PER_BYTE, _LEAST_FACTOR = 1e-9, 1e-14, 1e-3


def fit_cluster(
    messages: Sequence[Message], name: str, device: Device, devices_per_node: int, source: str
) -> tuple[Cluster, tuple[Fit, ...]]:
    """The cluster of one node that was measured, and how near the formulas then come.

    Args:
        messages: of all collectives, merged over all processes; of at least two ranks.
        name: of the new cluster.
        device: that it has.
        devices_per_node: how many.
        source: what is written beside every figure that was measured.
    """
    rows = np.array([_row(message) for message in messages])
    seconds = np.array([message.seconds for message in messages])
    start, send_start, latency, *found = _not_negative(rows / seconds[:, None], np.ones(len(messages)))
    per_byte = {collective: max(own, _LEAST_PER_BYTE) for collective, own in zip(COLLECTIVES, found, strict=True)}
    fastest = min(per_byte[collective] for collective in {message.collective for message in messages})
    factors = {collective: max(_LEAST_FACTOR, fastest / own) for collective, own in per_byte.items()}
    protocol = Protocol(
        name="measured",
        start_s=max(start, _LEAST_S),
        send_start_s=max(send_start, _LEAST_S),
        intra_node_latency_s=max(latency, _LEAST_S),
        inter_node_latency_s=max(latency, _LEAST_S),
        intra_node_fraction=factors["send"],
        inter_node_fraction=factors["send"],
        all_reduce_factor=min(2.0, factors["all_reduce"] / factors["send"]),
        all_gather_factor=min(2.0, factors["all_gather"] / factors["send"]),
        reduce_scatter_factor=min(2.0, factors["reduce_scatter"] / factors["send"]),
        all_to_all_factor=min(2.0, factors["all_to_all"] / factors["send"]),
    )
    sources = (
        ("devices_per_node", f"As many processes as measured together; {source}"),
        ("intra_node", f"All-gathers, reduce-scatters, all-to-alls and sends of 1 KiB to 16 MiB; {source}"),
        ("inter_node", "The same: there is one machine"),
        ("protocol", f"The same, and all-reduces; {source}"),
    )
    link = Link(1 / fastest, 1.0)
    cluster = Cluster(name, device, devices_per_node, 1.0, link, link, (protocol,), sources)
    fits = []
    for collective in dict.fromkeys(message.collective for message in messages):
        own = [message for message in messages if message.collective == collective]
        predicted = [message_s(message, cluster) for message in own]
        fits.append(fit_of(collective, predicted, [message.seconds for message in own]))
    return cluster, tuple(fits)


def message_s(message: Message, cluster: Cluster) -> float:
    """Seconds of a collective or a send, by the formulas."""
    if message.collective == "send":
        return send_s(message.size_bytes, 1, cluster)
    collectives = {
        "all_reduce": all_reduce_s,
        "all_gather": all_gather_s,
        "reduce_scatter": reduce_scatter_s,
        "all_to_all": all_to_all_s,
    }
    return collectives[message.collective](message.size_bytes, Group(message.ranks), cluster)


def _row(message: Message) -> tuple[float, ...]:
    """The factors of start, send start and latency, and of every collective's seconds a byte."""
    p, size = message.ranks, message.size_bytes
    send, passes = message.collective == "send", 2 if message.collective == "all_reduce" else 1
    moved = size if send else passes * (p - 1) / p * size
    fixed = (0.0, 1.0, 1.0) if send else (1.0, 0.0, passes * (p - 1))
    return (*fixed, *(moved if message.collective == own else 0.0 for own in COLLECTIVES))


def _not_negative(rows: Array, wanted: Array) -> tuple[float, ...]:
    """The least-squares solution without negative values: the best of those of all sets of columns (there are 2^8)."""
    columns = rows.shape[1]
    best, least = np.zeros(columns), float(wanted @ wanted)
    for count in range(1, columns + 1):
        for chosen in map(list, combinations(range(columns), count)):
            scale = np.linalg.norm(rows[:, chosen], axis=0)
            if not scale.all():
                continue
            found = np.linalg.lstsq(rows[:, chosen] / scale, wanted, rcond=None)[0] / scale
            off = rows[:, chosen] @ found - wanted
            if (found >= 0).all() and float(off @ off) < least:
                best, least = np.zeros(columns), float(off @ off)
                best[chosen] = found
    return tuple(float(value) for value in best)
