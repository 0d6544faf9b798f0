"""Batch: whether a loss is a sum over samples, so that micro-batches and replicas may each compute their part.

Micro-batching and data parallelism shard the batch axis. By the same letters as any other axis: a dim that holds the
batch stays sharded, a contraction leaves a partial sum, a mean over the batch becomes a share of the global mean. What
mixes samples in another way (a batch norm, a contrastive loss) is named, and computed per micro-batch. Samples that are
sorted and put back (an expert's tokens) do not mix: `Dispatch` follows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sympy

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node, Update
from autopart.ir.size import BATCH, Size, is_batched
from autopart.sharding.dispatch import Dispatch
from autopart.sharding.rule import Rule
from autopart.sharding.rules import elementwise, reshape
from autopart.sharding.sample_order import SampleOrder

# Ops of which a number among the arguments is computed with; of others it is a size.
NUMERICAL = frozenset(elementwise.RULES) | {"aten.full.default", "aten.new_full.default", "aten.scalar_tensor.default"}
ZEROS = frozenset({"aten.zeros.default", "aten.zeros_like.default", "aten.new_zeros.default"})


@dataclass(frozen=True, slots=True)
class Mixing:
    """A node that mixes samples, with the user's line.

    Attributes:
        changes: the buffer that it gives a new value with every forward pass, "" for none.
    """

    node: str
    op: str
    location: str
    changes: str = ""


@dataclass(frozen=True, slots=True)
class BatchSharding:
    """How to compute the loss on a part of the batch.

    Attributes:
        shares: nodes that average over the batch: their result is multiplied by the part's share of all samples.
        counted: nodes that average over the targets that count; value: the name of the targets.
        weighted: whether the loss is no sum over samples: then each part's counts by its share of samples.
        mixing: nodes that mix samples; they are computed for each part by itself.
        doubtful: values that inputs and constants decide, of which the letters do not show that they are computed
            sample by sample; those that are, `proven` should name.
    """

    shares: frozenset[str]
    counted: Mapping[str, str]
    weighted: bool
    mixing: tuple[Mixing, ...]
    doubtful: frozenset[str]


def batch_sharding(
    graph: Graph, rules: Mapping[str, Rule | None], proven: frozenset[str] = frozenset()
) -> BatchSharding:
    """Follow the batch axis through `graph` to the loss.

    Args:
        graph: the folded graph.
        rules: of its nodes, by their names.
        proven: values known to be computed sample by sample, whatever the letters say.
    """
    return _Walk(graph, rules, proven).result()


class _Walk:
    """Sorts values into partial sums over the batch, values of one part alone, and values in doubt."""

    def __init__(self, graph: Graph, rules: Mapping[str, Rule | None], proven: frozenset[str]) -> None:
        self.graph, self.rules, self.proven = graph, rules, proven
        self.dispatch = Dispatch(graph, rules)
        self.order = SampleOrder(graph, rules)
        self.ordered: dict[str, bool] = {}
        self.partial: set[str] = set()
        self.local: set[str] = set()
        self.doubt: dict[str, Mixing] = {}
        self.reported: dict[str, Mixing] = {}
        self.doubtful: set[str] = set()
        self.shares: set[str] = set()
        self.counted: dict[str, str] = {}

    def result(self) -> BatchSharding:
        relevant = _ancestors(self.graph)
        for node in self.graph.nodes:
            self.ordered[node.name] = self.order.visit(node)
            if node.name in relevant:
                self._visit(node)
        for update in self.graph.updates:
            self._update(update, relevant)
        weighted = self.graph.loss is not None and self.graph.loss not in self.partial
        if weighted:
            self.shares.clear()
            self.counted.clear()
        mixing = tuple(self.reported.values())
        return BatchSharding(frozenset(self.shares), self.counted, weighted, mixing, frozenset(self.doubtful))

    def _visit(self, node: Node) -> None:
        graph, rule = self.graph, self.rules.get(node.name)
        batched = [name for name in node.inputs if _has_batch(graph.values[name].shape)]
        inherited = frozenset(name for name in node.inputs if name in self.partial)
        local = not self.local.isdisjoint(node.inputs)
        spreads = any(_has_batch(value.shape) for value in node.outputs)
        outputs = [value.name for value in node.outputs]
        fine = self._separable(node, inherited, spreads, local)
        if all(name in graph.recomputable for name in outputs):
            origin = next((self.doubt[name] for name in node.inputs if name in self.doubt), None)
            if origin is None and not fine and (batched or _counts_samples(node)):
                origin = Mixing(node.name, node.op, node.location)
            if origin is not None:
                self.doubt.update(dict.fromkeys((name for name in outputs if name not in self.proven), origin))
            return
        for name in node.inputs:
            if name in self.doubt:
                self.doubtful.add(name)
                self._report(self.doubt[name])
        if not batched and not inherited and not local:
            return
        if not fine:
            self._report(Mixing(node.name, node.op, node.location))
        if spreads:
            return
        if not fine or local:
            self.local.update(outputs)
            return
        self.partial.update(outputs)
        if _counts_samples(node):
            self.shares.add(node.name)
        if batched and rule is not None and rule.mean:
            _average(node, graph, rule, self.shares, self.counted)

    def _separable(self, node: Node, inherited: frozenset[str], spreads: bool, local: bool) -> bool:
        """Whether a part of the batch gives its part of the result, or its term of a sum."""
        if local:
            inherited = frozenset()  # beside a part's own values, which are named already, sums count for that part
        dispatched = self.dispatch.visit(node)
        if dispatched is None:
            letters = _letters_separate(node, self.graph, self.rules.get(node.name), inherited, spreads)
            return letters and self.ordered[node.name]
        return dispatched and all(self.dispatch.counts(name) for name in inherited)

    def _update(self, update: Update, relevant: frozenset[str]) -> None:
        """A buffer's new value is made with every micro-batch: that matters if samples, or itself, go into the loss."""
        graph = self.graph
        made = graph.producer.get(update.value)
        if made is None:
            return
        node = graph.nodes[made]
        used = _ancestors(graph, (update.value,))
        taken = {name for other in graph.nodes if other.name in used for name in other.inputs}
        read = any(update.constant in other.inputs for other in graph.nodes if other.name in relevant)
        if read or any(item.value.name in taken and _has_batch(item.value.shape) for item in graph.inputs):
            self._report(Mixing(node.name, node.op, node.location, graph.targets[update.constant]))

    def _report(self, mixing: Mixing) -> None:
        self.reported.setdefault(mixing.node, mixing)


