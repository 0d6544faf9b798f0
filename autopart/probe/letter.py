"""Letter: an axis found in an op's tensors, and the proof that sharding it computes what the op does."""

from collections.abc import Sequence
from dataclasses import dataclass

from autopart.probe.prove import Disproved, all_strategies, prove
from autopart.probe.trial import Trial
from autopart.sharding.rule import Rule

DEGREES = (2, 3)
MOST_RANKS = 32


@dataclass(frozen=True, slots=True)
class Letter:
    """One dim of some tensors.

    Attributes:
        inputs: for every input, which dim is on the axis, or None.
        outputs: the same for the outputs: a dim of each, or none of any, and then the axis is contracted.
        once: the inputs that are only added; of a contraction.
        mean: a contraction is an average.
    """

    inputs: tuple[int | None, ...]
    outputs: tuple[int | None, ...]
    once: frozenset[int] = frozenset()
    mean: bool = False

    @property
    def contracted(self) -> bool:
        """Whether the outputs are partial sums."""
        return all(dim is None for dim in self.outputs)

    @property
    def places(self) -> frozenset[tuple[int, int]]:
        """(tensor, dim), the outputs being counted after the inputs."""
        return frozenset((t, dim) for t, dim in enumerate((*self.inputs, *self.outputs)) if dim is not None)


def degrees(size: int) -> tuple[int, ...]:
    """The degrees to try on a dim: 2 and 3 if they divide it, and the most ranks that can share it.

    With one element a rank nothing can act together: pairs that two and three ranks would leave together are seen.
    """
    most = max(d for d in range(1, MOST_RANKS + 1) if size % d == 0)
    return tuple(d for d in dict.fromkeys((*DEGREES, most)) if d > 1 and size % d == 0)


def holds(letter: Letter, trials: Sequence[Trial]) -> bool:
    """Whether ranks that share the axis compute what the op does, in all trials."""
    for trial in trials:
        shapes = [value.shape for value in trial.tensors]
        tensor, dim = min(letter.places)
        places = zip((*letter.inputs, *letter.outputs), shapes, strict=True)
        dims = tuple(_lettered(own, len(shape)) for own, shape in places)
        count = len(letter.inputs)
        rule = Rule(dims[:count], dims[count:], once=letter.once, mean=letter.mean)
        if not all(proved(rule, trial, degree, divided=True) for degree in degrees(int(shapes[tensor][dim]))):
            return False
    return True


def _lettered(dim: int | None, rank: int) -> tuple[str | None, ...]:
    """The letters of a tensor with one axis in it."""
    return tuple("x" if place == dim else None for place in range(rank))


def proved(rule: Rule, trial: Trial, degree: int, divided: bool) -> bool:
    """Whether all strategies of `rule` that divide the work, or those that do not, are right on every draw."""
    for draw in trial.draws:
        node = draw.graph.nodes[0]
        for strategy in all_strategies(node, draw, rule, {}, degree):
            if strategy.divided is not divided:
                continue
            try:
                prove(node, draw, rule, strategy, degree, tolerance=trial.tolerance)
            except Disproved:
                return False
            except Exception:  # what another's op raises on shards may be anything
                return False
    return True
