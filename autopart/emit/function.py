"""Turn nodes of a sharded graph into the statements of one function: the ops, and the conversions between layouts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import sympy

from autopart.emit.body import Statement
from autopart.emit.call import atom
from autopart.emit.full_precision import made_without_autocast, widened
from autopart.emit.kept import block_key, kept_path, kept_text
from autopart.emit.spelling import spell, uses_batch
from autopart.errors import UnsupportedError
from autopart.ir.folded import Folded, Loop
from autopart.ir.graph import Arg, Graph, Node
from autopart.ir.kept import KEPT, input_count
from autopart.ir.placement import REPLICATED, Layout, Shard, local_shape
from autopart.ir.size import BATCH, Size, is_batched
from autopart.sharding.batch import BatchSharding
from autopart.sharding.reshard import conversion
from autopart.sharding.rule import Rule
from autopart.sharding.rules.experts import GROUPED
from autopart.sharding.sample_numbers import rows_counted, start_and_step
from autopart.sharding.strategies import Strategy, without_gradient

SUM = 2
SAMPLES, FRACTION = sympy.Symbol("self.comm.samples(b)", positive=True), sympy.Symbol("self.comm.fraction")
FIRST = sympy.Symbol("self.comm.first")


@dataclass(frozen=True)
class Sharded:
    """A folded graph with every choice made: what the emitter writes out."""

    folded: Folded
    rules: Mapping[str, Rule | None]
    strategies: Mapping[str, Strategy]
    parameters: Mapping[str, Layout]
    batch: BatchSharding
    tp: int

    @property
    def graph(self) -> Graph:
        """The folded graph."""
        return self.folded.graph

    @cached_property
    def widened(self) -> Mapping[str, frozenset[str]]:
        """What nodes take that is to be float32 first, though it may have been computed in half."""
        return widened(self.graph)

    def layout(self, name: str) -> Layout:
        """How a value is held where it is made; inputs and constants are whole."""
        if name not in self.graph.producer:
            return self.parameters.get(name, REPLICATED)
        node = self.graph.nodes[self.graph.producer[name]]
        slot = [value.name for value in node.outputs].index(name)
        return self.strategies[node.name].outputs[slot]

    def shape(self, name: str, layout: Layout) -> tuple[Size, ...]:
        """A rank's own shape of a value in a layout."""
        return local_shape(self.graph.values[name].shape, layout, self.tp)

    def held_shape(self, name: str) -> tuple[Size, ...]:
        """A rank's own shape of a value as it is held where it is made."""
        return self.shape(name, self.layout(name))

    def inner(self, name: str) -> str:
        """The value of the folded graph that a value between two runs of a loop is an instance of."""
        return name if name in self.graph.values else re.sub(r"_run\d+$", "", name)