def _average(node: Node, graph: Graph, rule: Rule, shares: set[str], counted: dict[str, str]) -> None:
    if rule.counts is not None and (target := node.inputs[rule.counts]) in graph.recomputable:
        counted[node.name] = target
    else:
        shares.add(node.name)


def _letters_separate(node: Node, graph: Graph, rule: Rule | None, inherited: frozenset[str], spreads: bool) -> bool:
    if node.op in (ENTER, LEAVE):
        return True
    if rule is None or any(_batch_dims(value.shape) > 1 for value in node.outputs):
        return False
    if _counts_samples(node) and not _averages(node, inherited):
        return False
    for dims, name in zip(rule.inputs, node.inputs, strict=True):
        for letter, size in zip(dims, graph.values[name].shape, strict=True):
            if letter in rule.whole and is_batched(size) and node.op not in reshape.RULES:  # of these, order tells
                return False
    if not inherited:
        return True
    partial = {index for index, name in enumerate(node.inputs) if name in inherited}
    nothing = {index for index, name in enumerate(node.inputs) if _is_zero(graph, name)}
    return not spreads and partial <= rule.linear <= partial | nothing


def _averages(node: Node, inherited: frozenset[str]) -> bool:
    """Whether a sum over samples is divided by a number that grows as they do: a mean, of which a part is a share."""
    size = node.arg(1, "other")
    divided = node.op in ("aten.div.Tensor", "aten.div.Scalar") and frozenset(node.inputs[:1]) == inherited
    return divided and isinstance(size, sympy.Expr) and (size / BATCH).is_number is True


def _counts_samples(node: Node) -> bool:
    """Whether the number of samples is computed with."""
    return node.op in NUMERICAL and any(is_batched(arg) for arg in node.args if isinstance(arg, sympy.Expr))


def _is_zero(graph: Graph, name: str) -> bool:
    """Whether `name` is made as zeros."""
    if name not in graph.producer:
        return False
    node = graph.nodes[graph.producer[name]]
    return node.op in ZEROS or (node.op == "aten.full.default" and node.args[1] == 0)


def _ancestors(graph: Graph, values: tuple[str, ...] = ()) -> frozenset[str]:
    """The nodes that `values`, if none are given the loss, or without one the outputs, depend on."""
    wanted = set(values or (graph.outputs if graph.loss is None else (graph.loss,)))
    found = set()
    for node in reversed(graph.nodes):
        if any(value.name in wanted for value in node.outputs):
            found.add(node.name)
            wanted.update(node.inputs)
    return frozenset(found)


def _batch_dims(shape: tuple[Size, ...]) -> int:
    return sum(is_batched(size) for size in shape)


def _has_batch(shape: tuple[Size, ...]) -> bool:
    return _batch_dims(shape) > 0
