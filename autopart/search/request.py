"""Request: what a plan is asked for, and the checks that need no search."""

from dataclasses import dataclass

from autopart.errors import PinError
from cost_models.cluster import Cluster

RECOMPUTE = ("none", "full")


@dataclass(frozen=True, slots=True)
class Request:
    """A world, a global batch and a cluster; every other field is a pin, None where it is searched.

    `cuts` are indices of the units that begin a stage. `sequence_parallel`: True shards what goes from layer to layer
    along the sequence, False shards nothing along it. `tokens_per_sample` is 0 for a model without tokens.
    """

    world: int
    global_batch: int
    cluster: Cluster
    tokens_per_sample: int = 0
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    micro_batch: int | None = None
    recompute: str | None = None
    schedule: str | None = None
    cuts: tuple[int, ...] | None = None
    sequence_parallel: bool | None = None
    optimizer: str = "adamw"


def check(request: Request, unit_count: int) -> None:
    """Whether the pins can be met at all.

    Raises:
        PinError: a pin that cannot be met; the message says why, and what is nearest.
    """
    world, batch = request.world, request.global_batch
    for name in ("world", "global_batch", "tp", "pp", "dp", "micro_batch"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise PinError(f"{name}={value}: it must be at least 1")
    if request.cuts is not None and request.pp is None and world % (len(request.cuts) + 1):
        stages = len(request.cuts) + 1
        raise PinError(
            f"cuts names {len(request.cuts)} places, which makes {stages} stages, and {stages} does not divide "
            f"world={world}: "
            f"name one less than {_near(divisors(world), stages)}"
        )
    pinned = 1
    for name in ("tp", "pp", "dp"):
        value = getattr(request, name)
        if value is None:
            continue
        if world % value:
            raise PinError(f"{name}={value} does not divide world={world}: nearest are {_near(divisors(world), value)}")
        pinned *= value
    complete = None not in (request.tp, request.pp, request.dp)
    if world % pinned or (complete and pinned != world):
        shown = " x ".join(f"{n}={getattr(request, n)}" for n in ("tp", "pp", "dp") if getattr(request, n) is not None)
        raise PinError(f"{shown} = {pinned} does not make world={world}: leave one of them out, or set world={pinned}")
    if request.pp is not None and request.pp > unit_count:
        raise PinError(
            f"pp={request.pp} needs {request.pp} pieces, the model has {unit_count}: at most pp={unit_count}"
        )
    if request.cuts is not None and request.pp is not None and len(request.cuts) != request.pp - 1:
        raise PinError(
            f"cuts names {len(request.cuts)} places, which makes {len(request.cuts) + 1} stages, not pp={request.pp}"
        )
    if request.dp is not None and batch % request.dp:
        nearest = _near([request.dp * k for k in range(1, batch // request.dp + 3)], batch)
        raise PinError(
            f"global_batch={batch} cannot be shared by dp={request.dp} replicas: nearest batches are {nearest}"
        )
    if request.micro_batch is not None:
        share = request.micro_batch * (request.dp or 1)
        if batch % share:
            nearest = _near([share * k for k in range(1, batch // share + 3)], batch)
            per = f"micro_batch={request.micro_batch}" + (f" x dp={request.dp}" if request.dp else "")
            raise PinError(f"global_batch={batch} is no multiple of {per} = {share}: nearest batches are {nearest}")
    if request.recompute is not None and request.recompute not in RECOMPUTE:
        raise PinError(f"recompute={request.recompute!r}: known are {', '.join(map(repr, RECOMPUTE))}")


def divisors(number: int) -> tuple[int, ...]:
    """All divisors, ascending."""
    return tuple(d for d in range(1, number + 1) if number % d == 0)


def _near(options: "tuple[int, ...] | list[int]", value: int) -> str:
    below = [option for option in options if option < value]
    above = [option for option in options if option > value]
    return " and ".join(str(option) for option in (below[-1:] + above[:1]))
