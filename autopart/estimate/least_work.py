"""least_work: seconds of the units of a model that no layout on some ranks is below, from their prices on one rank.

What can be shared is shared evenly, every kernel is launched all the same, products run as fast as any do, and nothing
is sent. That takes no search for a layout.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from autopart.estimate.conversions import Cost
from autopart.estimate.node import Prices
from autopart.estimate.work import Work, work_of
from autopart.ir.graph import Node
from autopart.ir.placement import REPLICATED
from autopart.ir.units import Unit
from autopart.sharding.strategies import Strategy
from cost_models.compute import least_matmul_s


@dataclass(frozen=True, slots=True)
class LeastWork:
    """Of all units, for a micro-batch on one rank.

    Attributes:
        forward_s, both_s: seconds of the forward pass, and of both.
        slowest_s: of both passes of the slowest unit.
        share: of the seconds that a node's forward pass takes on one rank, what it takes at the least.
        sums_s: of both passes, those of adding the gradients of parameters.
        nodes_s: of every node by its name, both passes in all units, with the whole work and with a share of it.
    """

    forward_s: float
    both_s: float
    slowest_s: float
    share: float
    sums_s: float
    nodes_s: Mapping[str, tuple[float, float]]


def least_work(
    prices: Prices, units: Sequence[Unit], alone: Mapping[str, Strategy], divided: Collection[str], tp: int
) -> LeastWork:
    """That of `tp` ranks.

    Args:
        prices: of one rank.
        units: of the model.
        alone: the strategy of every node on one rank.
        divided: the names of the nodes whose work `tp` ranks can share.
        tp: how many ranks.
    """
    runs = Counter(unit.nodes for unit in units)
    forward_s = both_s = slowest_s = every_sum_s = 0.0
    share = 1.0
    nodes_s: dict[str, tuple[float, float]] = {}
    for places, count in runs.items():
        unit_forward_s = unit_both_s = sums_s = 0.0
        for node in map(prices.graph.nodes.__getitem__, places):
            whole = prices.node(node, alone[node.name])
            least_forward_s, least_s = _least(prices, node, whole, tp if node.name in divided else 1)
            unit_forward_s, unit_both_s = unit_forward_s + least_forward_s, unit_both_s + least_s
            sums_s += _sums_s(prices, node, tp)
            if whole.forward_s:
                share = min(share, least_forward_s / whole.forward_s)
            before = nodes_s.get(node.name, (0.0, 0.0))
            nodes_s[node.name] = before[0] + count * whole.total_s, before[1] + count * least_s
        forward_s, both_s = forward_s + count * unit_forward_s, both_s + count * (unit_both_s + sums_s)
        slowest_s, every_sum_s = max(slowest_s, unit_both_s + sums_s), every_sum_s + count * sums_s
    return LeastWork(forward_s, both_s, slowest_s, share, every_sum_s, nodes_s)


def _least(prices: Prices, node: Node, cost: Cost, tp: int) -> tuple[float, float]:
    """Seconds of a node's forward pass and of both, shared by `tp` ranks; its `cost` is that on one."""
    if tp == 1:
        return cost.forward_s, cost.total_s
    device, work = prices.cluster.device, work_of(node)
    if work is Work.MATMUL or (work is Work.ATTENTION and prices.stack.attention == "math"):
        dtype, speed = prices.product_dtype(node), prices.stack.product_speed if work is Work.MATMUL else 1.0
        forward_s = least_matmul_s(prices.flops(node) / tp, dtype, device) / speed
        flops = prices.backward_flops(node)
        return forward_s, forward_s + (least_matmul_s(flops / tp, dtype, device) / speed if flops else 0.0)
    launch_s = device.kernel_launch_s if node.name in prices.fusion.launches else 0.0
    forward_s, backward_s = (
        own_s / tp + (1 - 1 / tp) * min(own_s, launch_s) for own_s in (cost.forward_s, cost.backward_s)
    )
    return forward_s, forward_s + backward_s


def _sums_s(prices: Prices, node: Node, tp: int) -> float:
    """Seconds of adding the gradients of the parameters that a node takes."""
    names = [name for name in node.inputs if name in prices.graph.parameter_of]
    return sum([prices.gradient_sum_s(name, REPLICATED) for name in names]) / tp
