"""Prices: seconds and bytes of every node, strategy and conversion of a graph, at one batch size and tp degree."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from autopart.estimate.work import Keeps, Work, keeps_of, short_name, work_of
from autopart.ir.graph import Graph, Node
from autopart.ir.placement import Layout, Shard, rows
from autopart.ir.size import evaluate
from autopart.sharding.reshard import Conversion, conversion
from autopart.sharding.rule import Rule
from autopart.sharding.rules.experts import GROUPED, GROUPS, ROWS
from autopart.sharding.strategies import Strategy
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s
from cost_models.compute import attention_s, matmul_s, memory_bound_s
from cost_models.dtype import dtype_bytes

# FlashAttention-2 (Dao 2023, section 3.1): the backward pass has 5 matmuls where the forward pass has 2.
ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a forward and of a backward pass."""

    forward_s: float = 0.0
    backward_s: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward_s + other.forward_s, self.backward_s + other.backward_s)

    @property
    def total_s(self) -> float:
        """Both passes."""
        return self.forward_s + self.backward_s


@dataclass(frozen=True)
class Prices:
    """Prices of `graph` on `cluster` with `batch` samples a micro-batch and `tp` ranks sharing every node."""

    graph: Graph
    rules: Mapping[str, Rule | None]
    cluster: Cluster
    tp: int
    batch: int

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of every value."""
        return {name: tuple(evaluate(size, self.batch) for size in v.shape) for name, v in self.graph.values.items()}

    @cached_property
    def bytes_of(self) -> dict[str, int]:
        """The bytes of every whole value."""
        return {name: prod(shape) * dtype_bytes(self.graph.values[name].dtype) for name, shape in self.shapes.items()}

    def local_bytes(self, name: str, layout: Layout) -> float:
        """The bytes of one rank's piece of a value."""
        return self.bytes_of[name] / (self.tp if isinstance(layout.value, Shard) else 1)

    def node(self, node: Node, strategy: Strategy) -> Cost:
        """Seconds of one node on one rank, without conversions and without the sums of its inputs' gradients."""
        return self._kernels(node, strategy) + self._inside(node, strategy)

    def flops(self, node: Node) -> float:
        """The floating-point operations of a node's forward pass over all ranks, matmuls and attention only."""
        work = work_of(node)
        if work is Work.MATMUL:
            return 2.0 * prod(self._matmul_sizes(node, None))
        return self._attention_flops(node, 1) if work is Work.ATTENTION else 0.0

    def backward_flops(self, node: Node) -> float:
        """The same for its backward pass."""
        if work_of(node) is Work.ATTENTION:
            return self.flops(node) * ATTENTION_BACKWARD if node.output.requires_grad else 0.0
        wanted = sum(self.graph.values[name].requires_grad for name in self._operands(node)[:2])
        return self.flops(node) * wanted

    def sent_bytes(self, name: str, source: Layout, target: Layout) -> tuple[tuple[str, float] | None, ...]:
        """The collectives of a conversion, forward and backward, with the bytes that a rank of a ring sends in each."""
        needs_gradient = self.graph.values[name].requires_grad
        found = conversion(source, target, needs_gradient)
        if found is None or source == target:
            return (None, None)
        share = (self.tp - 1) / self.tp * self.bytes_of[name]
        factors = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1 / self.tp}
        collectives = (found.forward, found.backward if needs_gradient else None)
        return tuple(None if own is None else (own, factors[own] * share) for own in collectives)

    def conversion(self, name: str, source: Layout, target: Layout) -> Cost | None:
        """Seconds to make layout `target` of a value held as `source`; None where that is impossible."""
        if source == target:
            return Cost()
        needs_gradient = self.graph.values[name].requires_grad
        found = conversion(source, target, needs_gradient)
        if found is None:
            return None
        collectives = (found.forward, found.backward if needs_gradient else None)
        copied_bytes = self._copied_bytes(found, name, source, target)
        seconds = [
            (self._collective_s(collective, name, source, target) if collective else 0.0)
            + (memory_bound_s(size, self.cluster.device) if size and (index == 0 or needs_gradient) else 0.0)
            for index, (collective, size) in enumerate(zip(collectives, copied_bytes, strict=True))
        ]
        return Cost(*seconds)

    def _collective_s(self, collective: str, name: str, source: Layout, target: Layout) -> float:
        size, group = self.bytes_of[name], Group(self.tp, 1)
        if collective == "all_reduce":
            return all_reduce_s(size, group, self.cluster)
        if collective == "all_to_all":  # a rank has its shard only, and deals that out
            return all_to_all_s(size / self.tp, group, self.cluster)
        count = self._rows(name, source, target) or 1
        seconds = all_gather_s if collective == "all_gather" else reduce_scatter_s
        return count * seconds(size / count, group, self.cluster)

    def _copied_bytes(self, found: Conversion, name: str, source: Layout, target: Layout) -> tuple[float, float]:
        """The bytes that the runtime's `Comm` reads and writes in device memory beside the collective, each way."""
        size, piece = self.bytes_of[name], self.bytes_of[name] / self.tp
        reordered = 0 if self._rows(name, source, target) else 2 * size
        return {
            "copy": (0, 2 * size),  # an all-reduce is done in a copy, since others may hold the tensor
            "all_reduce": (2 * size, 0),
            "all_reduce_both": (2 * size, 2 * size),
            "all_gather": (reordered, reordered),
            "reduce_scatter": (reordered, reordered),
            "gather": (reordered, 2 * piece),
            "split": (2 * piece, reordered),
            "slice": (2 * piece, size + 2 * piece),  # its gradient is zeros, with the piece put in
            "all_to_all": (4 * piece, 4 * piece),
            "once": (size, 0),
            "own_rows": (0, size + 2 * piece),  # the slice is a view
            "all_rows": (size + piece, 0),
        }[found.call]

    def _rows(self, name: str, source: Layout, target: Layout) -> int:
        shard = source.shard or target.shard
        element_bytes = dtype_bytes(self.graph.values[name].dtype)
        return rows(shard, self.shapes[name], element_bytes) if shard is not None else 1

    def gradient_sum_s(self, name: str, layout: Layout) -> float:
        """Seconds in which autograd adds one more gradient of a value in `layout`: two are read, one is written."""
        if not self.graph.values[name].requires_grad:
            return 0.0
        return memory_bound_s(3 * self.local_bytes(name, layout), self.cluster.device)

    def partial_gradient_s(self, name: str) -> float:
        """Seconds to sum a parameter's partial gradient over the tp ranks, once a step."""
        return all_reduce_s(self.bytes_of[name], Group(self.tp, 1), self.cluster)

    def optimizer_s(self, parameter_bytes: float) -> float:
        """Seconds of AdamW over `parameter_bytes` of parameters: 4 tensors read, 3 written, once a step."""
        return (
            7
            * parameter_bytes
            / (self.cluster.device.memory_bandwidth_bytes_per_s * self.cluster.device.bandwidth_fraction)
        )

    def kept(self, node: Node, strategy: Strategy) -> tuple[tuple[str, Layout], ...]:
        """The values, each in the layout it is used in, that autograd keeps of a node until its backward pass."""
        if not any(value.requires_grad for value in node.outputs):
            return ()
        keeps = keeps_of(node)
        found: list[tuple[str, Layout]] = []
        if keeps in (Keeps.INPUTS, Keeps.BOTH):
            found += zip(node.inputs, strategy.inputs, strict=True)
        if keeps in (Keeps.OUTPUT, Keeps.BOTH):
            found += [(value.name, layout) for value, layout in zip(node.outputs, strategy.outputs, strict=True)]
        return tuple(found)

    def kept_bytes(self, node: Node, strategy: Strategy) -> float:
        """The bytes of these; a value that other nodes keep too counts for each."""
        kept = self.kept(node, strategy)
        return sum(self.local_bytes(name, layout) for name, layout in kept if name not in self.graph.weights)

    def transient_bytes(self, node: Node, strategy: Strategy) -> float:
        """Bytes that exist only while the node runs backward: the gradients of its outputs and inputs."""
        inputs = sum(
            self.local_bytes(name, layout)
            for name, layout in zip(node.inputs, strategy.inputs, strict=True)
            if self.graph.values[name].requires_grad and name not in self.graph.parameter_of
        )
        return inputs + sum(self.local_bytes(v.name, x) for v, x in zip(node.outputs, strategy.outputs, strict=True))

    def _kernels(self, node: Node, strategy: Strategy) -> Cost:
        work, device = work_of(node), self.cluster.device
        share = self.tp if strategy.divided else 1
        out = sum(self.local_bytes(v.name, x) for v, x in zip(node.outputs, strategy.outputs, strict=True))
        pairs = list(zip(node.inputs, strategy.inputs, strict=True))
        ins = sum(self.local_bytes(name, layout) for name, layout in pairs)
        trained = sum(self.local_bytes(name, layout) for name, layout in pairs if self.graph.values[name].requires_grad)
        has_backward = any(value.requires_grad for value in node.outputs)
        if work is Work.VIEW:
            cut = short_name(node.op) in ("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow")
            return Cost(0.0, memory_bound_s(2 * trained, device) if cut and has_backward else 0.0)
        if work is Work.MATMUL:
            return self._matmul(node, strategy)
        if work is Work.ATTENTION:
            dtype, flops = node.output.dtype, self._attention_flops(node, share)
            forward = attention_s(flops, ins + out, dtype, device)
            backward = attention_s(flops * ATTENTION_BACKWARD, 2 * (ins + out), dtype, device) if has_backward else 0.0
            return Cost(forward, backward)
        if short_name(node.op) == "embedding":
            masked = 2 if strategy.call else 1  # rows that another rank holds are put to zero in a second pass
            forward, backward = masked * 2 * out, trained + masked * 2 * out
            return Cost(memory_bound_s(forward, device), memory_bound_s(backward, device) if has_backward else 0.0)
        if short_name(node.op) == "add":  # the gradient of the sum is that of its terms; a broadcast one is reduced
            shape = self.shapes[node.output.name]
            terms = [
                self.local_bytes(n, x)
                for n, x in pairs
                if self.graph.values[n].requires_grad and self.shapes[n] != shape
            ]
            return Cost(memory_bound_s(ins + out, device), sum(memory_bound_s(out + term, device) for term in terms))
        return Cost(
            memory_bound_s(ins + out, device), memory_bound_s(ins + out + trained, device) if has_backward else 0.0
        )

    def _matmul(self, node: Node, strategy: Strategy) -> Cost:
        batch, m, n, k = self._matmul_sizes(node, strategy)
        dtype, device = node.output.dtype, self.cluster.device
        first, second = self._operands(node)[:2]
        forward = matmul_s(batch, m, n, k, dtype, device)
        backward = 0.0
        if self.graph.values[first].requires_grad:
            backward += matmul_s(batch, m, k, n, dtype, device)
        if self.graph.values[second].requires_grad:
            backward += matmul_s(batch, k, n, m, dtype, device)
        return Cost(forward, backward)

    def _operands(self, node: Node) -> tuple[str, ...]:
        names = node.inputs
        return names[1:] if short_name(node.op) in ("addmm", "baddbmm") else names

    def _matmul_sizes(self, node: Node, strategy: Strategy | None) -> tuple[float, float, float, float]:
        """(batch, m, n, k) of the product on one rank, read off the letters; without a rule, of its output."""
        rule = self.rules[node.name]
        shapes = [self.shapes[name] for name in node.inputs]
        out_shape = self.shapes[node.output.name]
        if rule is None:  # a form whose letters are not known: the contracted size is the operands' common last one
            return 1.0, float(prod(out_shape)), 1.0, float(shapes[-1][-1] if shapes[-1] else 1)
        skip = len(node.inputs) - len(self._operands(node))
        first, second = rule.inputs[skip], rule.inputs[skip + 1]
        output = rule.outputs[0]
        sizes: dict[str, float] = {}
        for dims, shape in zip((*rule.inputs, *rule.outputs), (*shapes, out_shape), strict=True):
            sizes.update({letter: float(size) for letter, size in zip(dims, shape, strict=True) if letter})
        if strategy is not None and strategy.divided and strategy.letter in sizes:
            sizes[strategy.letter] /= self.tp
        inside = [
            letter for letter in second if letter and letter not in output
        ]  # contracted, a convolution's window too
        if node.op in GROUPED and ROWS in output[:1]:  # a product a group, rows taken to be dealt out evenly
            groups = sizes[GROUPS]
            own = self.tp if strategy is not None and strategy.letter == ROWS else 1
            return groups / own, sizes[ROWS] * own / groups, sizes["n"], sizes["k"]
        batch = prod(sizes[x] for x in output if x and x in first and x in second)
        n = prod(sizes[x] for x in output if x and x in second and x not in first)
        # A dim of no axis (the rows of grouped products) is one of rows too.
        m = prod(sizes[x] if x else size for x, size in zip(output, out_shape, strict=True) if not x or x not in second)
        return batch, m, n, prod(sizes[x] for x in inside)

    def _attention_flops(self, node: Node, share: int) -> float:
        query, key = self.shapes[node.inputs[0]], self.shapes[node.inputs[1]]
        value = self.shapes[node.inputs[2]]
        full = 2.0 * prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        return full / share / (2 if node.arg(5, "is_causal", False) is True else 1)

    def _inside(self, node: Node, strategy: Strategy) -> Cost:
        """Collectives inside a sharded call: a vocabulary-parallel loss reduces a maximum, a sum and logits."""
        if strategy.call != "cross_entropy":
            return Cost()
        rows = self.shapes[node.inputs[0]][0]
        return Cost(3 * all_reduce_s(rows * 4, Group(self.tp, 1), self.cluster), 0.0)
