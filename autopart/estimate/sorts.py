"""Sorts: which strategies of a node are priced alike, at every batch size and on every cluster."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from autopart.estimate.work import Work, work_of
from autopart.ir.graph import Node
from autopart.ir.placement import Shard
from autopart.sharding.strategies import Strategy


@dataclass(frozen=True, eq=False)
class Sorts:
    """Numbers of the strategies of the nodes of one graph; prices of one graph may share them."""

    _numbers: dict[Hashable, int] = field(default_factory=dict)
    # With the strategy, so that no other one gets its identity.
    _known: dict[tuple[str, int], tuple[Strategy, int]] = field(default_factory=dict)

    def of(self, node: Node, strategy: Strategy) -> int:
        """Equal for strategies of a node whose prices are.

        They depend on which tensors are sharded, and of a product on the letter.
        """
        place = node.name, id(strategy)  # what is asked for again and again is mostly the same object
        if place not in self._known:
            letter = strategy.letter if work_of(node) is Work.MATMUL else strategy.divided
            sharded = [isinstance(x.value, Shard) for x in (*strategy.inputs, *strategy.outputs)]
            key = (node.name, letter, strategy.divided, strategy.call, *sharded)
            self._known[place] = strategy, self._numbers.setdefault(key, len(self._numbers))
        return self._known[place][1]
