"""Discover the sharding rule of an op by running it: whole, and on virtual ranks with its dims cut."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from autopart.errors import RuleError
from autopart.probe.discovery import Axis, Discovery, WholeDim
from autopart.probe.family import Family, families
from autopart.probe.find_letters import tried
from autopart.probe.letter import DEGREES, proved
from autopart.probe.merge import Merged, merge
from autopart.probe.spelled import GROUP, Spelled, spelled
from autopart.probe.trial import Trial, trial
from autopart.sharding.find_rule import find_rule
from autopart.sharding.rule import Rule


def discover(op: Any, examples: Sequence[Sequence[Any]]) -> Discovery:
    """The sharding rule of `op`; see `autopart.rules.discover`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on shards that do not fit an op may warn
        return _discovery(_overload(op), examples)


def _discovery(overload: Any, examples: Sequence[Sequence[Any]]) -> Discovery:
    name = str(overload)
    if not examples:
        raise RuleError(f"{name}: no examples given; pass examples=[(x, weight), ...] with small tensors")
    trials = [trial(overload, example) for example in examples]
    for own in trials:
        if not proved(Rule((), ()), own, 2, divided=False):
            raise RuleError(f"{name}: its backward is not linear in the gradient of its output, or differs by run")
    found = families(trials)
    merged = merge(name, found)
    linear = _linear(found)
    text = spelled(found[0], merged, linear)
    _check(name, text.notation, trials)
    return Discovery(
        op=name,
        notation=text.notation,
        letters=_axes(found[0], merged, text),
        whole=_whole(found, merged),
        linear=tuple(x for x in found[0].inputs if x in linear),
        once=tuple(x for x in found[0].inputs if x in merged.once),
        notes=_notes(trials),
    )


def _overload(op: Any) -> Any:
    """The one overload of `op` that a graph may hold."""
    if isinstance(op, torch._ops.OpOverload):
        known = [op]
    elif isinstance(op, torch._ops.OpOverloadPacket):
        known = [getattr(op, overload) for overload in op.overloads()]
    else:
        raise RuleError(f"{op!r} is not a torch operator: pass it as torch.ops.mylib.my_op")
    functional = [overload for overload in known if not overload._schema.is_mutable]
    if not functional:
        raise RuleError(
            f"{known[0]} changes its arguments: capture takes functional ops only; have it return new tensors"
        )
    if len(functional) > 1:
        raise RuleError(f"{op} has several overloads, pass one: {', '.join(map(str, functional))}")
    return functional[0]


def _linear(found: Sequence[Family]) -> frozenset[str]:
    """The arguments in which the op is jointly linear, the same in all families."""
    sets = []
    for family in found:
        inputs = family.trials[0].tensors[: len(family.inputs)]
        dtypes = [getattr(torch, value.dtype) for value in inputs]
        numbers = [place for place, dtype in enumerate(dtypes) if dtype.is_floating_point]
        numbers = numbers or [place for place, dtype in enumerate(dtypes) if dtype is not torch.bool]
        rule = Rule((), (), linear=frozenset(numbers))
        if not all(proved(rule, own, degree, divided=False) for own in family.trials for degree in DEGREES):
            return frozenset()
        sets.append(frozenset(family.inputs[place] for place in numbers))
    agree = all(own == sets[0] & set(family.inputs) for own, family in zip(sets, found, strict=True))
    return sets[0] if agree else frozenset()


def _check(name: str, notation: str, trials: Sequence[Trial]) -> None:
    """The notation as a whole, read as a planner reads it, proved on every example."""
    for own in trials:
        graph = own.draws[0].graph
        rule = find_rule(own.node, graph, {name: notation})
        if rule is not None and not all(
            proved(rule, own, degree, divided) for degree in DEGREES for divided in (True, False)
        ):
            raise RuleError(f"{name}: {notation!r} was found letter by letter and fails as a whole; please report this")


def _axes(first: Family, merged: Merged, text: Spelled) -> tuple[Axis, ...]:
    group = tuple(f"{name} leading dims" for name in first.tensors if name in merged.stars)
    axes = [Axis(GROUP, "kept", group)] if group else []
    for letter, known in text.letters:
        how = "kept" if known.kept else "averaged" if known.mean else "contracted"
        axes.append(
            Axis(letter, how, tuple(f"{x} dim {_shown(x, dim, first, merged)}" for x, dim in known.dims.items()))
        )
    return tuple(axes)


def _shown(tensor: str, dim: int, first: Family, merged: Merged) -> int:
    """The number of a dim after the group; from the right where the group has no fixed length."""
    return dim - first.rank(tensor) + merged.group if tensor in merged.stars else dim


def _whole(found: Sequence[Family], merged: Merged) -> tuple[WholeDim, ...]:
    first = found[0]
    taken = {place for letter in merged.letters for place in letter.dims.items()}
    whole = []
    for tensor in first.tensors:
        skipped = merged.group if tensor in merged.stars else 0
        for dim in range(first.rank(tensor) - skipped):
            sizes = first.sizes(tensor, dim + skipped)
            if (tensor, dim) in taken:
                continue
            whole.append(
                WholeDim(f"{tensor} dim {_shown(tensor, dim, first, merged)}", _why((tensor, dim), sizes, merged))
            )
    return tuple(whole)


def _why(place: tuple[str, int], sizes: tuple[int, ...], merged: Merged) -> str:
    if not tried(sizes):
        shown = ", ".join(map(str, sorted(set(sizes))))
        return f"not tried at size {shown}, which 2 and 3 do not both divide; give a multiple of 6"
    if any(place in letter.dims.items() for letter in merged.dropped):
        return "may be sharded in some examples only, or not beside the others"
    return "ranks that share it do not compute what one does"


def _notes(trials: Sequence[Trial]) -> tuple[str, ...]:
    notes = [f"shown on {len(trials)} examples, {sum(len(own.draws) for own in trials)} draws of data"]
    if not all(own.differentiable for own in trials):
        notes.append("values alone were compared: it has no gradients, or no formula for them")
    worst = max(own.tolerance for own in trials)
    if worst > 1e-10:
        notes.append(f"compared to {worst:.0e} only: it does not compute in float64")
    return tuple(notes)
