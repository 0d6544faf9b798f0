"""Write a sharded graph out: one source file a distinct stage, and the data to run them."""

import re
from collections.abc import Mapping, Sequence

from autopart.emit.body import Statement, identifier, write_body
from autopart.emit.function import Function, Sharded, batch_line
from autopart.emit.source import BlockSource, StageSource, path_text, weights_text
from autopart.emit.stage_spec import Runs, StageSpec, carried_name, stage_specs, taken
from autopart.errors import UnsupportedError
from autopart.estimate.work import Work, short_name, work_of
from autopart.ir.folded import Loop
from autopart.ir.graph import Value
from autopart.ir.placement import REPLICATED, Layout
from autopart.ir.program import ParameterShard, Program, StageProgram, Transfer
from autopart.ir.units import Unit, layer_prefixes, own_weights


def emit_program(sharded: Sharded, units: Sequence[Unit], cuts: Sequence[int], recompute: bool, facts: str) -> Program:
    """The program of `sharded`, cut before the units `cuts`.

    Args:
        sharded: the folded graph with a strategy for every node and a layout for every parameter.
        units: of the folded graph.
        cuts: indices of the units at which a new stage begins.
        recompute: whether each run of a loop keeps only its inputs, and is computed again in the backward pass.
        facts: lines about the plan for the head of each file.
    """
    specs = stage_specs(sharded.folded, units, cuts)
    home = {name: stage for stage, spec in enumerate(specs) for name in spec.gives}
    stages: list[StageProgram] = []
    sources: dict[str, str] = {}
    for stage, spec in enumerate(specs):
        writer = _StageWriter(sharded, spec, recompute, last=stage == len(specs) - 1)
        text = writer.source(facts)
        module = sources.setdefault(text, f"stage_{stage}")
        transfers = [_transfer(sharded, name, home[name], specs) for name in spec.receives]
        stages.append(
            StageProgram(
                module=module,
                layers=writer.layers,
                parameters=writer.parameters,
                constants=writer.constants,
                inputs=tuple(i.path for i in sharded.graph.inputs if i.value.name in spec.inputs),
                receives=tuple(transfers),
                sends=tuple(_transfer(sharded, name, stage, specs) for name in spec.gives),
                outputs=len(writer.results),
                counts=len(writer.count_index),
                count_inputs=writer.count_inputs,
            )
        )
    graph = sharded.graph
    return Program(graph.name, sharded.tp, tuple((stem, text) for text, stem in sources.items()), tuple(stages), graph.loss is not None)


def _carried_source(sharded: Sharded, name: str) -> str:
    """The value of the folded graph that a value between runs is an instance of."""
    return re.sub(r"_run\d+$", "", name) if name not in sharded.graph.values else name


def _transfer(sharded: Sharded, name: str, source: int, specs: Sequence[StageSpec]) -> Transfer:
    inner = _carried_source(sharded, name)
    value: Value = sharded.graph.values[inner]
    shape = sharded.shape(inner, sharded.layout(inner))
    targets = tuple(stage for stage, spec in enumerate(specs) if name in spec.receives)
    return Transfer(name, shape, value.dtype, value.requires_grad, source, targets)


