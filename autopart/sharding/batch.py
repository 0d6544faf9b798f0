"""Batch: whether a loss is a sum over samples, so that micro-batches and replicas may each compute their part.

Micro-batching and data parallelism shard the batch axis. By the same letters as any other axis: a dim that holds the
batch stays sharded, a contraction leaves a partial sum, a mean over the batch becomes a share of the global mean. What
mixes samples in another way (a batch norm, a contrastive loss) is named, and computed per micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.size import BATCH, Size
from autopart.sharding.rule import Rule


@dataclass(frozen=True, slots=True)
class Mixing:
    """A node that mixes samples, with the user's line."""

    node: str
    op: str
    location: str


@dataclass(frozen=True, slots=True)
class BatchSharding:
    """How to compute the loss on a part of the batch.

    Attributes:
        shares: nodes that average over the batch: their result is multiplied by the part's share of all samples.
        counted: nodes that average over the targets that count; value: the name of the targets.
        mixing: nodes that mix samples; if there are any, the loss as a whole is weighted by the share of samples.
    """

    shares: frozenset[str]
    counted: Mapping[str, str]
    mixing: tuple[Mixing, ...]


def batch_sharding(graph: Graph, rules: Mapping[str, Rule | None]) -> BatchSharding:
    """Follow the batch axis through `graph` to the loss."""
    partial: set[str] = set()
    shares: set[str] = set()
    counted: dict[str, str] = {}
    mixing: list[Mixing] = []
    relevant = _ancestors(graph)
    for node in graph.nodes:
        if node.name not in relevant:
            continue
        rule = rules.get(node.name)
        batched = [name for name in node.inputs if _has_batch(graph.values[name].shape)]
        inherited = [name for name in node.inputs if name in partial]
        spreads = any(_has_batch(value.shape) for value in node.outputs)
        if not batched and not inherited:
            continue
        if not _separable(node, graph, rule, frozenset(inherited), spreads):
            mixing.append(Mixing(node.name, node.op, node.location))
        elif not spreads:
            partial.update(value.name for value in node.outputs)
            if batched and rule is not None and rule.mean:
                _average(node, graph, rule, shares, counted)
    if graph.loss is not None and not mixing and graph.loss not in partial:
        mixing.append(Mixing(graph.loss, "loss", "the loss depends on no sample"))
    return BatchSharding(frozenset(shares), counted, tuple(mixing))


def _average(node: Node, graph: Graph, rule: Rule, shares: set[str], counted: dict[str, str]) -> None:
    if rule.counts is not None and (target := node.inputs[rule.counts]) in graph.recomputable:
        counted[node.name] = target
    else:
        shares.add(node.name)


def _separable(node: Node, graph: Graph, rule: Rule | None, inherited: frozenset[str], spreads: bool) -> bool:
    if node.op in (ENTER, LEAVE):
        return True
    if rule is None or any(_batch_dims(value.shape) > 1 for value in node.outputs):
        return False
    for dims, name in zip(rule.inputs, node.inputs, strict=True):
        for letter, size in zip(dims, graph.values[name].shape, strict=True):
            if letter in rule.whole and _is_batched(size):
                return False
    if not inherited:
        return True
    partial = {index for index, name in enumerate(node.inputs) if name in inherited}
    return not spreads and partial == rule.linear


def _ancestors(graph: Graph) -> frozenset[str]:
    """The nodes that the loss, or without one the outputs, depend on."""
    wanted = set(graph.outputs if graph.loss is None else (graph.loss,))
    found = set()
    for node in reversed(graph.nodes):
        if any(value.name in wanted for value in node.outputs):
            found.add(node.name)
            wanted.update(node.inputs)
    return frozenset(found)


def _is_batched(size: Size) -> bool:
    return not isinstance(size, int) and BATCH in size.free_symbols


def _batch_dims(shape: tuple[Size, ...]) -> int:
    return sum(_is_batched(size) for size in shape)


def _has_batch(shape: tuple[Size, ...]) -> bool:
    return _batch_dims(shape) > 0
