"""emission: the program of a plan, by the rules of the model that it was made for."""

from autopart.emit.function import Sharded
from autopart.emit.stages import emit_program
from autopart.errors import PlanMismatchError
from autopart.ir.placement import REPLICATED
from autopart.ir.plan import NodeChoice, PlanData
from autopart.ir.program import Program
from autopart.prepared import Prepared
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.strategies import Strategy, strategies


def make_program(plan: PlanData, prepared: Prepared) -> Program:
    """The sources of a plan. Only choices that the rules allow are written: a plan file cannot bring in others.

    Raises:
        PlanMismatchError: a choice of the plan is not among them.
    """
    graph, rules = prepared.folded.graph, prepared.rules
    axes = infer_axes(graph, rules)
    chosen: dict[str, Strategy] = {}
    wanted = {choice.node: choice for choice in plan.nodes}
    for node in graph.nodes:
        options = strategies(node, graph, rules[node.name], axes.parts_of, plan.tp)
        if plan.tp == 1:
            chosen[node.name] = options[0]
            continue
        choice = wanted.get(node.name)
        match = next((own for own in options if choice and _decisions(own) == _decisions(choice)), None)
        if match is None:
            raise PlanMismatchError(
                f"the plan's choice for {node.name} ({node.op}) is not one that this version knows: plan again, or "
                "pass the rules= that it was made with"
            )
        chosen[node.name] = match
    layouts = {choice.name: choice.layout for choice in plan.parameters}
    if plan.tp == 1:
        layouts = {parameter.value.name: REPLICATED for parameter in graph.parameters}
    sharded = Sharded(prepared.folded, rules, chosen, layouts, prepared.batch, plan.tp)
    facts = (
        f"Plan: tp={plan.tp} pp={plan.pp} dp={plan.dp}, micro-batches of {plan.micro_batch}, schedule {plan.schedule}, "
        f"recompute {plan.recompute}.\nModel graph {plan.fingerprint}. Shapes are a rank's own; b is the micro-batch "
        "size."
    )
    return emit_program(sharded, prepared.units, plan.cuts, plan.layers_recomputed, facts)


def _decisions(own: Strategy | NodeChoice) -> tuple[object, ...]:
    """What a plan says of a node."""
    return own.letter, own.inputs, own.outputs, own.call
