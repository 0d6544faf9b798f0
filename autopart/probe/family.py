"""Family: the examples of an op whose tensors have the same ranks, and the letters found for them by argument."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autopart.probe.find_letters import find_letters
from autopart.probe.influence import Influence
from autopart.probe.trial import Trial


@dataclass(frozen=True)
class FoundLetter:
    """A letter as a mapping: which dim of which tensor; tensors are called by their arguments."""

    dims: Mapping[str, int]
    kept: bool
    mean: bool
    once: frozenset[str]


@dataclass(frozen=True)
class Family:
    """Trials of the same ranks.

    Attributes:
        trials: at least one.
        inputs: the arguments that are tensors, in order.
        outputs: what the outputs are called, in order.
        letters: what was found.
        added: the arguments that are only added.
    """

    trials: tuple[Trial, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    letters: tuple[FoundLetter, ...]
    added: frozenset[str]

    @property
    def tensors(self) -> tuple[str, ...]:
        """The arguments, then the outputs."""
        return (*self.inputs, *self.outputs)

    def rank(self, tensor: str) -> int:
        """How many dims it has."""
        return len(self.trials[0].tensors[self.tensors.index(tensor)].shape)

    def sizes(self, tensor: str, dim: int) -> tuple[int, ...]:
        """The sizes of a dim, one a trial."""
        place = self.tensors.index(tensor)
        return tuple(int(trial.tensors[place].shape[dim]) for trial in self.trials)


def families(trials: Sequence[Trial]) -> tuple[Family, ...]:
    """The trials by ranks, those of most tensors first, and of them those of least dims."""
    groups: dict[tuple[object, ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.slots, tuple(len(value.shape) for value in trial.tensors)), []).append(trial)
    found = [_family(tuple(group)) for group in groups.values()]
    return tuple(sorted(found, key=lambda own: (-len(own.inputs), sum(map(own.rank, own.tensors)))))


def _family(trials: tuple[Trial, ...]) -> Family:
    inputs, count = trials[0].slots, len(trials[0].node.outputs)
    outputs = ("output",) if count == 1 else tuple(f"output {place}" for place in range(count))
    letters = []
    for letter in find_letters(trials):
        dims = zip((*inputs, *outputs), (*letter.inputs, *letter.outputs), strict=True)
        once = frozenset(inputs[place] for place in letter.once)
        known = {name: dim for name, dim in dims if dim is not None}
        letters.append(FoundLetter(known, not letter.contracted, letter.mean, once))
    added = frozenset.intersection(*(Influence(trial).additive() for trial in trials))
    return Family(trials, inputs, outputs, tuple(letters), frozenset(inputs[place] for place in added))
