"""StageWriter: writes one stage, and knows afterwards what the executor must know of it."""

from collections.abc import Mapping, Sequence
from functools import cached_property, partial

from autopart.emit.block_writer import loop_arguments, told_to_recompute, write_block
from autopart.emit.body import Statement, identifier, unique, write_body
from autopart.emit.function import Function, Sharded
from autopart.emit.loop_text import loop_text, loops
from autopart.emit.source import BlockSource, StageSource, path_text, weights_text
from autopart.emit.stage_spec import Runs, StageSpec, carried_name, taken
from autopart.emit.weight_text import weight_text
from autopart.ir.graph import Node
from autopart.ir.placement import REPLICATED
from autopart.ir.program import ParameterShard
from autopart.ir.units import layer_parts, own_weights
from autopart.sharding.rules.experts import GROUPED

# The inputs that products of `torch.autocast` multiply; what is added to them is none.
FACTORS = {
    "aten.linear.default": (0, 1),
    "aten.matmul.default": (0, 1),
    "aten.mm.default": (0, 1),
    "aten.bmm.default": (0, 1),
    "aten.addmm.default": (1, 2),
    **dict.fromkeys((f"aten.conv{dims}d.default" for dims in (1, 2, 3)), (0, 1)),
    **dict.fromkeys(GROUPED, (0, 1)),
}
TARGETS = "How many targets each averaged loss counts in this micro-batch."


