"""Convolutions and pooling: samples and output channels are free, input channels contracted, positions stay whole."""

import re

from autopart.ir.graph import Arg, Graph, Node
from autopart.ir.placement import Shard
from autopart.sharding.rule import Letters, Move, Rule


def convolution(node: Node, graph: Graph) -> Rule | None:
    """(x, weight, bias?, stride, padding, ..., groups) on (samples?, channels, positions...), and its transpose."""
    rank, window_rank = (len(graph.values[name].shape) for name in node.inputs[:2])
    if rank not in (window_rank, window_rank - 1):
        return None
    samples = ("n",) * (rank - window_rank + 1)
    positions = tuple(f"P{dim}" for dim in range(window_rank - 2))
    window = tuple(f"W{dim}" for dim in range(window_rank - 2))
    outside = tuple(f"Y{dim}" for dim in range(window_rank - 2))
    bias = len(node.inputs) > 2
    whole = frozenset((*positions, *window, *outside))
    groups = node.arg(6, "groups", 1)
    if groups != 1:
        return _grouped(groups, samples, (positions, window, outside), "transpose" in node.op, bias)
    filters = ("c", "o") if "transpose" in node.op else ("o", "c")
    inputs = ((*samples, "c", *positions), (*filters, *window), *((("o",),) if bias else ()))
    once = frozenset({2}) if bias else frozenset[int]()
    return Rule(inputs, ((*samples, "o", *outside),), whole=whole, once=once)


def _grouped(groups: Arg, samples: Letters, spatial: tuple[Letters, ...], transposed: bool, bias: bool) -> Rule:
    """Groups are convolutions of their own, in order along the channels: a rank takes whole groups."""
    positions, window, outside = spatial
    filters, letter = (("C", "G"), "C") if transposed else (("O", "G"), "O")
    inputs: tuple[Letters, ...] = ((*samples, "C", *positions), (*filters, *window), *((("O",),) if bias else ()))
    channels = Shard(len(samples))
    units = groups if isinstance(groups, int) else 1
    shared = Move(letter, (channels, Shard(0), *((Shard(0),) if bias else ())), (channels,), units=units)
    whole = frozenset(name for name in ("O", "G", "C", *positions, *window, *outside) if name)
    return Rule(inputs, ((*samples, "O", *outside),), whole=whole, moves=(shared,))


def pooling(node: Node, graph: Graph) -> Rule:
    """Pooling over the trailing dims, and its converse: samples and channels are free."""
    shape = graph.values[node.inputs[0]].shape
    spatial = int(re.findall(r"(\d)d", node.op)[0])
    free = tuple(f"c{dim}" for dim in range(len(shape) - spatial))
    inside = tuple(f"P{dim}" for dim in range(spatial))
    outside = tuple(f"Y{dim}" for dim in range(spatial))
    output = (*free, *outside)
    inputs = ((*free, *inside),) * len(node.inputs)  # unpooling takes indices beside the values
    return Rule(inputs, (output,) * len(node.outputs), whole=frozenset((*inside, *outside)))


POOLS = """
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
"""

RULES = {f"aten.conv{n}d.{kind}": convolution for n in (1, 2, 3) for kind in ("default", "padding")} | {
    "aten.conv_transpose1d.default": convolution,
    "aten.conv_transpose2d.input": convolution,
    "aten.conv_transpose3d.input": convolution,
    **{f"aten.{name}.default": pooling for name in POOLS.split()},
}
