"""Products: sizes, floating-point operations and seconds of matrix products, convolutions and attention."""

from dataclasses import dataclass, field
from functools import cached_property
from math import prod

from autopart.estimate.attention import BACKWARD, Attention, AttentionSizes, price_attention
from autopart.estimate.conversions import Conversions, Cost
from autopart.estimate.sorts import Sorts
from autopart.estimate.work import Work, short_name, work_of
from autopart.ir.graph import Node
from autopart.ir.placement import REPLICATED
from autopart.sharding.rules.experts import GROUPED, GROUPS, ROWS
from autopart.sharding.strategies import Strategy
from cost_models.collective import Group, all_gather_s
from cost_models.compute import matmul_s, memory_bound_s

FLOAT8 = "float8"


@dataclass(frozen=True)
class Products(Conversions):
    """Of `graph` on `cluster`; the fields are those of `Sizes`, and which strategies are priced alike."""

    sorts: Sorts = field(default_factory=Sorts, compare=False)

    def flops(self, node: Node) -> float:
        """The floating-point operations of a node's forward pass over all ranks, matmuls and attention only."""
        if node.name not in self._flops:
            work, flops = work_of(node), 0.0
            if work is Work.MATMUL:
                flops = 2.0 * prod(self.product_sizes(node, None)) * self._pieces(node)
            elif work is Work.ATTENTION:
                flops = self._attention_sizes(node, None).flops * self.context.degree
            self._flops[node.name] = flops
        return self._flops[node.name]

    @cached_property
    def _flops(self) -> dict[str, float]:
        return {}

    def backward_flops(self, node: Node) -> float:
        """The same for its backward pass."""
        work = work_of(node)
        if work is not Work.MATMUL:
            return self.flops(node) * BACKWARD if work is Work.ATTENTION and node.output.requires_grad else 0.0
        wanted = sum(self.graph.values[name].requires_grad for name in self._operands(node)[:2])
        return self.flops(node) * wanted

    def product(self, node: Node, strategy: Strategy) -> Cost:
        """Seconds of a matrix product on one rank."""
        batch, m, n, k = self.product_sizes(node, strategy)
        device = self.cluster.device
        first, second = self._operands(node)[:2]
        dtype = self.product_dtype(node)
        speed = self.stack.product_speed
        forward = matmul_s(batch, m, n, k, dtype, device) / speed
        backward = 0.0
        if self.graph.values[first].requires_grad:
            backward += matmul_s(batch, m, k, n, dtype, device) / speed
        if self.graph.values[second].requires_grad:
            backward += matmul_s(batch, k, n, m, dtype, device, k_is_contiguous=False) / speed
        if dtype == FLOAT8:
            # What is multiplied is read in half precision and written in float8 as it is and transposed, which is the
            # only layout that the products of the backward pass take (Micikevicius et al. 2022, "FP8 formats").
            weights = 0.0 if self.stack.casts_weights_once else batch * k * n
            forward += memory_bound_s(4 * (batch * m * k + weights), device)
            backward += memory_bound_s(4 * batch * m * n, device)
        return Cost(forward, backward)

    def weight_s(self, node: Node, strategy: Strategy) -> float:
        """Of a node's backward pass, the seconds of the product that gives the gradient of a weight."""
        if work_of(node) is not Work.MATMUL:
            return 0.0
        key = self.sorts.of(node, strategy)
        if key not in self._weights:
            self._weights[key] = self._weight_of(node, strategy)
        return self._weights[key]

    def _weight_of(self, node: Node, strategy: Strategy) -> float:
        second = self._operands(node)[1]
        if second not in self.graph.parameter_of or not self.graph.values[second].requires_grad:
            return 0.0
        batch, m, n, k = self.product_sizes(node, strategy)
        seconds = matmul_s(batch, k, n, m, self.product_dtype(node), self.cluster.device, k_is_contiguous=False)
        return seconds / self.stack.product_speed

    @cached_property
    def _weights(self) -> dict[int, float]:
        return {}

    def product_dtype(self, node: Node) -> str:
        """The dtype that a product multiplies in: float8 under that precision, for the weights of repeated layers."""
        operands = self._operands(node)
        trained = any(self.graph.values[name].requires_grad and name in self.graph.parameter_of for name in operands)
        if self.precision == "fp8-mixed" and trained and node.name in self.repeated:
            return FLOAT8
        return self.dtype(node.output.name)

    def _pieces(self, node: Node) -> int:
        """How many ranks of the context each compute a piece of a node."""
        return self.context.degree if node.output.name in self.context.dim_of else 1

    def _operands(self, node: Node) -> tuple[str, ...]:
        names = node.inputs
        return names[1:] if short_name(node.op) in ("addmm", "baddbmm") else names

    def product_sizes(self, node: Node, strategy: Strategy | None) -> tuple[float, float, float, float]:
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

    def _attention_sizes(self, node: Node, strategy: Strategy | None) -> AttentionSizes:
        query, key, value = (self.shapes[name] for name in node.inputs[:3])
        names = (*node.inputs, node.output.name)
        layouts = [REPLICATED] * len(names) if strategy is None else [*strategy.inputs, strategy.outputs[0]]
        moved = sum(self.local_bytes(name, layout) for name, layout in zip(names, layouts, strict=True))
        dropout = node.arg(4, "dropout_p", 0.0)
        return AttentionSizes(
            heads=prod(query[:-2]) / (self.tp if strategy is not None and strategy.divided else 1),
            queries=query[-2],
            keys=key[-2] * self.context.degree,
            head_size=query[-1],
            value_size=value[-1],
            causal=node.arg(5, "is_causal", False) is True,
            dropout=isinstance(dropout, int | float) and dropout > 0,
            moved_bytes=moved,
            dtype=self.dtype(node.output.name),
        )

    def attention(self, node: Node, strategy: Strategy) -> Attention:
        """Seconds and kept scores of one rank's attention.

        Under context parallelism the ranks pass keys and values around (Liu et al. 2023, "Ring attention"), which hides
        behind the attention with what came before; the backward pass sends their gradients too.
        """
        found = price_attention(
            self._attention_sizes(node, strategy),
            self.stack.attention,
            self.stack.fusion != "none",
            self.cluster.device,
        )
        if self.context.degree == 1:
            return found
        group = Group(self.context.degree, self.tp)
        size = self.context.degree * sum(
            self.local_bytes(name, layout) for name, layout in zip(node.inputs[1:3], strategy.inputs[1:3], strict=True)
        )
        sent_s = all_gather_s(size, group, self.cluster)
        return Attention(max(found.forward_s, sent_s), max(found.backward_s, 2 * sent_s), found.kept_bytes)