class _StageWriter:
    """Writes one stage; its attributes are what the executor must know of it."""

    def __init__(self, sharded: Sharded, spec: StageSpec, recompute: bool, last: bool) -> None:
        self.sharded, self.spec, self.recompute = sharded, spec, recompute
        graph = sharded.graph
        self.results = ((graph.loss,) if graph.loss is not None else graph.outputs) if last else ()
        counted = [graph.nodes[i] for i in spec.items if isinstance(i, int) and graph.nodes[i].name in sharded.batch.counted]
        self.counted = [] if sharded.batch.mixing else counted
        self.count_index = {node.name: index for index, node in enumerate(self.counted)}
        self.count_inputs: tuple[str, ...] = ()
        self.layers = tuple(
            layer_prefixes(sharded.folded, item.loop)[item.first : item.stop] for item in spec.items if isinstance(item, Runs)
        )
        straight = [name for i in spec.items if isinstance(i, int) for name in graph.nodes[i].inputs]
        shared = [n for i in spec.items if isinstance(i, Runs) for n in taken(sharded.folded, i) if n not in own_weights(sharded.folded, i.loop, 0)]
        self.weights = tuple(dict.fromkeys(name for name in (*straight, *shared) if name in graph.weights))
        self.parameters, self.constants = self._held()

    def _held(self) -> tuple[tuple[ParameterShard, ...], tuple[str, ...]]:
        graph, folded = self.sharded.graph, self.sharded.folded
        held: list[tuple[str, str]] = [(name, name) for name in self.weights]
        for item in self.spec.items:
            if isinstance(item, Runs):
                for run in range(item.first, item.stop):
                    table = folded.renaming(item.loop, run)
                    held += [(name, table[name]) for name in own_weights(folded, item.loop, run)]
        parameters, constants = [], []
        constant_of = {constant.value.name: constant for constant in folded.source.constants}
        for name, actual in held:
            if actual in constant_of:
                constants.append(constant_of[actual].target)
                continue
            parameter = folded.source.parameter_of[actual]
            value = parameter.value
            shape = tuple(size for size in value.shape if isinstance(size, int))
            parameters.append(ParameterShard(parameter.target, shape, value.dtype, self.sharded.parameters[name], value.requires_grad))
        return tuple(parameters), tuple(constants)

    def source(self, facts: str) -> str:
        """The text of the file."""
        blocks: list[BlockSource] = []
        seen: dict[int, str] = {}
        for item in self.spec.items:
            if isinstance(item, Runs) and item.loop.start not in seen:
                name = "Block" if not blocks else f"Block{len(blocks) + 1}"
                seen[item.loop.start] = name
                blocks.append(self._block(item.loop, name))
        return StageSource(self.sharded, facts, tuple(blocks), self._members(), self._forward(), self._counts()).text(self.recompute)

    def _members(self) -> str:
        graph = self.sharded.graph
        items = {item.value.name: item for item in (*graph.parameters, *graph.constants)}
        return weights_text({items[name].target: self._weight(name) for name in self.weights}, indent=8)

    def _weight(self, name: str) -> str:
        graph = self.sharded.graph
        value = graph.values[name]
        layout: Layout = self.sharded.layout(name)
        shape = ", ".join(map(str, self.sharded.shape(name, layout)))
        if name not in graph.parameter_of:
            return f"constant({shape or '()'}, dtype=torch.{value.dtype})"
        frozen = "" if value.requires_grad else ", trainable=False"
        return f"parameter({shape or '()'}, dtype=torch.{value.dtype}{frozen})"

    def _block(self, loop: Loop, name: str) -> BlockSource:
        sharded, folded, graph = self.sharded, self.sharded.folded, self.sharded.graph
        own = own_weights(folded, loop, 0)
        prefix = layer_prefixes(folded, loop)[0]
        relative = {key: target.removeprefix(prefix).lstrip(".") for key, target in own.items()}
        enters = [graph.nodes[i] for i in range(loop.start, loop.start + len(loop.enters))]
        carried = [node.output.name for node in enters]
        outside = [key for key in taken(folded, Runs(loop, 0, 1)) if key not in own and key not in [n.inputs[0] for n in enters]]
        arguments: dict[str, str] = {}
        for number, key in enumerate(carried):
            arguments[key] = "x" if number == 0 else f"x{number}"
        for key in outside:
            arguments[key] = unique(self._argument_hint(key), arguments.values())
        paths = {key: f"self{path_text(path)}" for key, path in relative.items()}
        function = Function(sharded, paths, f"{arguments[carried[0]]}.device" if carried else "None", self.count_index)
        for index in loop.body:
            function.add(graph.nodes[index])
        leaves = [graph.nodes[i] for i in range(loop.body.stop, loop.stop)]
        results = [function.wanted(node.inputs[0], sharded.strategies[node.name].inputs[0]) for node in leaves]
        lines, returned = write_body(arguments, function.statements, results)
        if function.needs_batch and (line := batch_line(graph, arguments)):
            lines.insert(0, line)
        members = weights_text({path: self._weight(key) for key, path in relative.items()}, indent=8)
        shapes = {arg: (sharded.shape(key, sharded.layout(key)), graph.values[key].dtype) for key, arg in arguments.items()}
        about = f"One of {loop.region.count} equal blocks, {prefix} the first."
        return BlockSource(name, about, members, tuple(arguments.values()), shapes, tuple(lines), returned)

    def _argument_hint(self, key: str) -> str:
        """What a block calls a value from outside: the op that made it, casts and views looked through."""
        graph = self.sharded.graph
        while key in graph.producer:
            node = graph.nodes[graph.producer[key]]
            passes = work_of(node) is Work.VIEW or short_name(node.op) in ("to", "_to_copy", "mul", "contiguous")
            if not passes or len(node.inputs) != 1:
                return identifier(short_name(node.op))
            key = node.inputs[0]
        return identifier(key)

    def _forward(self) -> BlockSource:
        sharded, graph = self.sharded, self.sharded.graph
        arguments: dict[str, str] = {}
        for key in (*self.spec.inputs, *self.spec.receives):
            hint = "x" if key not in graph.values else identifier(key)
            arguments[key] = unique(hint, arguments.values())
        items = {item.value.name: item for item in (*graph.parameters, *graph.constants)}
        paths = {name: f"self{path_text(items[name].target)}" for name in self.weights}
        first = next(iter(arguments.values()), None)
        function = Function(sharded, paths, f"{first}.device" if first else "None", self.count_index)
        number = 0
        for item in self.spec.items:
            if isinstance(item, Runs):
                self._loop(function, item, number)
                number += 1
            else:
                function.add(graph.nodes[item])
        results = [*self.spec.gives]
        for name in self.results:
            results.append(function.wanted(name, REPLICATED))
        lines, returned = write_body(arguments, function.statements, results)
        if function.needs_batch:
            line = batch_line(graph, arguments)
            if line is None:
                raise UnsupportedError(f"a stage of {graph.name} needs the batch size but takes no tensor that has it as a dim")
            lines.insert(0, line)
        if sharded.batch.mixing and self.results and graph.loss is not None:
            returned = ", ".join([*returned.split(", ")[:-1], f"self.comm.share({returned.split(', ')[-1]})"])
        shapes = {
            arg: (sharded.shape(inner, sharded.layout(inner)), graph.values[inner].dtype)
            for key, arg in arguments.items()
            for inner in [_carried_source(sharded, key)]
        }
        return BlockSource("Stage", "", "", tuple(arguments.values()), shapes, tuple(lines), returned)

    def _loop(self, function: Function, item: Runs, number: int) -> None:
        """`for block in self.stacks[0]: x = block(x, mask)`"""
        sharded, folded, graph = self.sharded, self.sharded.folded, self.sharded.graph
        loop = item.loop
        enters = [graph.nodes[i] for i in range(loop.start, loop.start + len(loop.enters))]
        own = own_weights(folded, loop, 0)
        start = []
        for index, node in enumerate(enters):
            key = carried_name(folded, loop, index, item.first)
            start.append(function.wanted(key, sharded.strategies[node.name].inputs[0]) if item.first == 0 else key)
        outside = [key for key in taken(folded, Runs(loop, 0, 1)) if key not in own and key not in [n.inputs[0] for n in enters]]
        ends = tuple(carried_name(folded, loop, index, item.stop) for index in range(len(enters)))
        recompute = self.recompute

        def write(texts: Sequence[str]) -> str:
            carried = texts[: len(start)]
            names = ", ".join(texts)
            left = ", ".join(carried)
            call = f"checkpoint(block, {names}, use_reentrant=False)" if recompute else f"block({names})"
            return f"for block in self.stacks[{number}]:\n    {left} = {call}"

        function.statements.append(Statement(ends, (*start, *(function.key(key) for key in outside)), write, "", loop=True))

    def _counts(self) -> BlockSource | None:
        """The function that counts targets: it depends on the inputs alone."""
        if not self.counted:
            return None
        sharded, graph = self.sharded, self.sharded.graph
        targets = [sharded.batch.counted[node.name] for node in self.counted]
        needed = _ancestors(sharded, targets)
        inputs = [item for item in graph.inputs if item.value.name in needed]
        self.count_inputs = tuple(item.path for item in inputs)
        arguments = {item.value.name: identifier(item.value.name) for item in inputs}
        items = {item.value.name: item for item in (*graph.parameters, *graph.constants)}
        paths = {name: f"self{path_text(items[name].target)}" for name in self.weights}
        first = next(iter(arguments.values()))
        function = Function(sharded, paths, f"{first}.device", {})
        for index, node in enumerate(graph.nodes):
            if index in {graph.producer[name] for name in needed if name in graph.producer}:
                function.add(node)
        results = []
        for node, target in zip(self.counted, targets, strict=True):
            ignored = node.arg(4, "ignore_index", -100)
            key = f"count@{node.name}"
            function.statements.append(
                Statement((key,), (function.wanted(target, REPLICATED),), lambda x, i=ignored: f"({x[0]} != {i}).sum()", "")
            )
            results.append(key)
        lines, returned = write_body(arguments, function.statements, results)
        if function.needs_batch and (line := batch_line(graph, arguments)):
            lines.insert(0, line)
        return BlockSource("counts", "", "", tuple(arguments.values()), {}, tuple(lines), f"[{returned}]")


def _ancestors(sharded: Sharded, names: Sequence[str]) -> set[str]:
    graph = sharded.graph
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            if name in graph.producer:
                pending += graph.nodes[graph.producer[name]].inputs
    return found


def unique(hint: str, taken_names: object) -> str:
    """`hint`, numbered if it is taken."""
    names = set(taken_names)  # type: ignore[call-overload]
    name, number = hint, 1
    while name in names:
        number += 1
        name = f"{hint}_{number}"
    return name


def stage_facts(facts: Mapping[str, object]) -> str:
    """Lines `name: value` for the head of a file."""
    return "\n".join(f"    {name}: {value}" for name, value in facts.items())
