"""Spelled: the letters found as a notation, in the words of `autopart.sharding.rule`."""

from collections.abc import Iterator
from dataclasses import dataclass

from autopart.probe.family import Family, FoundLetter
from autopart.probe.merge import Merged

GROUP, KEPT, CONTRACTED, WHOLE = "b*", "acdefghopqrstuvwxyz", "ijklmn", "XYZUVWRSTPQABCDEFGH"


@dataclass(frozen=True)
class Spelled:
    """A notation, and the letters that it has for what was found."""

    notation: str
    letters: tuple[tuple[str, FoundLetter], ...]


def spelled(first: Family, merged: Merged, linear: frozenset[str]) -> Spelled:
    """The notation of what was merged.

    Args:
        first: the family with all arguments.
        merged: what all families have in common.
        linear: the arguments in which the op is jointly linear.
    """
    names, letters = _names(first, merged)

    def text(tensor: str) -> str:
        tokens = [GROUP] if tensor in merged.stars else []
        tokens += [names[(tensor, dim)] for dim in range(own_rank(first, merged, tensor))]
        return " ".join(tokens) + ("?" if tensor in merged.once else "")

    left, right = (", ".join(map(text, side)) for side in (first.inputs, first.outputs))
    facts = [f"{left} -> {right}".strip()]
    facts += ["mean"] if merged.mean else []
    numbers = [str(place) for place, name in enumerate(first.inputs) if name in linear]
    facts += [f"linear {' '.join(numbers)}"] if numbers else []
    return Spelled("; ".join(facts), tuple(letters))


def own_rank(first: Family, merged: Merged, tensor: str) -> int:
    """How many dims a tensor has after the group."""
    return first.rank(tensor) - (merged.group if tensor in merged.stars else 0)


def _names(first: Family, merged: Merged) -> tuple[dict[tuple[str, int], str], list[tuple[str, FoundLetter]]]:
    """The token of every dim. Dims that stay whole are capitals; those of one size are shown as one axis."""
    names: dict[tuple[str, int], str] = {}
    letters: list[tuple[str, FoundLetter]] = []
    kept = iter(KEPT if merged.stars else f"ab{KEPT[1:]}")
    contracted, whole = iter(CONTRACTED), iter(WHOLE)
    capitals: dict[tuple[tuple[int, ...], int], str] = {}
    for tensor, dim, sizes in _dims(first, merged):
        if (tensor, dim) in names:
            continue
        letter = next((x for x in merged.letters if x.dims.get(tensor) == dim), None)
        if letter is not None:
            name = next(kept if letter.kept else contracted)
            names.update(dict.fromkeys(letter.dims.items(), name))
            letters.append((name, letter))
        elif set(sizes) == {1}:
            names[(tensor, dim)] = "1"
        else:
            before = sum(own == tensor and other < dim and same == sizes for own, other, same in _dims(first, merged))
            if (sizes, before) not in capitals:
                capitals[(sizes, before)] = next(whole)
            names[(tensor, dim)] = capitals[(sizes, before)]
    return names, letters


def _dims(first: Family, merged: Merged) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Every dim after the group, with its sizes."""
    for tensor in first.tensors:
        skipped = merged.group if tensor in merged.stars else 0
        for dim in range(own_rank(first, merged, tensor)):
            yield tensor, dim, first.sizes(tensor, dim + skipped)
