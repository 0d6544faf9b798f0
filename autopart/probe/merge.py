"""Merge: what holds in all families of examples, as one notation; leading dims whose number differs become `b*`."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from autopart.errors import RuleError
from autopart.probe.family import Family, FoundLetter


@dataclass(frozen=True)
class Merged:
    """Letters common to all families.

    Attributes:
        stars: the tensors that begin with the group of leading dims.
        group: how many dims it has in the first family.
        letters: with dims counted after the group.
        once: the arguments that are only added.
        mean: whether contractions are averages.
        dropped: letters that not all families, or not all contractions, agree on.
    """

    stars: frozenset[str]
    group: int
    letters: tuple[FoundLetter, ...]
    once: frozenset[str]
    mean: bool
    dropped: tuple[FoundLetter, ...]


def merge(op: str, families: Sequence[Family]) -> Merged:
    """What all families have in common.

    Raises:
        RuleError: no one notation fits their ranks or their arguments.
    """
    first = families[0]
    stars, groups = _group(op, families)
    own = [_after_group(family, stars, group) for family, group in zip(families, groups, strict=True)]
    common = [x for x in own[0] if all(_among(x, others, family) for others, family in zip(own, families, strict=True))]
    kept = [letter for letter in common if letter.kept]
    sums, means = ([x for x in common if not x.kept and x.mean is mean] for mean in (False, True))
    contracted = max(sums, means, key=len)
    once = frozenset(chain.from_iterable(letter.once for letter in contracted))
    contracted = [letter for letter in contracted if letter.once == once - letter.dims.keys()]
    missing = {name for family in families for name in first.inputs if name not in family.inputs}
    strange = {name for family in families for name in family.inputs if name not in first.inputs}
    optional = once if contracted else first.added
    if strange or missing - optional:
        raise RuleError(
            f"{op}: the examples with and without {', '.join(sorted(strange | missing - optional))} need a notation "
            "each: only what is added may be left out of one. Discover them apart"
        )
    letters = (*kept, *contracted)
    dropped = tuple(letter for letter in own[0] if letter not in letters)
    return Merged(stars, groups[0], letters, once | missing, bool(contracted) and contracted[0].mean, dropped)


def _group(op: str, families: Sequence[Family]) -> tuple[frozenset[str], tuple[int, ...]]:
    """The tensors that begin with the group, and how many dims it has in each family."""
    first = families[0]
    varying = [
        name for name in first.tensors if len({family.rank(name) for family in families if name in family.tensors}) > 1
    ]
    if not varying:
        return frozenset(), (0,) * len(families)
    for length in range(min(map(first.rank, varying)), -1, -1):
        groups = []
        for family in families:
            more = {family.rank(name) - first.rank(name) for name in varying if name in family.tensors}
            groups.append(length + more.pop() if len(more) == 1 else -1)
        members = set(chain(*(_members(f, 0) for f, g in zip(families, groups, strict=True) if g > 0)))
        fits = (
            min(groups) >= 0
            and members.issuperset(varying)
            and all(
                _members(family, dim) == members.intersection(family.tensors)
                for family, group in zip(families, groups, strict=True)
                for dim in range(group)
            )
        )
        if fits:
            return frozenset(members), tuple(groups)
    raise RuleError(
        f"{op}: the ranks of {', '.join(varying)} differ from example to example, and their leading dims may not all "
        "be sharded alike: no one notation fits. Discover each rank apart"
    )


def _members(family: Family, dim: int) -> set[str]:
    """The tensors whose dim number `dim` is on the axis of that dim of the outputs."""
    for letter in family.letters:
        if letter.kept and letter.dims[family.outputs[0]] == dim:
            return set(letter.dims) if set(letter.dims.values()) == {dim} else set()
    return set()


def _after_group(family: Family, stars: frozenset[str], group: int) -> list[FoundLetter]:
    found = []
    for letter in family.letters:
        dims = {name: dim - (group if name in stars else 0) for name, dim in letter.dims.items()}
        if min(dims.values()) >= 0:
            found.append(FoundLetter(dims, letter.kept, letter.mean, letter.once))
    return found


def _among(letter: FoundLetter, others: Sequence[FoundLetter], family: Family) -> bool:
    """Whether `others`, of a family that may lack some arguments, have `letter`."""
    dims = {name: dim for name, dim in letter.dims.items() if name in family.tensors}
    once = frozenset(name for name in letter.once if name in family.tensors)
    return FoundLetter(dims, letter.kept, letter.mean, once) in others
