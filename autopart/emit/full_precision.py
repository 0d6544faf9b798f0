"""Full precision: how calls are written that the model makes with autocast off, whatever is on around the module.

They take float32 where the graph has it, though what goes in may have been computed in half; and those that autocast
would change are made without it.
"""

from collections.abc import Mapping
from importlib import import_module

from autopart.ir.folded import ENTER
from autopart.ir.graph import Graph, Node

FULL = "float32"  # of the dtypes, the one that autocast takes to half
# Families of ops that are computed in the dtype of what they take, with autocast or without.
PLAIN = ("cutting", "elementwise", "indexing", "normalization", "reduction", "repetition", "reshape", "view")
CHANGED = frozenset({"aten.prelu.default"})


def made_without_autocast(node: Node) -> bool:
    """Whether autocast must be off while `node` is computed."""
    return node.full and (node.op in CHANGED or node.op not in _plain())


def widened(graph: Graph) -> Mapping[str, frozenset[str]]:
    """For nodes with autocast off, what they take that may be in half and is to be float32."""
    if not any(node.full for node in graph.nodes):
        return {}
    half: set[str] = set()
    found: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        if node.full:
            found[node.name] = frozenset(name for name in node.inputs if name in half)
            continue
        spreads = node.op not in _plain() or node.op == ENTER or not half.isdisjoint(node.inputs)
        half.update(value.name for value in node.outputs if spreads and value.dtype == FULL)
    return found


def _plain() -> frozenset[str]:
    modules = (import_module(f"autopart.sharding.rules.{name}") for name in PLAIN)
    return frozenset(op for module in modules for op in module.RULES)
