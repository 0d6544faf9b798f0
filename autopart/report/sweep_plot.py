"""A sweep as a picture, over the number of devices, a line for each cluster."""

from collections.abc import Sequence
from pathlib import Path

from autopart.errors import UnsupportedError
from autopart.report.quantity import GIB
from autopart.report.sweep import Budget, SweepPoint

_KINDS = (".png", ".svg", ".pdf")


def check_plot(path: str | Path) -> None:
    """Whether `sweep_plot` can write such a file, before anything is searched for it.

    Raises:
        UnsupportedError: matplotlib is not installed, or the name has another ending than .png, .svg or .pdf.
    """
    if Path(path).suffix not in _KINDS:
        raise UnsupportedError(f"a plot cannot be written as {path}: end its name in {', '.join(_KINDS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UnsupportedError(
            "a plot needs matplotlib, which is not installed: pip install 'autopart[plot]', or leave the plot out"
        ) from error


def sweep_plot(points: Sequence[SweepPoint], path: str | Path, budget: Budget) -> None:
    """Draw throughput, MFU and memory of the points that have a plan into `path`; with tokens, GPU-hours or cost too.

    Raises:
        UnsupportedError: as `check_plot`, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    rate, use, memory, hours = figure.subplots(2, 2).flat
    for cluster in dict.fromkeys(point.cluster for point in points):
        own = [(point.world, point.plan) for point in points if point.plan and point.cluster == cluster]
        worlds, told = [world for world, _ in own], [plan.predicted for _, plan in own]
        rate.plot(worlds, [each.tokens_per_s or each.samples_per_s for each in told], marker="o", label=cluster)
        use.plot(worlds, [100 * each.mfu for each in told], marker="o", label=cluster)
        (line,) = memory.plot(worlds, [max(each.peak_memory_bytes) / GIB for each in told], marker="o", label=cluster)
        for limit in {plan.memory_limit_bytes / GIB for _, plan in own}:
            memory.axhline(limit, color=line.get_color(), linestyle=":")
        spent = [(world, budget.device_hours(plan)) for world, plan in own]
        known = [(world, each * (budget.price or 1.0)) for world, each in spent if each is not None]
        hours.plot([world for world, _ in known], [each for _, each in known], marker="o", label=cluster)
    tokens = any(point.plan and point.plan.predicted.tokens_per_s for point in points)
    rate.set(xlabel="devices", ylabel="tokens/s" if tokens else "samples/s", xscale="log", yscale="log")
    use.set(xlabel="devices", ylabel="MFU, %", xscale="log", ylim=(0, None))
    memory.set(xlabel="devices", ylabel="fullest device, GiB (dotted: all it has)", xscale="log", ylim=(0, None))
    hours.set(xlabel="devices", ylabel="GPU-hours" if budget.price is None else "cost", xscale="log", ylim=(0, None))
    hours.set_visible(budget.tokens is not None)
    use.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise UnsupportedError(f"the plot cannot be saved as {path}: {error.strerror or error}") from error
