"""Prices: seconds and bytes of every node, strategy and conversion of a graph, at one batch size and tp degree."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from autopart.estimate.attention import BACKWARD, Attention, AttentionSizes, price_attention
from autopart.estimate.context import WHOLE, Context
from autopart.estimate.fusion import Fusion, find_fusion
from autopart.estimate.work import Work, short_name, work_of
from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.placement import REPLICATED, Layout, Shard, rows
from autopart.ir.size import evaluate
from autopart.sharding.reshard import Conversion, conversion
from autopart.sharding.rule import Rule
from autopart.sharding.rules.experts import GROUPED, GROUPS, ROWS
from autopart.sharding.strategies import Strategy
from cost_models.cluster import Cluster
from cost_models.collective import Group, all_gather_s, all_reduce_s, all_to_all_s, reduce_scatter_s
from cost_models.compute import matmul_s, memory_bound_s
from cost_models.dtype import dtype_bytes
from cost_models.precision import computed_dtype, state
from cost_models.stack import Stack

FLOAT8 = "float8"


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


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes that stay until the backward pass: of a value, or of `scores` that attention could compute again."""

    name: str
    sharded: bool
    bytes: float
    scores: bool = False


@dataclass(frozen=True)
class Prices:
    """Prices of `graph` on `cluster` with `batch` samples a micro-batch and `tp` ranks sharing every node."""

    graph: Graph
    rules: Mapping[str, Rule | None]
    cluster: Cluster
    tp: int
    batch: int
    stack: Stack
    precision: str = "as-built"
    context: Context = WHOLE

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every value, whole but for what context parallelism divides."""
        whole = {name: tuple(evaluate(size, self.batch) for size in v.shape) for name, v in self.graph.values.items()}
        return self.context.divided(whole)

    @cached_property
    def bytes_of(self) -> dict[str, int]:
        """The bytes of every whole value."""
        return {name: prod(shape) * dtype_bytes(self.dtype(name)) for name, shape in self.shapes.items()}

    @cached_property
    def main_dtype(self) -> str:
        """The dtype that most parameters have."""
        dtypes = [parameter.value.dtype for parameter in self.graph.parameters]
        return max(sorted(set(dtypes)), key=dtypes.count) if dtypes else "float32"

    def dtype(self, name: str) -> str:
        """In which dtype a value is computed: a mixed precision computes what the model has in float32 in half."""
        own = self.graph.values[name].dtype
        return computed_dtype(self.precision, own) if own == self.main_dtype else own

    @cached_property
    def repeated(self) -> frozenset[str]:
        """The names of the nodes inside loops."""
        inside, names = 0, []
        for before, node in zip((None, *self.graph.nodes), self.graph.nodes, strict=False):
            if node.op == ENTER:
                inside = 1
            elif before is not None and before.op == LEAVE:
                inside = 0
            if inside:
                names.append(node.name)
        return frozenset(names)

    @cached_property
    def fusion(self) -> Fusion:
        """Which values the stack's kernels read, write and keep."""
        return find_fusion(self.graph, self.stack.fusion, self.bytes_of)

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
            return 2.0 * prod(self.product_sizes(node, None)) * self._pieces(node)
        return self._attention_sizes(node, None).flops * self.context.degree if work is Work.ATTENTION else 0.0

    def backward_flops(self, node: Node) -> float:
        """The same for its backward pass."""
        if work_of(node) is Work.ATTENTION:
            return self.flops(node) * BACKWARD if node.output.requires_grad else 0.0
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
        exposed = 1.0 - self.stack.tensor_overlap
        seconds = [
            (exposed * self._collective_s(collective, name, source, target) if collective else 0.0)
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
        """Seconds in which autograd adds one more gradient of a value in `layout`: two are read, one is written.

        A compiling stack adds inside the kernels that make the gradients. A stack that adds weights' gradients in the
        product still reads and writes the sum there.
        """
        if not self.graph.values[name].requires_grad:
            return 0.0
        size = self.local_bytes(name, layout)
        if name in self.graph.parameter_of:
            element = dtype_bytes(self.dtype(name))
            total = element if self.precision == "as-built" else self.stack.gradient_bytes
            alone = 0 if self.stack.sums_in_products else element
            return memory_bound_s(size / element * (2 * total + alone), self.cluster.device)
        return 0.0 if self.stack.fusion == "compiled" else memory_bound_s(3 * size, self.cluster.device)

    def partial_gradient_s(self, name: str) -> float:
        """Seconds to sum a parameter's partial gradient over the tp ranks, once a step."""
        return all_reduce_s(self.bytes_of[name], Group(self.tp, 1), self.cluster)

    def optimizer_s(self, parameter_bytes: float) -> float:
        """Seconds of the optimizer's step over `parameter_bytes` of parameters, once a step."""
        moved = parameter_bytes / dtype_bytes(computed_dtype(self.precision, self.main_dtype)) * self._step_bytes
        return moved / (self.cluster.device.memory_bandwidth_bytes_per_s * self.cluster.device.bandwidth_fraction)

    @cached_property
    def _step_bytes(self) -> float:
        return state(self.precision, self.main_dtype, "adamw", self.stack).step_bytes

    def kept(self, node: Node, strategy: Strategy) -> tuple[Kept, ...]:
        """What autograd keeps of a node until its backward pass."""
        if not any(value.requires_grad for value in node.outputs):
            return ()
        fusion, found = self.fusion, []
        pairs = [
            *((node.inputs[slot], strategy.inputs[slot]) for slot in fusion.kept_inputs.get(node.name, ())),
            *((node.outputs[slot].name, strategy.outputs[slot]) for slot in fusion.kept_outputs.get(node.name, ())),
        ]
        for name, layout in pairs:
            if name not in self.graph.weights:
                found.append(Kept(name, isinstance(layout.value, Shard), self.local_bytes(name, layout)))
        mask = self._mask_bytes(node, strategy)
        if mask:
            found.append(Kept(f"{node.name}'s mask", isinstance(strategy.outputs[0].value, Shard), mask))
        if work_of(node) is Work.ATTENTION:
            found.append(Kept(f"{node.name}'s scores", False, self.attention(node, strategy).kept_bytes, True))
        return tuple(found)

    def kept_bytes(self, node: Node, strategy: Strategy) -> float:
        """The bytes of these; a value that other nodes keep too counts for each."""
        return sum(kept.bytes for kept in self.kept(node, strategy))

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
        pairs = list(zip(node.inputs, strategy.inputs, strict=True))
        read = [pairs[slot] for slot in self.fusion.reads[node.name]]
        out = sum(
            self.local_bytes(node.outputs[slot].name, strategy.outputs[slot]) for slot in self.fusion.writes[node.name]
        )
        ins = sum(self.local_bytes(name, layout) for name, layout in read)
        trained = sum(self.local_bytes(name, layout) for name, layout in read if self.graph.values[name].requires_grad)
        has_backward = any(value.requires_grad for value in node.outputs)
        if work is Work.VIEW:
            cut = short_name(node.op) in ("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "narrow")
            return Cost(0.0, self._moved_s(node, 2 * trained) if cut and has_backward else 0.0)
        if work is Work.MATMUL:
            return self._matmul(node, strategy)
        if work is Work.ATTENTION:
            found = self.attention(node, strategy)
            return Cost(found.forward_s, found.backward_s if has_backward else 0.0)
        if short_name(node.op) == "embedding":
            masked = 2 if strategy.call else 1  # rows that another rank holds are put to zero in a second pass
            forward, backward = masked * 2 * out, trained + masked * 2 * out
            return Cost(memory_bound_s(forward, device), memory_bound_s(backward, device) if has_backward else 0.0)
        if short_name(node.op) == "add" and self.stack.fusion == "none":
            # The gradient of the sum is that of its terms; a broadcast one is reduced.
            shape = self.shapes[node.output.name]
            terms = [
                self.local_bytes(n, x)
                for n, x in pairs
                if self.graph.values[n].requires_grad and self.shapes[n] != shape
            ]
            return Cost(memory_bound_s(ins + out, device), sum(memory_bound_s(out + term, device) for term in terms))
        mask = self._mask_bytes(node, strategy)
        # Backward, what was kept and the gradients of what was written are read, those of what was read are written.
        return Cost(
            self._moved_s(node, ins + out + mask),
            self._moved_s(node, ins + out + trained + mask) if has_backward else 0.0,
        )

    def _moved_s(self, node: Node, moved_bytes: float) -> float:
        """Seconds of moving bytes as a kernel, or as a part of one that another node begins."""
        seconds = memory_bound_s(moved_bytes, self.cluster.device)
        return seconds if node.name in self.fusion.launches else seconds - self.cluster.device.kernel_launch_s

    def _mask_bytes(self, node: Node, strategy: Strategy) -> float:
        """The byte an element that dropout keeps to know what it dropped; a compiling stack draws it again."""
        if short_name(node.op) not in ("dropout", "native_dropout") or self.stack.fusion == "compiled":
            return 0.0
        name = node.output.name
        return self.local_bytes(name, strategy.outputs[0]) / dtype_bytes(self.dtype(name))

    def _matmul(self, node: Node, strategy: Strategy) -> Cost:
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
            # Both operands, and the gradient, are read in half precision and written in float8 as they are and
            # transposed, which is the only layout that the products of the backward pass take.
            forward += memory_bound_s(4 * batch * (m * k + k * n), device)
            backward += memory_bound_s(4 * batch * m * n, device)
        return Cost(forward, backward)

    def weight_s(self, node: Node, strategy: Strategy) -> float:
        """Of a node's backward pass, the seconds of the product that gives the gradient of a weight."""
        if work_of(node) is not Work.MATMUL:
            return 0.0
        second = self._operands(node)[1]
        if second not in self.graph.parameter_of or not self.graph.values[second].requires_grad:
            return 0.0
        batch, m, n, k = self.product_sizes(node, strategy)
        seconds = matmul_s(batch, k, n, m, self.product_dtype(node), self.cluster.device, k_is_contiguous=False)
        return seconds / self.stack.product_speed

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

    def _inside(self, node: Node, strategy: Strategy) -> Cost:
        """Collectives inside a sharded call: a vocabulary-parallel loss reduces a maximum, a sum and logits."""
        if strategy.call != "cross_entropy":
            return Cost()
        rows = self.shapes[node.inputs[0]][0]
        return Cost(3 * all_reduce_s(rows * 4, Group(self.tp, 1), self.cluster), 0.0)
