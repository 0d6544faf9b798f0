"""Sharding rules of your own ops: `discover` finds one by running; `plan` and `parallelize` take it as `rules=`."""

from collections.abc import Sequence
from typing import Any

from autopart.probe import discover as probe
from autopart.probe.discovery import Discovery

__all__ = ["Discovery", "discover"]


def discover(op: Any, examples: Sequence[Sequence[Any]]) -> Discovery:
    """Find which dims of an op's tensors may be sharded, by running it whole and on simulated shards.

    Every dim of every tensor is tried: kept (inputs are cut, outputs are the pieces) or contracted (outputs are partial
    sums). Values and the gradients of all inputs are compared, in float64 where the op takes it, on the examples' own
    data and on data drawn anew, for two and three ranks and for one element a rank. What is found, is proved; what the
    examples cannot show is left whole, which is always right.

        found = autopart.rules.discover(torch.ops.mylib.my_op, examples=[(torch.randn(12, 18), torch.randn(18))])
        print(found)
        plan = autopart.plan(model, world=8, rules={found.op: found.notation})

    Args:
        op: an operator of `torch.ops`, or one overload of it.
        examples: calls, each a tuple of arguments; a dict at the end holds keyword arguments. Small tensors, whose
            sizes are multiples of 6 that all differ (6, 12, 18, 24), say most. Calls of several ranks give a rule for
            any number of leading dims, if those may be sharded.

    Raises:
        RuleError: `op` is no operator, fails on an example, draws random numbers or changes its arguments; or no one
            notation fits all examples.
    """
    return probe.discover(op, examples)
