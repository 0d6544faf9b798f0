"""Write a timeline into a file, of the kind that the file's name asks for."""

import json
from collections.abc import Mapping
from pathlib import Path

from autopart.errors import UnsupportedError
from autopart.report.chrome_trace import chrome_trace
from autopart.report.timeline_plot import timeline_plot
from autopart.report.timeline_svg import timeline_svg
from autopart.schedules.timeline import Timeline

KINDS = (".svg", ".png", ".json")


def save_timeline(timelines: Mapping[str, Timeline], path: str | Path) -> None:
    """Write `timelines`, by their titles, as a picture (.svg, .png) or as a Chrome trace (.json).

    A picture is of one timeline; a trace holds any number, one below the other.

    Raises:
        UnsupportedError: another ending, a picture of several, no matplotlib for a .png, or the file cannot be written.
    """
    kind = Path(path).suffix
    if kind not in KINDS:
        raise UnsupportedError(f"a timeline cannot be written as {path}: end its name in {', '.join(KINDS)}")
    if kind != ".json" and len(timelines) != 1:
        raise UnsupportedError(f"a picture is of one timeline, not of {len(timelines)}: write them as .json")
    try:
        if kind == ".json":
            Path(path).write_text(json.dumps(chrome_trace(timelines)) + "\n", encoding="utf-8")
        elif kind == ".svg":
            [(title, timeline)] = timelines.items()
            Path(path).write_text(timeline_svg(timeline, title), encoding="utf-8")
        else:
            [(title, timeline)] = timelines.items()
            timeline_plot(timeline, title, path)
    except OSError as error:
        raise UnsupportedError(f"the timeline cannot be saved as {path}: {error.strerror or error}") from error
