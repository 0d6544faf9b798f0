"""A timeline as a picture that needs matplotlib: a row a rank, a box an action."""

from pathlib import Path

from autopart.errors import UnsupportedError
from autopart.ir.action import Kind
from autopart.report.quantity import percent, seconds
from autopart.report.timeline_svg import COLOURS, NAMES
from autopart.schedules.timeline import Timeline


def timeline_plot(timeline: Timeline, title: str, path: str | Path) -> None:
    """Draw `timeline` under `title` into the file `path`, whose ending says what kind it is.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "a .png needs matplotlib, which is not installed: pip install 'autopart[plot]', or write an .svg"
        ) from error
    figure = Figure(figsize=(12, 0.8 + 0.3 * len(timeline.ranks)), layout="constrained")
    axes = figure.subplots()
    for kind in Kind:
        named = False
        for rank, spans in enumerate(timeline.ranks):
            boxes = [(span.start_s, span.end_s - span.start_s) for span in spans if span.action.kind is kind]
            if boxes:
                label = None if named else NAMES[kind]
                axes.broken_barh(boxes, (rank - 0.4, 0.8), facecolors=COLOURS[kind], edgecolor="white", label=label)
                named = True
    axes.set(xlabel="seconds", xlim=(0, timeline.step_s), yticks=range(len(timeline.ranks)))
    axes.set_yticklabels([f"rank {rank}" for rank in range(len(timeline.ranks))])
    axes.invert_yaxis()
    axes.set_title(f"{title}: {seconds(timeline.step_s)}, bubble {percent(timeline.bubble_fraction)}", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)
    figure.savefig(path)
