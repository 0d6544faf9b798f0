"""prepared: capture a model, fold it and find the rules of its nodes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import nn

from autopart.capture.captured import Captured
from autopart.capture.evaluate import overload
from autopart.capture.example_inputs import example_inputs
from autopart.capture.fold import fold
from autopart.capture.front_end import find_front_end
from autopart.capture.keep_as_needed import AUTO, keep_as_needed
from autopart.capture.keep_whole import KeepWhole
from autopart.capture.returned import Returned
from autopart.capture.samplewise import samplewise
from autopart.errors import UnknownNameError
from autopart.ir.uncollected import uncollected
from autopart.sharding.find_rule import RuleSource, check_notation
from autopart.sharding.ruled import Ruled
from autopart.sharding.ruled import find_rules as rules_of_graph
from autopart.sharding.strict import refuse_mixing

LossFunction = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Prepared(Ruled):
    """A captured model with its rules; `save` keeps its graph, for planning without it."""

    captured: Captured = field(kw_only=True)


@uncollected()
def prepare(
    model: nn.Module,
    inputs: object | None = None,
    loss: LossFunction | None = None,
    rules: Mapping[str, RuleSource] | None = None,
    keep_whole: KeepWhole | None = None,
    front_end: str | None = None,
    strict: bool = False,
) -> Prepared:
    """Capture a model, fold it and find the rules of its nodes, once for many plans: what `plan` takes in its place.

    The arguments are those of `autopart.plan`.

    Raises:
        CaptureError: the model cannot be captured, or no example batch is known.
        MixingError: the model mixes samples, and `strict` refuses that.
        UnknownNameError: no such front end or module, or an operator of `rules` that is not registered.
        RuleError: a rule of `rules` that cannot be read.
    """
    check_rules(rules or {})
    kept: tuple[str, ...] = ()
    if keep_whole == AUTO:
        captured, kept = keep_as_needed(model, lambda names: capture(model, inputs, loss, names, front_end))
    else:
        captured = capture(model, inputs, loss, keep_whole, front_end)
    prepared = replace(find_rules(captured, rules), kept_unasked=kept)
    if strict:
        refuse_mixing(captured.graph.name, prepared.batch)
    return prepared


def capture(
    model: nn.Module,
    inputs: object | None = None,
    loss: LossFunction | Returned | None = None,
    keep_whole: KeepWhole | None = None,
    front_end: str | None = None,
) -> Captured:
    """Capture a model with its loss, or with all that it returns; arguments and errors are those of `prepare`."""
    run = find_front_end(front_end)
    captured = run(model, example_inputs(model, inputs), loss, keep_whole=keep_whole or ())
    if isinstance(loss, Returned) and loss.loss is not None:
        return replace(captured, graph=replace(captured.graph, loss=captured.graph.outputs[loss.loss]))
    return captured


def find_rules(captured: Captured, rules: Mapping[str, RuleSource] | None = None, folds: bool = True) -> Prepared:
    """A captured model with the rules of its nodes, its repeated layers folded, unless `folds` is False."""
    graph = fold(captured.graph) if folds else captured.graph
    found = rules_of_graph(graph, rules, lambda doubtful: samplewise(captured.graph, doubtful))
    return Prepared(**{item.name: getattr(found, item.name) for item in fields(Ruled)}, captured=captured)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode for a while; every module is then put back into its own."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def check_rules(given: Mapping[str, RuleSource]) -> None:
    """Whether rules of the caller's own are of operators that exist, and can be read.

    Raises:
        UnknownNameError: an operator that is not registered.
        RuleError: a notation that cannot be read.
    """
    for op, source in given.items():
        try:
            overload(op)
        except (AttributeError, ValueError) as error:
            raise UnknownNameError(
                f"rules: no operator {op!r} is registered; the name is 'namespace.name.overload', as "
                "'mylib.my_op.default', and the module that registers it must have been imported"
            ) from error
        check_notation(op, source)
