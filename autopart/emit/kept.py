"""Modules and functions that are kept whole: how a stage calls them, and which they are."""

from collections.abc import Iterator, Sequence

from autopart.emit.stage_spec import Runs, StageSpec
from autopart.ir.folded import Folded, Loop
from autopart.ir.graph import Node
from autopart.ir.kept import KEPT, call_text, function_name
from autopart.ir.program import KeptModule
from autopart.ir.units import layer_parts


def kept_text(node: Node, key: str, operands: Sequence[str]) -> str:
    """`self.kept["blocks.0.experts"](x, mask=mask)`"""
    return f'self.kept["{key}"]({call_text(node, tuple(operands))})'


def block_key(folded: Folded, loop: Loop, node: Node) -> str:
    """What a block calls the module of a node in `loop`: its path inside the layer, or the whole one."""
    if function_name(node):
        return function_name(node)
    parts = (layer_parts(folded, loop) or ((),))[0]
    inside = (node.scope.removeprefix(f"{part}.") for part in parts if node.scope.startswith(f"{part}."))
    return next(inside, node.scope)


def kept_path(node: Node) -> str:
    """Where to find what is called: the function's name, or the module's."""
    return function_name(node) or node.scope


def kept_modules(folded: Folded, spec: StageSpec) -> tuple[KeptModule, ...]:
    """The modules and functions that a stage keeps whole."""
    return tuple(dict.fromkeys(_kept_modules(folded, spec)))


def _kept_modules(folded: Folded, spec: StageSpec) -> Iterator[KeptModule]:
    number = -1
    for item in spec.items:
        if not isinstance(item, Runs):
            node = folded.graph.nodes[item]
            if node.op == KEPT:
                yield KeptModule(kept_path(node), kept_path(node))
            continue
        number += 1
        for index in item.loop.body:
            node = folded.graph.nodes[index]
            if node.op == KEPT:
                key = block_key(folded, item.loop, node)
                for run in range(item.first, item.stop):
                    yield KeptModule(key, kept_path(folded.twin(item.loop, index, run)), number, run - item.first)
