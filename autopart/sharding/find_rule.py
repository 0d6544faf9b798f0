"""Find the rule of a node: the files of `rules/` each export `RULES`, from op names to notations or functions."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

from autopart.errors import RuleError
from autopart.ir.graph import Graph, Node
from autopart.sharding import rules
from autopart.sharding.rule import Rule, parse

RuleSource = str | Callable[[Node, Graph], Rule | None]


@cache
def rule_table() -> Mapping[str, RuleSource]:
    """Every op that has a rule. `_` at the end of a key stands for any overload ("aten.add." for aten.add.Tensor)."""
    table: dict[str, RuleSource] = {}
    for module in pkgutil.iter_modules(rules.__path__):
        table.update(importlib.import_module(f"{rules.__name__}.{module.name}").RULES)
    return table


def find_rule(node: Node, graph: Graph, given: Mapping[str, RuleSource] | None = None) -> Rule | None:
    """The rule of `node`, or None: then it is replicated, which is always right.

    Args:
        node: a node of `graph`.
        graph: gives the shapes.
        given: rules of the caller's own, which go before those of the package.
    """
    source = (given or {}).get(node.op) or rule_table().get(node.op)
    if source is None:
        return None
    if callable(source):
        return source(node, graph)
    input_ranks = tuple(len(graph.values[name].shape) for name in node.inputs)
    rule = parse(source, input_ranks, tuple(len(value.shape) for value in node.outputs))
    return rule and _sizes_agree(rule, node, graph)


def check_notation(op: str, source: RuleSource) -> None:
    """Whether a rule can be read.

    Raises:
        RuleError: it is neither a function nor a notation.
    """
    try:
        if not callable(source):
            parse(source, (), ())
    except (ValueError, AttributeError) as error:
        raise RuleError(
            f"the rule of {op}, {source!r}, cannot be read: {error}. A notation has letters for every dim, commas "
            "between tensors and one arrow: 'b* i, o i -> b* o'"
        ) from error


def _sizes_agree(rule: Rule, node: Node, graph: Graph) -> Rule | None:
    """Drop the letter from dims of size 1 that are broadcast against a larger one; None if sizes contradict."""
    sizes: dict[str, object] = {}
    shapes = [graph.values[name].shape for name in node.inputs] + [value.shape for value in node.outputs]
    for dims, shape in zip((*rule.inputs, *rule.outputs), shapes, strict=True):
        for letter, size in zip(dims, shape, strict=True):
            if size != 1 and (letter is None or sizes.setdefault(letter, size) != size):
                return None  # a dim written `1` has that size

    def visible(dims: tuple[str | None, ...], shape: tuple[object, ...]) -> tuple[str | None, ...]:
        return tuple(letter if size != 1 else None for letter, size in zip(dims, shape, strict=True))

    count = len(rule.inputs)
    inputs = tuple(visible(dims, shape) for dims, shape in zip(rule.inputs, shapes[:count], strict=True))
    outputs = tuple(visible(dims, shape) for dims, shape in zip(rule.outputs, shapes[count:], strict=True))
    return replace(rule, inputs=inputs, outputs=outputs)
