"""Why there is no plan, and which changes would give one: every one that is named was searched."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import NoReturn

from autopart.errors import InfeasiblePlanError, PlanningError
from autopart.estimate.recompute import BY_LAYER
from autopart.schedules.find import find_schedule
from autopart.search.candidate import Candidate
from autopart.search.layouts import micro_batches
from autopart.search.point import Point
from autopart.search.pricing import Pricing
from autopart.search.request import Request, divisors

Again = Callable[[Request], Candidate | None]
MORE = (2, 3, 4, 8, 16)  # times as many devices


def explain_infeasible(pricing: Pricing, points: Sequence[Point], again: Again) -> NoReturn:
    """Raise the error that says why none of the points gives a plan; `again` searches for another request.

    Raises:
        InfeasiblePlanError: nothing fits the memory; the message names the stage and what would fit.
        PlanningError: no way to use so many devices, or no place for so many cuts.
    """
    request = pricing.request
    if not points:
        _check_schedule(request)
        named = {
            axis.name: axis.size for axis in pricing.axes.axes if isinstance(axis.size, int) and "[" not in axis.name
        }
        sizes = ", ".join(f"{name} {size}" for name, size in sorted(named.items()) if size > 1) or "it has none"
        if request.mixed is not None:
            kinds = " and ".join(f"{own.devices} {own.cluster.device.name}" for own in request.mixed.groups)
            raise PlanningError(
                f"no tp x pp x dp makes world={request.world} of {kinds} where a stage lies on one kind: tp x dp must "
                f"divide the devices of each and dp global_batch={request.global_batch}, tp must divide an axis (among "
                f"them {sizes}), and pp can be at most {len(pricing.units)}: choose other degrees, or another world"
            )
        if request.unfit:
            raise PlanningError(
                f"no tp x pp x dp makes world={request.world} with micro-batches that the model can be computed with: "
                f"it mixes samples, and cannot take {', '.join(map(str, sorted(request.unfit)[:8]))} of them; choose a "
                f"smaller world, or a global_batch larger than {request.global_batch}"
            )
        raise PlanningError(
            f"no tp x pp x dp makes world={request.world}: tp must divide an axis (among them {sizes}), pp can be "
            f"at most {len(pricing.units)}, and dp must divide global_batch={request.global_batch}; try "
            f"world={_nearby(request)}"
        )
    # Of all schedules, the first one needs the least.
    first = [point for point in points if (point.schedule, point.virtual_stages) == _simplest(points)]
    if first[0].recompute == BY_LAYER:  # without a limit it recomputes nothing
        first = [point._replace(recompute=kind) for point in first for kind in request.stack.space.recompute]
    made = (pricing.candidate(point, float("inf")) for point in first)
    unlimited = [candidate for candidate in made if candidate is not None]
    if not unlimited:
        raise PlanningError(
            "the stages cannot be cut so: what crosses a cut would be rows of experts, of which a tensor-parallel rank "
            "holds a number that is known only when the model runs. Cut elsewhere, take fewer stages, or tp=1"
        )
    least = min(unlimited, key=lambda c: c.peak_bytes)
    stage = least.fullest
    memory, device = least.memory[stage], least.device_of(stage)
    gib = 2**30
    raise InfeasiblePlanError(
        f"stage {stage} needs {memory.total_bytes / gib:.1f} GiB at the least (parameters "
        f"{memory.parameters_bytes / gib:.1f}, "
        f"gradients {memory.gradients_bytes / gib:.1f}, optimizer {memory.optimizer_bytes / gib:.1f}, activations "
        f"{memory.activations_bytes / gib:.1f}, temporary {memory.temporary_bytes / gib:.1f}, reserve "
        f"{memory.reserve_bytes / gib:.1f}), {device.name} has {device.memory_bytes / gib:.1f}, with tp={least.tp} "
        f"pp={least.pp} "
        f"dp={least.dp} micro_batch={least.micro_batch} recompute={least.recompute!r} zero={least.keeping.zero}: "
        f"{_remedies(pricing, again)}"
    )


def _simplest(points: Sequence[Point]) -> tuple[str, int]:
    """The schedule of the first point, which is that of least memory, and its virtual stages."""
    return points[0].schedule, points[0].virtual_stages


def _check_schedule(request: Request) -> None:
    """Raise the error of a schedule that was asked for, if only that stands in the way."""
    if request.schedule is None:
        return
    definition = find_schedule(request.schedule)
    virtual = request.virtual_stages or definition.virtual_stages[0]
    for pp in (request.pp,) if request.pp else divisors(request.world):
        replicas = request.world // pp // (request.tp or 1) // (request.cp or 1)
        dp = request.dp or replicas
        for size in micro_batches(request, request.global_batch // max(1, dp)):
            definition.check(pp, request.global_batch // max(1, dp) // size, virtual)


def _remedies(pricing: Pricing, again: Again) -> str:
    """The smallest changes that were searched and found to fit."""
    request = pricing.request
    found = [*_other_pins(pricing, again), *_free_placements(request, again)]
    found += [*_more_zero(request, again), *(_more_devices(request, again) if request.mixed is None else ())]
    return f"try {' or '.join(found)}" if found else "use more devices, or larger ones"


def _other_pins(pricing: Pricing, again: Again) -> list[str]:
    """For each pin what it can be instead, all others as they are; else the degrees, which make the world together."""
    request, found = pricing.request, []
    for name in ("recompute", "micro_batch", "zero", "tp", "pp", "dp", "cuts"):
        if getattr(request, name) is not None and (plan := again(_without(request, name))) is not None:
            found.append(f"{name}={_shown(pricing, plan, name)} ({_gib(plan)})")
    pinned = [name for name in ("tp", "pp", "dp") if getattr(request, name) is not None]
    if len(pinned) > 1 and not found and (plan := again(replace(request, tp=None, pp=None, dp=None))) is not None:
        degrees = " ".join(f"{name}={getattr(plan, name)}" for name in ("tp", "pp", "dp"))
        found.append(f"{degrees} ({_gib(plan)})")
    return found


def _free_placements(request: Request, again: Again) -> list[str]:
    """No pins on how parameters are held, if there are any and that fits."""
    plan = again(replace(request, placements=())) if request.placements else None
    return [] if plan is None else [f"no placements= ({_gib(plan)})"]


def _more_zero(request: Request, again: Again) -> list[str]:
    """The least ZeRO stage that fits among those that the software does not choose by itself."""
    for zero in (1, 2, 3) if request.zero is None else ():
        if zero not in request.stack.space.zero and (plan := again(replace(request, zero=zero))) is not None:
            return [f"zero={zero} ({_gib(plan)})"]
    return []


def _more_devices(request: Request, again: Again) -> list[str]:
    """The least multiple of the devices that fits, with the same batch where it can be shared; pinned degrees stay, but
    where all are pinned there are more replicas.
    """
    complete = None not in (request.tp, request.pp, request.dp)
    for factor in MORE:
        world, batch = request.world * factor, request.global_batch
        more = replace(request, world=world, dp=request.dp * factor if complete and request.dp else request.dp)
        for larger in (more, replace(more, global_batch=batch * factor)):
            plan = again(larger)
            if plan is not None:
                changed = f", global_batch={larger.global_batch}" if larger.global_batch != batch else ""
                return [f"world={world} instead of {request.world} ({_gib(plan)}{changed})"]
    return []


def _gib(plan: Candidate) -> str:
    return f"{plan.peak_bytes / 2**30:.1f} GiB"


def _shown(pricing: Pricing, plan: Candidate, pin: str) -> str:
    """What `plan` has for `pin`, as a caller writes it."""
    value = getattr(plan, pin)
    if pin == "recompute" and plan.point.recompute == BY_LAYER:
        return f"None, which chooses {value}"
    return repr([pricing.units[index].name for index in value] if pin == "cuts" else value)


def _nearby(request: Request) -> int:
    """The next smaller world that the pins and the batch allow."""
    virtual = request.virtual_stages or 1
    pp = (len(request.cuts) + 1) // virtual if request.cuts is not None else request.pp or 1
    fixed = (request.tp or 1) * pp * (request.cp or 1)
    possible = [
        fixed * dp for dp in divisors(request.global_batch) if fixed * dp < request.world and request.dp in (None, dp)
    ]
    return max(possible, default=fixed * (request.dp or 1))


def _without(request: Request, pin: str) -> Request:
    """The request with one pin taken off; without cuts it keeps the number of stages."""
    values = {item.name: getattr(request, item.name) for item in fields(Request)}
    virtual = request.virtual_stages or 1
    stages: dict[str, int] = {}
    if pin == "cuts" and request.cuts is not None:
        stages = {"pp": (len(request.cuts) + 1) // virtual, "virtual_stages": virtual}
    return Request(**(values | {pin: None} | stages))
