"""prepared: capture a model, fold it and find the rules of its nodes."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autopart.capture.evaluate import overload
from autopart.capture.example_inputs import example_inputs
from autopart.capture.fold import fold
from autopart.capture.front_end import find_front_end
from autopart.capture.keep_as_needed import AUTO, keep_as_needed
from autopart.capture.keep_whole import KeepWhole
from autopart.capture.returned import Returned
from autopart.capture.samplewise import samplewise
from autopart.capture.torch_export import Captured
from autopart.errors import UnknownNameError
from autopart.ir.folded import Folded, folded
from autopart.ir.kept import KEPT
from autopart.ir.units import Unit, units_of
from autopart.sharding.batch import BatchSharding, batch_sharding
from autopart.sharding.find_rule import RuleSource, check_notation, find_rule
from autopart.sharding.groups import share_groups
from autopart.sharding.kept_rule import kept_rule
from autopart.sharding.rule import Rule
from autopart.sharding.strict import refuse_mixing

LossFunction = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Prepared:
    """A captured model with its rules.

    Attributes:
        kept_unasked: names of the modules that `keep_whole="auto"` kept whole, `*` standing for one name in a path.
    """

    captured: Captured
    folded: Folded
    rules: dict[str, Rule | None]
    batch: BatchSharding
    units: tuple[Unit, ...]
    kept_unasked: tuple[str, ...] = ()


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
    known = {KEPT: kept_rule, **(rules or {})}
    whole = folded(fold(captured.graph) if folds else captured.graph)
    found = {node.name: find_rule(node, whole.graph, known) for node in whole.graph.nodes}
    found = share_groups(whole.graph, found)
    batch = batch_sharding(whole.graph, found)
    if batch.doubtful:
        batch = batch_sharding(whole.graph, found, samplewise(captured.graph, batch.doubtful))
    return Prepared(captured, whole, found, batch, units_of(whole))


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
