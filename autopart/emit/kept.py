"""Modules that are kept whole: how a stage calls them, and which of the model's they are."""

from collections.abc import Iterator, Sequence

from autopart.emit.stage_spec import Runs, StageSpec
from autopart.ir.folded import Folded, Loop
from autopart.ir.graph import Node
from autopart.ir.kept import KEPT, call_text
from autopart.ir.program import KeptModule
from autopart.ir.units import layer_parts


def kept_text(node: Node, key: str, operands: Sequence[str]) -> str:
    """`self.kept["blocks.0.experts"](x, mask=mask)`"""
    return f'self.kept["{key}"]({call_text(node, tuple(operands))})'


def block_key(folded: Folded, loop: Loop, node: Node) -> str:
    """What a block calls the module of a node in `loop`: its path inside the layer, or the whole one."""
    parts = (layer_parts(folded, loop) or ((),))[0]
    inside = (node.scope.removeprefix(f"{part}.") for part in parts if node.scope.startswith(f"{part}."))
    return next(inside, node.scope)


def kept_modules(folded: Folded, spec: StageSpec) -> tuple[KeptModule, ...]:
    """The modules that a stage keeps whole."""
    return tuple(dict.fromkeys(_kept_modules(folded, spec)))


def _kept_modules(folded: Folded, spec: StageSpec) -> Iterator[KeptModule]:
    number = -1
    for item in spec.items:
        if not isinstance(item, Runs):
            node = folded.graph.nodes[item]
            if node.op == KEPT:
                yield KeptModule(node.scope, node.scope)
            continue
        number += 1
        for index in item.loop.body:
            node = folded.graph.nodes[index]
            if node.op == KEPT:
                key = block_key(folded, item.loop, node)
                for run in range(item.first, item.stop):
                    yield KeptModule(key, folded.twin(item.loop, index, run).scope, number, run - item.first)
