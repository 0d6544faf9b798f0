"""notes: what the reader of a plan should know of the model: what mixes samples, and what is not shared."""

from collections.abc import Mapping

from autopart.estimate.work import Work, work_of
from autopart.ir.folded import Folded
from autopart.ir.graph import Node
from autopart.ir.kept import KEPT, function_name
from autopart.ir.plan import Note
from autopart.search.candidate import Candidate
from autopart.sharding.batch import BatchSharding
from autopart.sharding.rule import Rule
from autopart.sharding.strategies import Strategy

OWN_BACKWARD = "a torch.autograd.Function, called as it is: only it knows its backward"


def mixing_notes(batch: BatchSharding) -> tuple[Note, ...]:
    """What mixes the samples: one note for each line of the user's, with the ops that do it there."""
    lines: dict[str, dict[str, None]] = {}
    changes: dict[str, dict[str, None]] = {}
    counts: dict[str, dict[str, None]] = {}
    for item in batch.mixing:
        if item.changes:
            changes.setdefault(item.location, {})[item.changes] = None
        elif item.counts:
            counts.setdefault(item.location, {})[item.op] = None
        else:
            lines.setdefault(item.location, {})[item.op] = None
    mixed = tuple(
        Note(
            ", ".join(ops),
            f"{'mix' if len(ops) > 1 else 'mixes'} the samples of a batch ({location}): computed per micro-batch, not "
            "over the global batch",
        )
        for location, ops in lines.items()
    )
    changed = tuple(
        Note(", ".join(buffers), f"given new values in the forward pass ({location}): with every micro-batch")
        for location, buffers in changes.items()
        if location not in lines  # a batch norm, of which it is said already
    )
    counted = tuple(
        Note(", ".join(ops), f"counts the samples of a batch ({location}): from 0 in every micro-batch")
        for location, ops in counts.items()
    )
    return (*mixed, *counted, *changed)


def replicated_notes(
    folded: Folded, rules: Mapping[str, Rule | None], best: Candidate, options: Mapping[str, tuple[Strategy, ...]]
) -> tuple[Note, ...]:
    """What every tp rank computes whole: ops without a rule, and matmuls or attention that were not divided."""
    if best.tp == 1:
        return ()
    notes: dict[str, Note] = {}
    for node in folded.graph.nodes:
        chosen = best.tensor.strategies[node.name]
        heavy = work_of(node) in (Work.MATMUL, Work.ATTENTION)
        constant = all(value.name in folded.graph.recomputable for value in node.outputs)
        if node.op == KEPT and not chosen.divided:
            name = function_name(node)
            notes[name or node.name] = Note(name or node.scope, OWN_BACKWARD if name else "kept whole, as asked")
        elif rules.get(node.name) is None and not node.op.startswith("autopart.") and not constant:
            notes.setdefault(node.op, Note(node.op, f"no sharding rule knows it ({_place(node)})"))
        elif heavy and not chosen.divided:
            divisible = any(option.divided for option in options[node.name])
            why = (
                "cheaper whole than the communication that sharing needs"
                if divisible
                else f"no dim that tp={best.tp} divides"
            )
            notes.setdefault(node.name, Note(node.scope or node.name, f"{node.op}: {why}"))
    return tuple(notes.values())


def _place(node: Node) -> str:
    return node.location or node.scope or node.name
