"""Placements as pins: which parameters the names stand for, and whether the tp ranks can hold them so.

The notation is that of `torch.distributed.tensor`: `R` for `Replicate()`, `S(0)` for `Shard(0)`; a fused weight has the
parts that each rank needs its share of besides, `S(0,1:1:1)`.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from autopart.errors import PinError
from autopart.ir.folded import Folded
from autopart.ir.graph import Parameter
from autopart.ir.placement import Partial, Placement, Shard, normalized, parse_placement
from autopart.search.layouts import Layouts

MOST_NAMES = 6  # that an error lists


def pinned_placements(folded: Folded, wanted: Mapping[str, str]) -> tuple[tuple[str, Placement], ...]:
    """The placements of parameters of the folded graph, by their values' names.

    Args:
        folded: the model.
        wanted: placements by the original names of parameters, in which `*` stands for one name of a path or for a part
            of it: {"model.layers.*.mlp.up_proj.weight": "S(0)"}.

    Raises:
        PinError: no parameter has such a name, or the text is not a placement; a parameter is pinned twice; or of
            layers that are repeated, and so have one layout, some are pinned and others not.
    """
    runs = _runs(folded)
    used = {twin for twins in runs.values() for twin in twins}
    parameters = [own for own in folded.source.parameters if own.value.name in used]
    pins: dict[str, tuple[str, Placement]] = {}
    for pattern, text in wanted.items():
        placement = _read(pattern, text)
        found = [own for own in parameters if _is_named(pattern, own)]
        if not found:
            raise PinError(_no_such(pattern, [own.target for own in folded.graph.parameters]))
        for own in found:
            before, known = pins.setdefault(own.value.name, (pattern, placement))
            if known != placement:
                raise PinError(
                    f"placements: {own.target} is pinned twice, to {known} by {before!r} and to {placement} by "
                    f"{pattern!r}: leave one of them out"
                )
    placed = []
    for name, twins in runs.items():
        each = [pins[twin][1] if twin in pins else None for twin in twins]
        if len(set(each)) > 1:
            raise PinError(_unlike([folded.source.targets[twin] for twin in twins], each))
        if each[0] is not None:
            placed.append((name, each[0]))
    return tuple(placed)


def check_placements(layouts: Layouts, degrees: Sequence[int]) -> None:
    """Whether the pinned placements are possible with any of the tp `degrees`.

    Raises:
        PinError: the first parameter that cannot be held as pinned, alone or beside those pinned before it.
    """
    if not degrees or any(layouts.keeps_placements(tp) for tp in degrees):
        return
    graph, kept = layouts.folded.graph, dict[str, Placement]()
    for name, placement in layouts.request.placements:
        before = [graph.targets[own] for own in kept]
        kept[name] = placement
        if any(layouts.can_hold(tp, kept) for tp in degrees):
            continue
        possible: dict[tuple[str, ...], list[int]] = {}
        for tp in degrees:
            possible.setdefault(tuple(dict.fromkeys(str(x.value) for x in layouts.storage(tp, name))), []).append(tp)
        shape = " x ".join(map(str, graph.values[name].shape))
        alone = not any(str(placement) in own for own in possible)
        beside = "" if alone else f" beside what is pinned of {', '.join(before[-MOST_NAMES:])}"
        told = (f"with tp={', '.join(map(str, tps))} it can be {', '.join(own)}" for own, tps in possible.items())
        raise PinError(
            f"placements: {graph.targets[name]} ({shape}) cannot be {placement}{beside}: {'; '.join(told)}. Choose one "
            "of these, or another tp"
        )


def _runs(folded: Folded) -> dict[str, list[str]]:
    """For every parameter of the folded graph, those of the source graph that it stands for."""
    runs: dict[str, dict[str, None]] = {name: {} for name in folded.graph.parameter_of}
    for tables in folded.weights_in_runs.values():
        for table in tables:
            for name, other in table.items():
                if name in runs:
                    runs[name][other] = None
    return {name: list(own) or [name] for name, own in runs.items()}


def _read(pattern: str, text: str) -> Placement:
    try:
        placement = parse_placement(text)
    except ValueError as error:
        raise PinError(f"placements: {pattern!r}: {error}") from error
    if isinstance(placement, Partial):
        raise PinError(f"placements: {pattern!r}: a parameter cannot be a partial sum: choose R or S(dim)")
    if isinstance(placement, Shard):
        return Shard(placement.dim, normalized(placement.parts), placement.by)
    return placement


def _is_named(pattern: str, parameter: Parameter) -> bool:
    own = pattern.split(".")
    paths = (name.split(".") for name in (parameter.target, *parameter.aliases))
    return any(len(own) == len(path) and all(map(fnmatchcase, path, own)) for path in paths)


def _no_such(pattern: str, names: Sequence[str]) -> str:
    """The message of a name that stands for nothing: the names nearest to it, if any are near, or the first."""
    near = get_close_matches(pattern, names, MOST_NAMES) or names[:MOST_NAMES]
    more = f" and {len(names) - len(near)} more" if len(names) > len(near) else ""
    return (
        f"placements: the model uses no parameter {pattern!r}, in which * stands for one name between dots; it has "
        f"{', '.join(near)}{more}"
    )


def _unlike(targets: Sequence[str], each: Sequence[Placement | None]) -> str:
    """The message of equal layers that are pinned in different ways."""
    other = next(index for index, own in enumerate(each) if own != each[0])
    one, two = (f"{targets[index]} is {each[index] or 'left free'}" for index in (0, other))
    paths = [target.split(".") for target in targets]
    alike = ".".join(names[0] if len(set(names)) == 1 else "*" for names in zip(*paths, strict=False))
    return (
        f"placements: {one} and {two}, but these {len(targets)} repeated layers are planned as one and have one "
        f"layout: pin all of them alike, as {alike!r}"
    )
