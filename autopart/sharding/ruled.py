"""Ruled: a folded graph with the rules of its nodes, which is all that planning needs to know of a model."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from autopart.errors import GraphFileError, UnsupportedError
from autopart.ir.folded import Folded, folded
from autopart.ir.graph import Graph
from autopart.ir.graph_json import graph_to_json
from autopart.ir.kept import KEPT
from autopart.ir.units import Unit, units_of
from autopart.sharding.batch import BatchSharding, batch_sharding
from autopart.sharding.find_rule import RuleSource, find_rule
from autopart.sharding.groups import share_groups
from autopart.sharding.kept_rule import kept_rule
from autopart.sharding.rule import Rule

FORMAT = 1
Prove = Callable[[frozenset[str]], frozenset[str]]


@dataclass(frozen=True)
class Ruled:
    """A folded graph with the rules of its nodes.

    Attributes:
        given: rules of the caller's own, by the names of their operators.
        proven: values found, by running them, to be computed sample by sample.
        kept_unasked: names of the modules that `keep_whole="auto"` kept whole, `*` standing for one name in a path.
    """

    folded: Folded
    rules: dict[str, Rule | None]
    batch: BatchSharding
    units: tuple[Unit, ...]
    given: Mapping[str, RuleSource] = field(default_factory=dict)
    proven: frozenset[str] = frozenset()
    kept_unasked: tuple[str, ...] = ()

    def save(self, path: str | Path) -> None:
        """Write the graph as JSON: what `load_ruled` reads, and `autopart plan` takes in place of a model.

        Raises:
            UnsupportedError: a rule that is a function, or a size that has no name in the file.
            GraphFileError: the file cannot be written.
        """
        functions = [op for op, source in self.given.items() if not isinstance(source, str)]
        if functions:
            raise UnsupportedError(
                f"the rule of {functions[0]} is a function, which cannot be saved: write it as letters"
            )
        data = {
            "autopart_graph": FORMAT,
            "rules": dict(self.given),
            "proven": sorted(self.proven),
            "kept_unasked": list(self.kept_unasked),
            "graph": graph_to_json(self.folded.source),
        }
        try:
            Path(path).write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
        except OSError as error:
            reason = error.strerror or error
            raise GraphFileError(
                f"the graph cannot be saved as {path}: {reason}. Save it in a folder that exists"
            ) from error


def find_rules(graph: Graph, given: Mapping[str, RuleSource] | None = None, prove: Prove | None = None) -> Ruled:
    """A graph, folded along its regions, with the rules of its nodes.

    Args:
        graph: a captured model.
        given: rules of the caller's own.
        prove: finds by running, among values of which the letters do not say it, those computed sample by sample.
    """
    known = {KEPT: kept_rule, **(given or {})}
    whole = folded(graph)
    found = {node.name: find_rule(node, whole.graph, known) for node in whole.graph.nodes}
    found = share_groups(whole.graph, found)
    batch, proven = batch_sharding(whole.graph, found), frozenset[str]()
    if batch.doubtful and prove is not None and (proven := prove(batch.doubtful)):
        batch = batch_sharding(whole.graph, found, proven)
    return Ruled(whole, found, batch, units_of(whole), given or {}, proven)
