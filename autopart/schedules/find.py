"""find_schedule: from a schedule's name to the function that builds it, by listing `catalog/`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from autopart.errors import PlanningError, UnknownNameError
from autopart.ir.action import Kind, Schedule
from autopart.schedules import catalog
from autopart.schedules.pipeline import Pipeline


@dataclass(frozen=True, slots=True)
class Definition:
    """A schedule of the catalogue: called with the size of a pipeline, it gives the actions of every rank.

    Attributes:
        name: in the catalogue.
        kinds: what is done with every micro-batch on every stage, in this order.
        virtual_stages: how many stages a rank may have: the least, and the most (None where any number will do).
        whole_rounds: the micro-batches must be a multiple of the ranks.
        in_flight: for each rank, the most passes through its stages that are between their forward and their last pass;
            None where that is counted.
        fill_s: an estimate of the bubble, see `catalog`.
    """

    name: str
    kinds: tuple[Kind, ...]
    virtual_stages: tuple[int, int | None]
    whole_rounds: bool
    actions: Callable[[Pipeline], Schedule]
    fill_s: Callable[[float, float, float, int], float]
    in_flight: Callable[[Pipeline], tuple[int, ...]] | None = None

    @property
    def splits_backward(self) -> bool:
        """Whether the gradients of weights have a pass of their own."""
        return Kind.WEIGHT in self.kinds

    def __call__(
        self,
        ranks: int,
        micro_batches: int,
        virtual_stages: int = 1,
        forward_s: float = 1.0,
        backward_s: float = 1.0,
        weight_s: float = 1.0,
    ) -> Schedule:
        """The schedule of `ranks` ranks with `virtual_stages` stages each; the times are those of `Pipeline`.

        Raises PlanningError where `check` does, and for times that are not above 0.
        """
        self.check(ranks, micro_batches, virtual_stages)
        return self.actions(Pipeline(ranks, micro_batches, virtual_stages, forward_s, backward_s, weight_s))

    def check(self, ranks: int, micro_batches: int, virtual_stages: int = 1) -> None:
        """Raise PlanningError, which says what to do, for counts below 1 and for such as this schedule cannot take."""
        Pipeline(ranks, micro_batches, virtual_stages)
        if not self.takes(virtual_stages):
            least, most = self.virtual_stages
            takes = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            others = [other.name for other in _definitions().values() if other.takes(virtual_stages)]
            raise PlanningError(
                f"schedule {self.name!r} takes {takes} virtual stages a rank, not {virtual_stages}: set "
                f"virtual_stages={least}, or choose among {', '.join(others)}, which take {virtual_stages}"
            )
        if self.whole_rounds and micro_batches % ranks:
            below = micro_batches - micro_batches % ranks
            nearest = " or ".join(str(count) for count in (below, below + ranks) if count)
            raise PlanningError(
                f"schedule {self.name!r} takes a multiple of {ranks} micro-batches on {ranks} ranks, not "
                f"{micro_batches}: change global_batch or micro_batch so that there are {nearest}, or choose another "
                "schedule"
            )

    def takes(self, virtual_stages: int) -> bool:
        """Whether a rank may have so many stages."""
        least, most = self.virtual_stages
        return least <= virtual_stages and (most is None or virtual_stages <= most)


def schedule_names() -> tuple[str, ...]:
    """The names of the schedules in `catalog/`, sorted."""
    return tuple(_definitions())


def find_schedule(name: str) -> Definition:
    """The schedule called `name`: a function (ranks, micro_batches, virtual_stages=1) -> Schedule.

    Raises UnknownNameError, which lists the known names, if there is none.
    """
    known = _definitions()
    if name not in known:
        raise UnknownNameError(f"no pipeline schedule is called {name!r}; known schedules: {', '.join(known)}")
    return known[name]


@cache
def _definitions() -> dict[str, Definition]:
    files = iter_modules(catalog.__path__)
    found = (_definition(import_module(f"{catalog.__name__}.{file.name}")) for file in files)
    return {definition.name: definition for definition in sorted(found, key=lambda definition: definition.name)}


def _definition(module: ModuleType) -> Definition:
    return Definition(
        module.NAME,
        module.KINDS,
        module.VIRTUAL_STAGES,
        module.WHOLE_ROUNDS,
        module.actions,
        module.fill_s,
        getattr(module, "in_flight", None),
    )
