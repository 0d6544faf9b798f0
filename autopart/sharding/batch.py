"""Batch: whether a loss is a sum over samples, so that micro-batches and replicas may each compute their part.

Micro-batching and data parallelism shard the batch axis. By the same letters as any other axis: a dim that holds the
batch stays sharded, a contraction leaves a partial sum, a mean over the batch becomes a share of the global mean. What
mixes samples in another way (a batch norm, a contrastive loss) is named, and computed per micro-batch. Samples that are
sorted and put back (an expert's tokens) do not mix: `Dispatch` follows them. What a mask or weights of samples add up
to over the batch is known before any work is done: such totals are those of the global batch, everywhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node, Update
from autopart.ir.kept import KEPT
from autopart.sharding.dispatch import Dispatch
from autopart.sharding.rule import Rule
from autopart.sharding.sample_numbers import SampleNumbers, countable
from autopart.sharding.sample_order import SampleOrder
from autopart.sharding.separable import counts_samples, has_batch, is_zero, letters_separate, reads_samples

SUMS = frozenset({"aten.add.Tensor", "aten.sub.Tensor"})
OFFSETS = SUMS | {"aten.rsub.Scalar", "aten.add.Scalar", "aten.sub.Scalar"}


@dataclass(frozen=True, slots=True)
class Mixing:
    """A node that mixes samples, with the user's line.

    Attributes:
        changes: the buffer that it gives a new value with every forward pass, "" for none.
        counts: whether all that it does is to count samples, from the first of each micro-batch on.
    """

    node: str
    op: str
    location: str
    changes: str = ""
    counts: bool = False


@dataclass(frozen=True, slots=True)
class BatchSharding:
    """How to compute the loss on a part of the batch.

    Attributes:
        shares: nodes that average over the batch, and what is added to sums over it and is none: their result is
            multiplied by the part's share of all samples.
        counted: nodes that average over the targets that count; value: the name of the targets.
        totals: nodes that sum over the batch what inputs decide: their result is that of the global batch.
        offsets: nodes that add a number to a sum over the batch, as in 1 - x: each part adds its share of the number.
        sums: outputs of the graph that are sums over the batch, to which parts add their own.
        parts: outputs that have no samples as a dim, and that each part has another of.
        sized: nodes that compute with the number of samples, which is that of the global batch.
        numbered: nodes that count samples, whose numbers are those in the global batch.
        weighted: whether the loss is no sum over samples: then each part's counts by its share of samples.
        mixing: nodes that mix samples; they are computed for each part by itself.
        doubtful: values that inputs and constants decide, of which the letters do not show that they are computed
            sample by sample; those that are, `proven` should name.
    """

    shares: frozenset[str]
    counted: Mapping[str, str]
    totals: frozenset[str]
    sized: frozenset[str]
    numbered: frozenset[str]
    offsets: frozenset[str]
    sums: frozenset[str]
    parts: frozenset[str]
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
    spoiled: frozenset[str] = frozenset()
    reported: dict[str, Mixing] = {}
    numbered = countable(graph)
    while True:
        walk = _Walk(graph, rules, proven, spoiled, reported, numbered)
        found = walk.result()
        if not numbered.isdisjoint(walk.within):
            numbered, spoiled, reported = numbered - walk.within, frozenset(), {}
        elif walk.spoiled <= spoiled:
            return found
        else:
            spoiled |= walk.spoiled


class _Walk:
    """Sorts values into partial sums over the batch, values of one part alone, and values in doubt.

    `known` are sums of which something else than a sum is made, as was found before: they are those of one part alone.
    What mixes samples is added to `reported`. Nodes in `numbered` count through the global batch; those whose numbers
    must be counted within a part are put into `within`.
    """

    def __init__(
        self,
        graph: Graph,
        rules: Mapping[str, Rule | None],
        proven: frozenset[str],
        known: frozenset[str],
        reported: dict[str, Mixing],
        numbered: frozenset[str],
    ) -> None:
        self.graph, self.rules, self.proven, self.known = graph, rules, proven, known
        self.dispatch = Dispatch(graph, rules)
        self.order = SampleOrder(graph, rules)
        self.numbers, self.numbered, self.within = SampleNumbers(graph, rules), numbered, set[str]()
        self.ordered: dict[str, bool] = {}
        self.partial: set[str] = set()
        self.local: set[str] = set()
        self.doubt: dict[str, Mixing] = {}
        self.reported = reported
        self.doubtful: set[str] = set()
        self.shares: set[str] = set()
        self.counted: dict[str, str] = {}
        self.totals: dict[str, Rule | None] = {}
        self.totalled: set[str] = set()  # what totals decide
        self.sized: set[str] = set()
        self.offsets: set[str] = set()
        self.spoiled: set[str] = set()
        self.looping = False
        self.places = {node.name: place for place, node in enumerate(graph.nodes)}

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
            self.sized.clear()
            self.offsets.clear()
        sums: frozenset[str] = frozenset() if weighted else frozenset(self.partial.intersection(self.graph.outputs))
        made = self.partial.union(self.local, (x for x in self.doubt if not has_batch(self.graph.values[x].shape)))
        self.shares.update(name for name, rule in self.totals.items() if rule is not None and rule.mean)
        return BatchSharding(
            frozenset(self.shares),
            self.counted,
            frozenset(self.totals),
            frozenset(self.sized),
            self.numbered,
            frozenset(self.offsets),
            sums,
            frozenset(made.intersection(self.graph.outputs) - sums - {self.graph.loss}),
            weighted,
            tuple(self.reported.values()),
            frozenset(self.doubtful),
        )

    def _visit(self, node: Node) -> None:
        graph, rule = self.graph, self.rules.get(node.name)
        batched = [name for name in node.inputs if has_batch(graph.values[name].shape)]
        inherited = frozenset(name for name in node.inputs if name in self.partial)
        if not reads_samples(node):
            batched, inherited = [], frozenset()
        shared = self._share_others(node, inherited)
        inherited |= shared
        local = reads_samples(node) and not self.local.isdisjoint(frozenset(node.inputs) - shared)
        spreads = any(has_batch(value.shape) for value in node.outputs)
        outputs = [value.name for value in node.outputs]
        if node.op in (ENTER, LEAVE):
            self.looping = node.op == ENTER
        offset = bool(inherited) and not local and node.op in OFFSETS and len(node.inputs) == 1
        numbers, placed, rows = self.numbers.visit(node), self.dispatch.visit(node), self.numbers.looked_up(node)
        fine = offset or self._separable(node, placed, rows, inherited, spreads, local)
        sized = fine and not local and counts_samples(node)
        if rows or placed is not None or not fine:
            self.within |= numbers
        doubted = [name for name in node.inputs if name in self.doubt]
        if rows or placed:  # numbers that only say at which place of a part a row stands are right
            doubted = [name for name in doubted if not self.numbers.is_count(name)]
        if self.numbers.makes(node) and node.name not in self.numbered:
            counting = Mixing(node.name, node.op, _place(node), counts=True)
            self.doubt.update(dict.fromkeys((name for name in outputs if name not in self.proven), counting))
            return
        if all(name in graph.recomputable for name in outputs):
            origin = self.doubt[doubted[0]] if doubted else None
            sums = fine and bool(batched) and not spreads
            if origin is None and (not self._is_total(node) if sums else bool(batched) and not fine):
                origin = Mixing(node.name, node.op, _place(node))
                self._spoil(node.inputs)
            if origin is not None:
                self.doubt.update(dict.fromkeys((name for name in outputs if name not in self.proven), origin))
            elif sums:
                self.totals[node.name] = rule
            if sums or not self.totalled.isdisjoint(node.inputs):
                self.totalled.update(outputs)
            if sized and origin is None:
                self.sized.add(node.name)
            return
        for name in doubted:
            self.doubtful.add(name)
            self._report(self.doubt[name])
        if sized:
            self.sized.add(node.name)
        if not batched and not inherited and not local:
            return
        if not fine:
            self._report(Mixing(node.name, node.op, _place(node)))
            self._spoil(inherited)
        if spreads:
            return
        if not fine or local or not self.known.isdisjoint(outputs):
            self.local.update(outputs)
            return
        self.partial.update(outputs)
        if offset:
            self.offsets.add(node.name)
        if batched and rule is not None and rule.mean:
            self._average(node, rule)

    def _separable(
        self,
        node: Node,
        placed: bool | None,
        rows: tuple[str, str] | None,
        inherited: frozenset[str],
        spreads: bool,
        local: bool,
    ) -> bool:
        """Whether a part of the batch gives its part of the result, or its term of a sum."""
        if local:
            inherited = frozenset()  # beside a part's own values, which are named already, sums count for that part
        if placed is None:
            rule = self.rules.get(node.name)
            if rule is not None and rows is not None:
                rule = replace(rule, whole=rule.whole - {rows[1]})
            return letters_separate(node, self.graph, rule, inherited, spreads) and self.ordered[node.name]
        return placed and all(self.dispatch.counts(name) for name in inherited)

    def _average(self, node: Node, rule: Rule) -> None:
        """A mean over samples, or over the targets that count: how many do must be known before the step."""
        target = None if rule.counts is None else node.inputs[rule.counts]
        if target is not None and target in self.graph.recomputable:
            self.counted[node.name] = target
            return
        self.shares.add(node.name)
        if target is not None and not self._all_count(node, target):
            self._report(Mixing(node.name, node.op, _place(node)))

    def _all_count(self, node: Node, target: str) -> bool:
        """Whether the targets are places, as an argmax gives them, and none of these is left out."""
        ignored = node.arg(4, "ignore_index", -100)
        return isinstance(ignored, int) and ignored < 0 and self.dispatch.natural(target)

    def _spoil(self, names: Iterable[str]) -> None:
        """Note sums and totals of which something else is made, and all that go into them."""
        pending = list(names)
        while pending:
            name = pending.pop()
            if (name in self.partial or name in self.totalled) and name not in self.spoiled:
                self.spoiled.add(name)
                pending += self.graph.nodes[self.graph.producer[name]].inputs

    def _share_others(self, node: Node, inherited: frozenset[str]) -> frozenset[str]:
        """What is added to sums over samples and is none: every part adds its share of it."""
        others = frozenset(name for name in node.inputs if not is_zero(self.graph, name)) - inherited
        if node.op not in SUMS or self.looping or not inherited or not others:
            return frozenset()
        made = [self.graph.nodes[self.graph.producer[name]] for name in others if name in self.graph.producer]
        once = all(self.graph.consumers[name] == (self.places[node.name],) for name in others)
        alone = all(len(other.outputs) == 1 and other.op not in (ENTER, LEAVE, KEPT) for other in made)
        alone = alone and self.totals.keys().isdisjoint(other.name for other in made)
        values = [self.graph.values[name] for name in others]
        plain = all("float" in value.dtype and not has_batch(value.shape) for value in values)
        if len(made) != len(others) or not (once and alone and plain and self.doubt.keys().isdisjoint(others)):
            return frozenset()
        self.shares.update(other.name for other in made)
        self.partial.update(others)
        self.local.difference_update(others)
        return others

    def _is_total(self, node: Node) -> bool:
        """Whether a sum over the batch can be made before the step: once, and of no other such sum."""
        rule = self.rules.get(node.name)
        plain = not self.looping and len(node.outputs) == 1 and rule is not None and rule.counts is None
        return plain and self.totalled.isdisjoint(node.inputs) and node.output.name not in self.known

    def _update(self, update: Update, relevant: frozenset[str]) -> None:
        """A buffer's new value is made with every micro-batch: that matters if samples, or itself, go into the loss."""
        graph = self.graph
        made = graph.producer.get(update.value)
        if made is None:
            return
        self._spoil((update.value,))  # no share of a sum, and no total over and over
        node = graph.nodes[made]
        used = _ancestors(graph, (update.value,))
        taken = {name for other in graph.nodes if other.name in used for name in other.inputs}
        read = any(update.constant in other.inputs for other in graph.nodes if other.name in relevant)
        if read or any(item.value.name in taken and has_batch(item.value.shape) for item in graph.inputs):
            before = [graph.nodes[graph.producer[name]].location for name in node.inputs if name in graph.producer]
            location = next(filter(None, (node.location, *before)), _place(node))
            self._report(Mixing(node.name, node.op, location, graph.targets[update.constant]))

    def _report(self, mixing: Mixing) -> None:
        self.reported.setdefault(mixing.node, mixing)


def _place(node: Node) -> str:
    """The user's line; of what runs in modules of torch that no line calls, the module."""
    return node.location or f"in module {node.scope or 'of torch'}"


def _ancestors(graph: Graph, values: tuple[str, ...] = ()) -> frozenset[str]:
    """The nodes that `values`, if none are given the outputs, depend on."""
    wanted = set(values or graph.outputs)
    found = set()
    for node in reversed(graph.nodes):
        if any(value.name in wanted for value in node.outputs):
            found.add(node.name)
            wanted.update(node.inputs)
    return frozenset(found)
