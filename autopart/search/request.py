"""Request: what a plan is asked for, and the checks that need no search."""

from dataclasses import dataclass
from math import isqrt

from autopart.errors import PinError
from autopart.estimate.recompute import parse_recompute
from autopart.ir.placement import Placement
from cost_models.cluster import Cluster
from cost_models.mixed_cluster import MixedCluster
from cost_models.stack import Stack


@dataclass(frozen=True, slots=True)
class Request:
    """A world, a global batch and a cluster; every other field is a pin, None where it is searched.

    `placements` are of parameters of the folded graph, by their values' names; `cuts` are indices of the units that
    begin a stage. `unfit` are sizes of micro-batches that the model cannot be computed with. `sequence_parallel`: True
    shards what goes from layer to layer along the sequence, False shards nothing along it, and what goes from layer to
    layer not at all. `search_seconds` is not a pin: after that time the best so far is taken. `memory_limit_bytes` is
    what a device has, left out that of the cluster's. `tokens_per_sample` is 0 for a model without tokens. With
    `mixed`, all of its devices are taken, and `cluster` are the nodes for whose prices layouts are chosen.
    """

    world: int
    global_batch: int
    cluster: Cluster
    stack: Stack
    tokens_per_sample: int = 0
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    micro_batch: int | None = None
    unfit: frozenset[int] = frozenset()
    recompute: str | None = None
    schedule: str | None = None
    cuts: tuple[int, ...] | None = None
    sequence_parallel: bool | None = None
    cp: int | None = None
    zero: int | None = None
    virtual_stages: int | None = None
    precision: str = "as-built"
    memory_limit_bytes: float | None = None
    placements: tuple[tuple[str, Placement], ...] = ()
    mixed: MixedCluster | None = None
    optimizer: str = "adamw"
    search_seconds: float | None = None

    @property
    def stages(self) -> int | None:
        """How many stages are asked for: those of a pinned pp times the virtual stages of a rank."""
        return None if self.pp is None else self.pp * (self.virtual_stages or 1)


def check(request: Request, unit_count: int) -> None:
    """Whether the pins can be met at all.

    Raises:
        PinError: a pin that cannot be met; the message says why, and what is nearest.
    """
    world, batch = request.world, request.global_batch
    for name in ("world", "global_batch", "tp", "pp", "dp", "cp", "micro_batch", "virtual_stages"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise PinError(f"{name}={value}: it must be at least 1")
    virtual = request.virtual_stages or 1
    if request.cuts is not None and (len(request.cuts) + 1) % virtual:
        raise PinError(
            f"cuts names {len(request.cuts)} places, which makes {len(request.cuts) + 1} stages: not a multiple of "
            f"virtual_stages={virtual}"
        )
    if request.cuts is not None and request.pp is None and world % ((len(request.cuts) + 1) // virtual):
        stages = (len(request.cuts) + 1) // virtual
        raise PinError(
            f"cuts names {len(request.cuts)} places, which makes {stages} stages, and {stages} does not divide "
            f"world={world}: "
            f"name one less than {_near(divisors(world), stages)}"
        )
    pinned = 1
    for name in ("tp", "pp", "dp", "cp"):
        value = getattr(request, name)
        if value is None:
            continue
        if world % value:
            raise PinError(f"{name}={value} does not divide world={world}: nearest are {_near(divisors(world), value)}")
        pinned *= value
    complete = None not in (request.tp, request.pp, request.dp)
    if world % pinned or (complete and pinned != world):
        degrees = ("tp", "pp", "dp", "cp")
        shown = " x ".join(f"{n}={getattr(request, n)}" for n in degrees if getattr(request, n) is not None)
        raise PinError(f"{shown} = {pinned} does not make world={world}: leave one of them out, or set world={pinned}")
    wanted, each = request.stages, f" x virtual_stages={virtual}" if virtual > 1 else ""
    if wanted is not None and wanted > unit_count:
        raise PinError(
            f"pp={request.pp}{each} needs {wanted} pieces, the model has {unit_count}: at most "
            f"pp={unit_count // virtual}"
        )
    if request.cuts is not None and wanted is not None and len(request.cuts) != wanted - 1:
        raise PinError(
            f"cuts names {len(request.cuts)} places, which makes {len(request.cuts) + 1} stages, not "
            f"pp={request.pp}{each}"
        )
    if request.zero is not None and request.zero not in (0, 1, 2, 3):
        raise PinError(f"zero={request.zero}: the ZeRO stages are 0, 1, 2 and 3")
    if request.dp is not None and batch % request.dp:
        nearest = _near([request.dp * k for k in range(1, batch // request.dp + 3)], batch)
        raise PinError(
            f"global_batch={batch} cannot be shared by dp={request.dp} replicas: nearest batches are {nearest}"
        )
    if request.micro_batch is not None:
        share = request.micro_batch * (request.dp or 1)
        if batch % share:
            nearest = _near([share * k for k in range(1, batch // share + 3)], batch)
            per = f"micro_batch={request.micro_batch}" + (f" x dp={request.dp} = {share}" if request.dp else "")
            raise PinError(f"global_batch={batch} is not a multiple of {per}: nearest batches are {nearest}")
    if request.recompute is not None:
        parse_recompute(request.recompute)
    if request.search_seconds is not None and not request.search_seconds >= 0:
        raise PinError(f"search_seconds={request.search_seconds}: it is a time, 0 or more")


def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    low = [d for d in range(1, isqrt(max(0, number)) + 1) if number % d == 0]
    return tuple(sorted({*low, *(number // d for d in low)}))


def divisors_up_to(number: int, largest: int) -> tuple[int, ...]:
    """The divisors of `number` that are at most `largest`."""
    return tuple(d for d in range(1, min(number, largest) + 1) if number % d == 0)


def _near(options: "tuple[int, ...] | list[int]", value: int) -> str:
    below = [option for option in options if option < value]
    above = [option for option in options if option > value]
    return " and ".join(str(option) for option in (below[-1:] + above[:1]))
