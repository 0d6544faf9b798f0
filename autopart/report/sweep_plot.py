"""A sweep as a picture: throughput and use of the devices over their number, a line for each cluster."""

from collections.abc import Sequence
from pathlib import Path

from autopart.errors import UnsupportedError
from autopart.report.sweep import SweepPoint

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


def sweep_plot(points: Sequence[SweepPoint], path: str | Path) -> None:
    """Draw the points that have a plan into the file `path`.

    Raises:
        UnsupportedError: as `check_plot`, or the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    rate, use = figure.subplots(1, 2)
    for cluster in dict.fromkeys(point.cluster for point in points):
        own = [(point.world, point.plan.predicted) for point in points if point.plan and point.cluster == cluster]
        worlds = [world for world, _ in own]
        rate.plot(worlds, [told.tokens_per_s or told.samples_per_s for _, told in own], marker="o", label=cluster)
        use.plot(worlds, [100 * told.mfu for _, told in own], marker="o", label=cluster)
    tokens = any(point.plan and point.plan.predicted.tokens_per_s for point in points)
    rate.set(xlabel="devices", ylabel="tokens/s" if tokens else "samples/s", xscale="log", yscale="log")
    use.set(xlabel="devices", ylabel="MFU, %", xscale="log", ylim=(0, None))
    use.legend()
    try:
        figure.savefig(path)
    except OSError as error:
        raise UnsupportedError(f"the plot cannot be saved as {path}: {error.strerror or error}") from error
