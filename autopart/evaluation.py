"""evaluation: the program of a model in evaluation mode, by the choices of a plan that was made for training it.

In evaluation mode a model may compute something else than in training: no dropout, other branches of its Python. So it
is captured again. What the two graphs share is computed as the plan says; the rest follows its neighbours.
"""

from collections.abc import Callable, Iterable, Mapping

from torch import nn

from autopart.capture.captured import Captured
from autopart.capture.returned import Returned
from autopart.emit.function import Sharded
from autopart.emit.stages import emit_program
from autopart.errors import UnsupportedError
from autopart.ir.folded import ENTER, LEAVE
from autopart.ir.graph import Graph, Node
from autopart.ir.placement import REPLICATED, Layout
from autopart.ir.plan import PlanData
from autopart.ir.program import Program
from autopart.ir.units import Unit, own_weights
from autopart.prepared import Prepared, evaluating, find_rules
from autopart.runtime.evaluation import Variant
from autopart.sharding.find_rule import RuleSource
from autopart.sharding.infer_axes import infer_axes
from autopart.sharding.reshard import conversion
from autopart.sharding.sample_order import rows_apart
from autopart.sharding.strategies import Strategy, strategies, without_gradient


def evaluation_variant(
    plan: PlanData,
    program: Program,
    trained: Prepared,
    model: nn.Module,
    capture: Callable[[Returned | None], Captured],
    rules: Mapping[str, RuleSource] | None,
    returns: bool,
) -> Variant:
    """`model` in evaluation mode, in the stages and with the pieces of weights that training has.

    Args:
        plan: what decided the layouts.
        program: what was written for training.
        trained: what it was written from.
        model: is captured in evaluation mode, and left as it is.
        capture: captures it in the mode that it is in, with its loss or with what it returns.
        rules: of the caller's own ops.
        returns: whether the outputs are all tensors that the model returns, or the loss alone.

    Raises:
        CaptureError: the model cannot be captured in evaluation mode.
        UnsupportedError: it uses its weights in another order than in training, so that stages cannot be the same.
    """
    returned = Returned() if returns else None
    with evaluating(model):
        captured = capture(returned)
    prepared = find_rules(captured, rules)
    cuts = _same_cuts(plan, trained, prepared)
    if cuts is None:
        cuts = _cuts(prepared, program)
    if cuts is None:  # stages of training begin inside layers that only evaluation mode makes equal
        prepared = find_rules(captured, rules, folds=False)
        cuts = _cuts(prepared, program)
    if cuts is None:
        raise UnsupportedError(
            f"in evaluation mode {plan.model} uses its weights in another order than in training, so that its "
            f"{len(program.stages)} stages cannot be the same: evaluate the whole model with the weights of "
            "full_state_dict()"
        )
    pieces = {parameter.name: parameter.layout for stage in program.stages for parameter in stage.parameters}
    graph = prepared.folded.graph
    layouts = {p.value.name: pieces.get(p.target, REPLICATED) for p in graph.parameters}
    chosen = _choices(plan, prepared, layouts)
    sharded = Sharded(prepared.folded, prepared.rules, chosen, layouts, prepared.batch, plan.tp)
    facts = (
        f"For evaluation, by the plan: tp={plan.tp} pp={plan.pp} dp={plan.dp}.\nModel graph {graph.fingerprint}. "
        "Shapes are a rank's own; b is the micro-batch size."
    )
    layers = ["none" for unit in prepared.units if unit.loop is not None]
    written = emit_program(sharded, prepared.units, cuts, recompute=layers, facts=facts)
    apart = rows_apart(graph, prepared.rules)
    rebuild = returned.rebuild if returned else None
    return Variant(
        written, captured.graph, captured.constants, rebuild, apart, prepared.batch.sums, prepared.batch.parts
    )


def _cuts(prepared: Prepared, program: Program) -> tuple[int, ...] | None:
    """The units at which the stages begin that hold the weights as in training; None where that cannot be.

    A weight that several stages hold goes with those around it.
    """
    homes: dict[str, set[int]] = {}
    for stage, own in enumerate(program.stages):
        for parameter in own.parameters:
            homes.setdefault(parameter.name, set()).add(stage)
    begins = [0]
    for index, unit in enumerate(prepared.units):
        wanted = {next(iter(homes[name])) for name in _weights(prepared, unit) if len(homes.get(name, ())) == 1}
        if not wanted or wanted == {len(begins) - 1}:
            continue
        if wanted != {len(begins)}:
            return None
        begins.append(index)
    return tuple(begins[1:]) if len(begins) == len(program.stages) else None


def _same_cuts(plan: PlanData, trained: Prepared, prepared: Prepared) -> tuple[int, ...] | None:
    """The plan's cuts, where all units before the last of them have the weights that they have in training.

    That tells where stages begin whose weights others have too.
    """
    last = max(plan.cuts, default=0)
    if last >= len(prepared.units):
        return None
    units = zip(trained.units[:last], prepared.units[:last], strict=True)
    same = all(list(_weights(trained, own)) == list(_weights(prepared, other)) for own, other in units)
    return plan.cuts if same else None


def _weights(prepared: Prepared, unit: Unit) -> Iterable[str]:
    """The original names of the weights that a unit has to itself."""
    if unit.loop is not None:
        return own_weights(prepared.folded, unit.loop, unit.run).values()
    graph = prepared.folded.graph
    return [graph.targets[name] for index in unit.nodes for name in graph.nodes[index].inputs if name in graph.targets]


def _choices(plan: PlanData, prepared: Prepared, layouts: Mapping[str, Layout]) -> dict[str, Strategy]:
    """A strategy for every node: the plan's where it knows the node, else the one that takes its inputs as they are."""
    graph = prepared.folded.graph
    axes = infer_axes(graph, prepared.rules)
    wanted = {choice.node: choice for choice in plan.nodes}
    held: dict[str, Layout] = {**dict.fromkeys(graph.values, REPLICATED), **layouts}
    chosen: dict[str, Strategy] = {}
    for node in graph.nodes:
        options = strategies(node, graph, prepared.rules[node.name], axes.parts_of, plan.tp)
        choice = wanted.get(node.name)
        same = [
            option
            for option in options
            if choice
            and (option.letter, option.inputs, option.outputs, option.call)
            == (choice.letter, choice.inputs, choice.outputs, choice.call)
        ]
        strategy = options[0] if plan.tp == 1 else same[0] if same else _nearest(node, graph, options, held)
        chosen[node.name] = strategy
        held.update({value.name: layout for value, layout in zip(node.outputs, strategy.outputs, strict=True)})
    return chosen


def _nearest(node: Node, graph: Graph, options: tuple[Strategy, ...], held: Mapping[str, Layout]) -> Strategy:
    """The option with the fewest conversions. A loop's values are whole: what enters must be as what leaves."""
    if node.op in (ENTER, LEAVE):
        return options[0]

    def converted(option: Strategy) -> int | None:
        count = 0
        for name, want in zip(node.inputs, option.inputs, strict=True):
            have, trained = held[name], graph.values[name].requires_grad
            if not trained:
                have, want = without_gradient(have), without_gradient(want)
            if have != want:
                if conversion(have, want, trained) is None:
                    return None
                count += 1
        return count

    counts = [(count, place) for place, option in enumerate(options) if (count := converted(option)) is not None]
    return options[min(counts)[1]] if counts else options[0]
