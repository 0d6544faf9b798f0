"""Write the class of a repeated block."""

from collections.abc import Collection, Mapping

from autopart.emit.body import identifier, unique, write_body
from autopart.emit.core_writer import CoreWriter
from autopart.emit.function import Function, Sharded
from autopart.emit.source import BlockSource, path_text, weights_text
from autopart.emit.stage_spec import Runs, taken
from autopart.emit.weight_text import weight_text
from autopart.estimate.recompute import SELECTIVE
from autopart.estimate.work import Work, short_name, work_of
from autopart.ir.folded import Loop
from autopart.ir.units import layer_names, own_weights, relative_names


def write_block(
    sharded: Sharded, loop: Loop, name: str, count_index: Mapping[str, int], kinds: Collection[str] = ()
) -> BlockSource:
    """The class `name`: its weights by their names inside the layer, and what one run computes.

    `kinds` are those of recomputation that its runs have.
    """
    folded, graph = sharded.folded, sharded.graph
    inside = relative_names(folded, loop)
    several = len({part for part, _ in inside.values()}) > 1
    relative = {key: f"part{part}.{path}" if several else path for key, (part, path) in inside.items()}
    carried = [graph.nodes[i].output.name for i in range(loop.start, loop.start + len(loop.enters))]
    arguments: dict[str, str] = {key: "x" if number == 0 else f"x{number}" for number, key in enumerate(carried)}
    for key in loop_arguments(sharded, loop):
        arguments[key] = unique(_hint(sharded, key), arguments)
    paths = {key: f"self{path_text(path)}" for key, path in relative.items()}
    function = Function(sharded, paths, f"{next(iter(arguments.values()))}.device", count_index, loop)
    methods: tuple[BlockSource, ...] = ()
    flag = told_to_recompute(kinds)
    if SELECTIVE in kinds:
        methods = CoreWriter(function, flag).add(loop.body)
    else:
        for index in loop.body:
            function.add(graph.nodes[index])
    leaves = [graph.nodes[i] for i in range(loop.body.stop, loop.stop)]
    results = [function.wanted(node.inputs[0], sharded.strategies[node.name].inputs[0]) for node in leaves]
    lines, returned = write_body(arguments, function.statements, results)
    lines[:0] = function.batch_lines(arguments)
    members = weights_text({path: weight_text(sharded, key) for key, path in relative.items()}, indent=8)
    shapes = {arg: (sharded.held_shape(key), graph.values[key].dtype) for key, arg in arguments.items()}
    about = f"One of {loop.region.count} equal blocks of the model, {layer_names(folded, loop)[0]} the first."
    return BlockSource(name, about, members, tuple(arguments.values()), shapes, tuple(lines), returned, methods, flag)


def told_to_recompute(kinds: Collection[str]) -> bool:
    """Whether a block has to be told when to recompute its attention, since not all of its runs do."""
    return SELECTIVE in kinds and len(set(kinds)) > 1


def loop_arguments(sharded: Sharded, loop: Loop) -> list[str]:
    """What every run of a loop takes besides what is carried: values and weights that all runs share."""
    own = own_weights(sharded.folded, loop, 0)
    entering = {sharded.graph.nodes[i].inputs[0] for i in range(loop.start, loop.start + len(loop.enters))}
    return [key for key in taken(sharded.folded, Runs(loop, 0, 1)) if key not in own and key not in entering]


def _hint(sharded: Sharded, key: str) -> str:
    """What a block calls a value from outside: the op that made it, casts and views looked through."""
    graph = sharded.graph
    while key in graph.producer:
        node = graph.nodes[graph.producer[key]]
        passes = work_of(node) is Work.VIEW or short_name(node.op) in ("to", "_to_copy", "mul", "contiguous")
        if not passes or len(node.inputs) != 1:
            return identifier(short_name(node.op))
        key = node.inputs[0]
    return identifier(
        graph.targets[key].split(".")[-2] if key in graph.parameter_of and "." in graph.targets[key] else key
    )
