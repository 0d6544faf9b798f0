"""least_work: seconds of the units of a model that no layout on some ranks is below, from their prices on one rank.

What can be shared is shared evenly, every kernel is launched all the same, products run as fast as any do, and nothing
is sent. That takes no search for a layout.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

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
    """

    forward_s: float
    both_s: float
    slowest_s: float
    share: float


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
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    forward_s = both_s = slowest_s = 0.0
    share = 1.0
    for unit in units:
        if unit.nodes not in known:
            every = [
                _least(prices, prices.graph.nodes[index], alone, tp if prices.graph.nodes[index].name in divided else 1)
                for index in unit.nodes
            ]
            for index, (least_s, _) in zip(unit.nodes, every, strict=True):
                node = prices.graph.nodes[index]
                whole_s = prices.node(node, alone[node.name]).forward_s
                share = min(share, least_s / whole_s) if whole_s else share
            sums_s = sum([_sums_s(prices, prices.graph.nodes[index], tp) for index in unit.nodes])
            known[unit.nodes] = sum([own for own, _ in every]), sum([own for _, own in every]) + sums_s
        forward_s, both_s = forward_s + known[unit.nodes][0], both_s + known[unit.nodes][1]
        slowest_s = max(slowest_s, known[unit.nodes][1])
    return LeastWork(forward_s, both_s, slowest_s, share)


def _least(prices: Prices, node: Node, alone: Mapping[str, Strategy], tp: int) -> tuple[float, float]:
    """Seconds of a node's forward pass and of both, shared by `tp` ranks."""
    cost = prices.node(node, alone[node.name])
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