class StageWriter:
    """One stage of a sharded graph.

    Args:
        sharded: the graph with its choices.
        spec: what the stage has, takes and gives.
        recompute: what of every run of a loop, (where the loop starts, the run), is computed again in the backward
            pass: "none", "selective" or "full".
        last: whether the stage returns the model's results.

    Attributes:
        results: the values that the model returns, on the last stage.
        counted: what is counted or summed over the global batch before a step: the averaged losses whose targets are,
            and the totals that the stage needs.
        layers: for every loop, the modules whose weights the runs in this stage take, by run.
    """

    def __init__(self, sharded: Sharded, spec: StageSpec, recompute: Mapping[tuple[int, int], str], last: bool) -> None:
        self.sharded, self.spec, self.recompute = sharded, spec, recompute
        graph = sharded.graph
        self.results = graph.outputs if last else ()
        own = [graph.nodes[item] for item in spec.items if isinstance(item, int)]
        self.counted = [node for node in own if node.name in {*sharded.batch.counted, *sharded.batch.totals}]
        self.layers = tuple((layer_parts(sharded.folded, r.loop) or ())[r.first : r.stop] for r in self._runs)

    @property
    def _runs(self) -> list[Runs]:
        return [item for item in self.spec.items if isinstance(item, Runs)]

    @cached_property
    def count_inputs(self) -> tuple[str, ...]:
        """The paths of the model inputs that the counted targets and the totals depend on."""
        return tuple(item.path for item in self.sharded.graph.inputs if item.value.name in self._count_needs)

    @cached_property
    def parameters(self) -> tuple[ParameterShard, ...]:
        """Every parameter that a rank of the stage holds, and which piece of it."""
        source, found = self.sharded.folded.source, []
        for name, actual in self._held:
            if actual in source.parameter_of:
                parameter = source.parameter_of[actual]
                value, layout = parameter.value, self.sharded.parameters[name]
                shape = tuple(size for size in value.shape if isinstance(size, int))
                multiplied = self._is_multiplied(name, actual)
                found.append(
                    ParameterShard(parameter.target, shape, value.dtype, layout, value.requires_grad, multiplied)
                )
        return tuple(found)

    def _is_multiplied(self, name: str, actual: str) -> bool:
        """Whether a product takes a weight, by its names in the folded graph and in the whole one, and nothing else.

        A product with autocast off takes it in full precision, and counts for none.
        """
        graph, source = self.sharded.graph, self.sharded.folded.source
        users = graph.consumers.get(name, ())
        if len(users) != 1 or len(source.consumers.get(actual, ())) != 1:
            return False
        node = graph.nodes[users[0]]
        slots = [slot for slot, taken_name in enumerate(node.inputs) if taken_name == name]
        held = self.sharded.strategies[node.name].inputs[slots[0]] == self.sharded.parameters[name]
        return len(slots) == 1 and slots[0] in FACTORS.get(node.op, ()) and held and not node.full

    @cached_property
    def constants(self) -> tuple[str, ...]:
        """The targets of the constants that the stage holds."""
        source = self.sharded.folded.source
        return tuple(source.targets[actual] for _, actual in self._held if actual not in source.parameter_of)

    @cached_property
    def updated(self) -> tuple[ParameterShard, ...]:
        """The constants that a forward pass of the stage changes, held whole by every rank."""
        graph = self.sharded.graph
        values = {update.constant: graph.values[update.constant] for update in self.spec.updates}
        return tuple(
            ParameterShard(graph.targets[name], tuple(int(s) for s in value.shape), value.dtype, REPLICATED, False)
            for name, value in values.items()
        )

    @cached_property
    def _weights(self) -> tuple[str, ...]:
        """Weights that the stage itself holds: used outside loops, or by all runs of a loop together."""
        graph, folded = self.sharded.graph, self.sharded.folded
        used = [name for item in self.spec.items if isinstance(item, int) for name in graph.nodes[item].inputs]
        for runs in self._runs:
            own = own_weights(folded, runs.loop, 0)
            used += [name for name in taken(folded, runs) if name not in own]
        used += [update.constant for update in self.spec.updates]  # some are written without being read
        return tuple(dict.fromkeys(name for name in used if name in graph.weights))

    @cached_property
    def _held(self) -> list[tuple[str, str]]:
        """Every weight of the stage, by its names in the folded graph and in the whole one."""
        folded = self.sharded.folded
        held = [(name, name) for name in self._weights]
        for runs in self._runs:
            for run in range(runs.first, runs.stop):
                table = folded.renaming(runs.loop, run)
                held += [(name, table[name]) for name in own_weights(folded, runs.loop, run)]
        return held

    @cached_property
    def _paths(self) -> Mapping[str, str]:
        return {name: f"self{path_text(self.sharded.graph.targets[name])}" for name in self._weights}

    @cached_property
    def _read_paths(self) -> Mapping[str, str]:
        """How weights are read: a copy of what the stage changes, if a backward pass may look at it after that."""
        graph, changed = self.sharded.graph, {update.constant for update in self.spec.updates}
        kept = {
            name
            for name in changed
            if any(value.requires_grad for user in graph.consumers[name] for value in graph.nodes[user].outputs)
        }
        return {name: f"{path}.clone()" if name in kept else path for name, path in self._paths.items()}

    def source(self, facts: str) -> str:
        """The text of the file; `facts` stand at its head."""
        index = self._count_index
        blocks = tuple(
            write_block(self.sharded, runs.loop, f"Block{number if number > 1 else ''}", index, self._kinds(runs))
            for number, runs in enumerate(self._runs, 1)
        )
        targets = self.sharded.graph.targets
        members = weights_text({targets[name]: weight_text(self.sharded, name) for name in self._weights}, indent=8)
        stage = StageSource(self.sharded.graph.name, facts, blocks, members, self._forward(), self._counts())
        return stage.text()

    @property
    def _count_index(self) -> Mapping[str, int]:
        return {node.name: index for index, node in enumerate(self.counted)}

    def _function(self, arguments: Mapping[str, str], index: Mapping[str, int]) -> Function:
        first = next(iter(arguments.values()), None)
        return Function(self.sharded, self._read_paths, f"{first}.device" if first else "None", index)

    def _forward(self) -> BlockSource:
        sharded, graph = self.sharded, self.sharded.graph
        arguments: dict[str, str] = {}
        for key in (*self.spec.inputs, *self.spec.receives):
            arguments[key] = unique(identifier(key) if key in graph.values else "x", arguments)
        function = self._function(arguments, self._count_index)
        number = 0
        for item in self.spec.items:
            if isinstance(item, Runs):
                self._loop(function, item, number)
                number += 1
            else:
                function.add(graph.nodes[item])
        for update in self.spec.updates:
            value = function.wanted(update.value, REPLICATED)
            write = partial(_update_text, self._paths[update.constant])
            function.statements.append(Statement((), (value,), write, ""))
        results = [*self.spec.gives, *(function.wanted(name, REPLICATED) for name in self.results)]
        if sharded.batch.weighted and self.results:
            # The loss is no sum over samples: each micro-batch's counts by its share of them.
            place = len(self.spec.gives) + self.results.index(graph.loss or "")
            shared = Statement(("loss",), (results[place],), lambda x: f"self.comm.share({x[0]})", "loss")
            function.statements.append(shared)
            results[place] = "loss"
        lines, returned = write_body(arguments, function.statements, results)
        lines[:0] = function.batch_lines(arguments)
        shapes = {}
        for key, argument in arguments.items():
            inner = sharded.inner(key)
            shapes[argument] = (sharded.held_shape(inner), graph.values[inner].dtype)
        return BlockSource("Stage", "", "", tuple(arguments.values()), shapes, tuple(lines), returned)

    def _loop(self, function: Function, runs: Runs, number: int) -> None:
        """`for block in self.stacks[0]: x = block(x, mask)`"""
        folded, graph = self.sharded.folded, self.sharded.graph
        enters = [graph.nodes[i] for i in range(runs.loop.start, runs.loop.start + len(runs.loop.enters))]
        start = []
        for index, node in enumerate(enters):
            key = carried_name(folded, runs.loop, index, runs.first)
            start.append(key if runs.first else function.wanted(key, self.sharded.strategies[node.name].inputs[0]))
        outside = [function.key(key) for key in loop_arguments(self.sharded, runs.loop)]
        kinds, stack = self._kinds(runs), f"self.stacks[{number}]"
        flag = told_to_recompute(kinds)
        for first, stop, own in loops(kinds):
            ends = [carried_name(folded, runs.loop, index, runs.first + stop) for index in range(len(enters))]
            part = f"{stack}[{first or ''}:{stop if stop < len(kinds) else ''}]" if len(own) < len(kinds) else stack
            write = partial(loop_text, part, own, flag, len(start))
            function.statements.append(Statement(tuple(ends), (*start, *outside), write, "", loop=True))
            start = ends

    def _kinds(self, runs: Runs) -> tuple[str, ...]:
        """How each of the runs is recomputed."""
        return tuple(self.recompute[runs.loop.start, run] for run in range(runs.first, runs.stop))

    @cached_property
    def _count_needs(self) -> frozenset[str]:
        graph = self.sharded.graph
        found: set[str] = set()
        pending = [name for node in self.counted for name in self._summed(node)]
        while pending:
            name = pending.pop()
            if name not in found:
                found.add(name)
                pending += graph.nodes[graph.producer[name]].inputs if name in graph.producer else ()
        batched = [item.value.name for item in graph.inputs if item.path in graph.batched_inputs]
        if self.counted and found.isdisjoint(batched):
            found.update(batched[:1])  # targets that are made for so many samples; how many, an input tells
        return frozenset(found)

    def _summed(self, node: Node) -> tuple[str, ...]:
        """What is counted or summed for a node of `counted`."""
        counted = self.sharded.batch.counted
        return (counted[node.name],) if node.name in counted else node.inputs

    def _counts(self) -> BlockSource | None:
        """The function that counts targets and sums totals; it depends on the model's inputs alone."""
        if not self.counted:
            return None
        graph, needs = self.sharded.graph, self._count_needs
        inputs = [item.value.name for item in graph.inputs if item.value.name in needs]
        arguments = {name: identifier(name) for name in inputs}
        function = self._function(arguments, {})
        for node in graph.nodes:
            if any(value.name in needs for value in node.outputs):
                function.add(node)
        results = []
        for node in self.counted:
            if node.name in self.sharded.batch.totals:
                function.add(node)
                results.append(function.wanted(node.output.name, REPLICATED))
                continue
            ignored = node.arg(4, "ignore_index", -100)
            target = function.wanted(self.sharded.batch.counted[node.name], REPLICATED)
            write = partial(_count_text, ignored)
            function.statements.append(Statement((f"count@{node.name}",), (target,), write, ""))
            results.append(f"count@{node.name}")
        lines, returned = write_body(arguments, function.statements, results)
        lines[:0] = function.batch_lines(arguments)
        totals = any(node.name in self.sharded.batch.totals for node in self.counted)
        about = "What of this micro-batch is summed over the global batch before a step." if totals else TARGETS
        return BlockSource("counts", about, "", tuple(arguments.values()), {}, tuple(lines), f"[{returned}]")


def _update_text(path: str, texts: Sequence[str]) -> str:
    return f"{path}.copy_({texts[0]})"


def _count_text(ignored: object, texts: Sequence[str]) -> str:
    return f"({texts[0]} != {ignored}).sum()"
