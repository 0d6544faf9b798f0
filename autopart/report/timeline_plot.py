"""A timeline as a picture that needs matplotlib: a row a rank, a box an action."""

from pathlib import Path

from autopart.errors import UnsupportedError
from autopart.ir.action import Kind
from autopart.report.quantity import percent, seconds
from autopart.report.timeline_svg import COLOURS, NAMES
from autopart.schedules.timeline import Timeline

_WIDTH = 12  # inches
_LABELS = 150  # characters that fit in a row


def timeline_plot(timeline: Timeline, title: str, path: str | Path) -> None:
    """Draw `timeline` under `title` into the file `path`, whose ending says what kind it is.

    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        from matplotlib.artist import Artist
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            "a .png needs matplotlib, which is not installed: pip install 'autopart[plot]', or write an .svg"
        ) from error
    figure = Figure(figsize=(_WIDTH, 1.1 + 0.3 * len(timeline.ranks)), layout="constrained")
    axes = figure.subplots()
    handles: dict[Kind, Artist] = {}
    for rank, spans in enumerate(timeline.ranks):
        stages = sorted({span.action.stage for span in spans})
        boxes: dict[tuple[Kind, int], list[tuple[float, float]]] = {}
        for span in spans:
            length_s, label = span.end_s - span.start_s, str(span.action.micro_batch)
            boxes.setdefault((span.action.kind, span.action.stage), []).append((span.start_s, length_s))
            if length_s * _LABELS >= len(label) * timeline.step_s:
                axes.text(span.start_s + length_s / 2, rank, label, ha="center", va="center", fontsize=8)
        for (kind, stage), own in boxes.items():
            shade = 1.0 - 0.5 * stages.index(stage) / len(stages)
            drawn = axes.broken_barh(own, (rank - 0.4, 0.8), color=COLOURS[kind], alpha=shade, edgecolor="white")
            handles.setdefault(kind, drawn)
    axes.set(xlabel="seconds", xlim=(0, timeline.step_s), yticks=range(len(timeline.ranks)))
    axes.set_yticklabels([f"rank {rank}" for rank in range(len(timeline.ranks))])
    axes.invert_yaxis()
    axes.set_title(f"{title}: {seconds(timeline.step_s)}, bubble {percent(timeline.bubble_fraction)}", fontsize=10)
    present = [kind for kind in Kind if kind in handles]
    figure.legend(
        [handles[kind] for kind in present], [NAMES[kind] for kind in present], loc="outside lower right", ncols=3
    )
    figure.savefig(path)