@dataclass
class Function:
    """Collects the statements of one function.

    `paths` are the expressions of weights, `loop` is the one whose block it is, if any; `device` and
    `batch_source` name a tensor that is at hand.
    """

    sharded: Sharded
    paths: Mapping[str, str]
    device: str
    count_index: Mapping[str, int]
    loop: Loop | None = None
    statements: list[Statement] = field(default_factory=list)
    needs_batch: bool = False
    converted: dict[tuple[str, Layout], str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """The key of a value, or the expression of a weight."""
        return self.paths.get(name, name)

    def wanted(self, name: str, want: Layout) -> str:
        """The key of a value in the layout `want`, converted once for all who want it so."""
        have = self.sharded.layout(name)
        value = self.sharded.graph.values[name]
        if not value.requires_grad:
            have, want = without_gradient(have), without_gradient(want)
        if have == want or self.sharded.tp == 1:
            return self.key(name)
        if (name, want) not in self.converted:
            found = conversion(have, want, value.requires_grad)
            if found is None:
                raise UnsupportedError(f"{name} cannot be turned from {have} into {want}")
            text = conversion_text(found.call, have, want)
            target = f"{name}@{want}"
            shape = self.sharded.shape(name, want)
            write = partial(_formatted, text)
            by = {shard.by for shard in (have.shard, want.shard) if shard is not None and shard.by is not None}
            operands = (self.key(name), *(self.wanted(ends, REPLICATED) for ends in by))
            self.statements.append(Statement((target,), operands, write, "", shape))
            self.converted[(name, want)] = target
        return self.converted[(name, want)]

    def batch_lines(self, arguments: Mapping[str, str]) -> list[str]:
        """`b = x.shape[0]` where a statement needs it, from a tensor that has the batch, or a multiple, as a dim.

        Raises UnsupportedError where none of the arguments has.
        """
        if not self.needs_batch:
            return []
        multiples: list[str] = []
        for key, name in arguments.items():
            for dim, size in enumerate(self.sharded.held_shape(self.sharded.inner(key))):
                if size == BATCH:
                    return [f"b = {name}.shape[{dim}]"]
                if is_batched(size) and isinstance(times := size / BATCH, sympy.Integer):
                    multiples.append(f"b = {name}.shape[{dim}] // {times}")
        if not multiples:
            model = self.sharded.graph.name
            raise UnsupportedError(
                f"a stage of {model} needs the batch size but takes no tensor with it as a dim: choose other cuts"
            )
        return multiples[:1]

    def add(self, node: Node) -> None:
        """Append one call, its conversions before it."""
        sharded = self.sharded
        if node.name in sharded.batch.totals and node.name in self.count_index:
            shape = sharded.held_shape(node.output.name)
            text = f"self.comm.total({self.count_index[node.name]})"
            self.statements.append(
                Statement((node.output.name,), (), lambda _: text, self.hint(node)[0], shape, scope=node.scope)
            )
            return
        strategy = sharded.strategies[node.name]
        operands = [self.wanted(name, want) for name, want in zip(node.inputs, strategy.inputs, strict=True)]
        outputs = zip(node.outputs, strategy.outputs, strict=True)
        shapes = tuple(sharded.shape(value.name, layout) for value, layout in outputs)
        inputs = tuple(sharded.shape(name, want) for name, want in zip(node.inputs, strategy.inputs, strict=True))
        wide = [index for index, name in enumerate(node.inputs) if name in sharded.widened.get(node.name, ())]
        rule = sharded.rules.get(node.name)
        counted = node.name in sharded.batch.counted
        written = summed(node) if counted else _of_the_global_batch(node, sharded.batch)
        self.needs_batch = self.needs_batch or (node.op != KEPT and uses_batch(node, shapes[0]))
        draws = rule is not None and rule.random
        sharded_draws = draws and strategy.divided and sharded.tp > 1

        if node.op == KEPT:
            self._add_kept(node, operands, shapes[0])
            return

        def write(texts: Sequence[str]) -> str:
            texts = [f"{atom(text)}.to(torch.float32)" if index in wide else text for index, text in enumerate(texts)]
            text = spell(written, tuple(texts), shapes, self.device, inputs)
            if node.op in GROUPED and len(texts) == 3:
                text = f"self.comm.grouped_mm({', '.join(texts)})"
            elif strategy.call is not None:
                text = text.replace("F.", "self.comm.", 1)
            if sharded_draws:
                text = re.sub(r"^([\w.]+)\(", r"self.comm.sharded_random(\1, ", text)
            if made_without_autocast(node):
                text = f"self.comm.without_autocast(lambda: {text})"
            if strategy.scale:
                text = f"({text}) / {sharded.tp}"
            if counted:
                text = f"{text} / self.comm.count({self.count_index[node.name]})"
            elif node.name in sharded.batch.shares:
                text = f"self.comm.share({text})"
            return text

        names = tuple(value.name for value in node.outputs)
        hint, weak = self.hint(node)
        self.statements.append(
            Statement(names, tuple(operands), write, hint, shapes[0], inline=not draws, weak=weak, scope=node.scope)
        )

    def _add_kept(self, node: Node, operands: Sequence[str], shape: tuple[Size, ...]) -> None:
        """Append the call of a module that is kept whole; it takes its weights by itself, as the stage holds them."""
        count = input_count(node)
        for name, operand in zip(node.inputs[count:], operands[count:], strict=True):
            if operand != self.key(name):
                target = self.sharded.graph.targets[name]
                raise UnsupportedError(
                    f"{node.scope} is kept whole, and its weight {target} is sharded, as something else uses it too: "
                    "keep that whole as well, or plan with tp=1"
                )
        names = tuple(value.name for value in node.outputs)
        plain = partial(kept_text, node, self.kept_key(node))

        def write(texts: Sequence[str]) -> str:
            return f"self.comm.without_autocast(lambda: {plain(texts)})" if node.full else plain(texts)

        hint = re.split("[.:]", kept_path(node))[-1].lower()
        self.statements.append(
            Statement(names, tuple(operands), write, hint, shape, False, weak=False, scope=node.scope)
        )

    def kept_key(self, node: Node) -> str:
        """What the function calls what is kept whole."""
        return kept_path(node) if self.loop is None else block_key(self.sharded.folded, self.loop, node)

    def hint(self, node: Node) -> tuple[str, bool]:
        """What to call a result, and whether the name is weak: by the module of its weights, or that it ran in."""
        short = node.op.split(".")[1]
        if node.output.name == self.sharded.graph.loss:
            return "loss", False
        owned = [name for name in node.inputs if name in self.sharded.graph.parameter_of]
        if owned:
            target = self.sharded.graph.parameter_of[owned[0]].target.split(".")
            return (target[-2] if len(target) > 1 and not target[-2].isdigit() else short), False
        if short == "scaled_dot_product_attention":
            return "attention", False
        inner = node.scope.split(".")[-1]
        return (inner if inner and not inner.isdigit() and node.inputs else short), True


def _formatted(text: str, operands: Sequence[str]) -> str:
    return text.format(*operands)


def summed(node: Node) -> Node:
    """A loss with its average replaced by a sum."""
    args = tuple(SUM if index == 3 else arg for index, arg in enumerate(node.args))
    kwargs = tuple((key, arg) for key, arg in node.kwargs if key != "reduction")
    if len(args) <= 3:
        kwargs = (*kwargs, ("reduction", SUM))
    return replace(node, args=args, kwargs=kwargs)


def _of_the_global_batch(node: Node, batch: BatchSharding) -> Node:
    """A node whose numbers count the samples of the global batch, or are this part's share of what is added."""
    if node.name in batch.numbered:
        return _counting_on(node)
    if node.name not in batch.sized and node.name not in batch.offsets:
        return node

    def changed(arg: Arg) -> Arg:
        if isinstance(arg, sympy.Expr) and node.name in batch.sized:
            arg = arg.xreplace({BATCH: SAMPLES})
        if isinstance(arg, sympy.Expr | int | float) and not isinstance(arg, bool) and node.name in batch.offsets:
            return sympy.sympify(arg) * FRACTION
        return arg

    return replace(node, args=tuple(map(changed, node.args)))


def _counting_on(node: Node) -> Node:
    """An `arange` over samples, or over their rows, that goes on where the micro-batch before this one ends."""
    (start, step), rows = map(sympy.sympify, start_and_step(node)), rows_counted(node)
    before = step * (rows or 1) * FIRST
    end = node.args[0] if node.op == "aten.arange.default" else node.args[1]
    ends = (start + before, sympy.sympify(end) + before)
    return replace(node, op="aten.arange.start_step", args=(*ends, *node.args[2:]))


def conversion_text(call: str, have: Layout, want: Layout) -> str:
    """A call of the runtime's `Comm`, with `{}` for the tensor."""
    source, target = have.shard, want.shard
    if call == "all_to_all" and source is not None and target is not None:
        return f"self.comm.all_to_all({{}}, {shard_text(source, 'from_')}, {shard_text(target, 'to_')})"
    shard = target if target is not None else source
    if call in ("all_gather", "gather", "reduce_scatter", "split", "slice") and shard is not None:
        return f"self.comm.{call}({{}}, {shard_text(shard)})"
    return f"self.comm.{call}({{}}, {{}})" if call in ("own_rows", "all_rows") else f"self.comm.{call}({{}})"


def shard_text(shard: Shard, prefix: str = "") -> str:
    """`dim=2` or `dim=2, parts=(1, 1, 1)`"""
    parts = "" if shard.parts == (1,) else f", {prefix}parts={shard.parts}"
    return f"{prefix}dim={shard.dim}{parts}"
