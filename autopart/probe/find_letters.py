"""Find letters: which dims of a call's tensors are axes that may be sharded, found by trying."""

from collections.abc import Iterator, Sequence
from itertools import product

from autopart.errors import RuleError
from autopart.probe.influence import Influence
from autopart.probe.letter import DEGREES, Letter, holds
from autopart.probe.trial import Trial

Place = tuple[int, int]
MOST_PROOFS = 2000


def find_letters(trials: Sequence[Trial]) -> tuple[Letter, ...]:
    """The letters of an op, of trials whose tensors have the same ranks.

    A dim has one letter. Kept letters are looked for first: each takes as many inputs along as it can. Contracted ones
    take as few as they must, so that two sums that only have the same size stay two.

    Raises:
        RuleError: too many dims of one size.
    """
    return _Search(trials).run()


def tried(sizes: Sequence[int]) -> bool:
    """Whether a dim of these sizes, one a trial, can be shown to be an axis: on two ranks and on three."""
    return all(size > 1 for size in sizes) and all(any(size % d == 0 for size in sizes) for d in DEGREES)


class _Search:
    def __init__(self, trials: Sequence[Trial]) -> None:
        self.trials = trials
        self.influences = [Influence(trial) for trial in trials]
        self.inputs, self.outputs = len(trials[0].node.inputs), len(trials[0].node.outputs)
        self.claimed: set[Place] = set()
        self.found: list[Letter] = []
        self.proofs = 0
        self.dims: dict[tuple[int, ...], list[Place]] = {}
        for tensor, value in enumerate(trials[0].tensors):
            for dim in range(len(value.shape)):
                sizes = tuple(int(trial.tensors[tensor].shape[dim]) for trial in trials)
                if tried(sizes):
                    self.dims.setdefault(sizes, []).append((tensor, dim))

    def run(self) -> tuple[Letter, ...]:
        for places in self.dims.values():
            own = [[dim for t, dim in places if t == self.inputs + output] for output in range(self.outputs)]
            for outputs in product(*own):
                self._try(self._kept(outputs, places))
        for places in self.dims.values():
            for size in range(1, self.inputs + 1):
                for letters in self._contracted(places, size):
                    self._try(letters)
        return tuple(self.found)

    def _try(self, letters: Iterator[Letter]) -> None:
        """Take the first of `letters` that holds, none of whose dims has a letter."""
        for letter in letters:
            if letter.places & self.claimed:
                continue
            self.proofs += 1
            if self.proofs > MOST_PROOFS:
                raise RuleError(
                    f"{self.trials[0].node.op}: too many dims of one size to try all ways to shard them "
                    f"({MOST_PROOFS}): give examples whose dims differ, as 6, 12, 18 and 24"
                )
            if holds(letter, self.trials):
                self.found.append(letter)
                self.claimed |= letter.places
                return

    def _kept(self, outputs: tuple[int, ...], places: list[Place]) -> Iterator[Letter]:
        """Letters with these dims of the outputs, those that cut most inputs first."""
        choices: list[list[int | None]] = []
        for tensor in range(self.inputs):
            dims = [dim for t, dim in places if t == tensor and self._aligned(tensor, dim, outputs)]
            choices.append([*dims, None])
        options = sorted(product(*choices), key=lambda dims: sum(dim is None for dim in dims))
        yield from (Letter(dims, outputs) for dims in options)

    def _aligned(self, tensor: int, dim: int, outputs: tuple[int, ...]) -> bool:
        return (tensor, dim) not in self.claimed and all(
            influence.aligned(tensor, dim, output, output_dim)
            for influence in self.influences
            for output, output_dim in enumerate(outputs)
        )

    def _contracted(self, places: list[Place], size: int) -> Iterator[Iterator[Letter]]:
        """Letters with dims of `size` inputs and of no output; for each set of dims the ways in which it may hold."""
        own = [
            (tensor, dim)
            for tensor, dim in places
            if tensor < self.inputs
            and (tensor, dim) not in self.claimed
            and all(influence.separable(tensor, dim) for influence in self.influences)
        ]
        near = [influence.cliques(own) for influence in self.influences]
        additive = frozenset.intersection(*(influence.additive() for influence in self.influences))
        sets: list[tuple[Place, ...]] = [()]
        for _ in range(size):
            sets = [
                (*known, place)
                for known in sets
                for place in own
                if (not known or place > known[-1]) and all(place in table[other] for table in near for other in known)
            ]
        for places_of_set in sets:
            dims = dict(places_of_set)
            inputs = tuple(dims.get(tensor) for tensor in range(self.inputs))
            added = frozenset(additive - dims.keys())
            ways = dict.fromkeys(((added, False), (frozenset[int](), False), (frozenset[int](), True), (added, True)))
            yield (Letter(inputs, (None,) * self.outputs, once, mean) for once, mean in ways)
