"""A timeline as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing show.

The format is the JSON object form of the "Trace Event Format": complete events ("ph": "X") with times in microseconds,
a process for the timeline, a thread for each rank.
"""

from collections.abc import Mapping
from typing import Any

from autopart.schedules.timeline import Timeline

_MICROSECONDS = 1e6
_CATEGORIES = {"F": "forward", "B": "backward", "W": "weight"}


def chrome_trace(timelines: Mapping[str, Timeline]) -> dict[str, Any]:
    """The timelines, each a process under its name, so that several can be laid one below the other.

    Returns JSON values; every event has its `stage` and `micro_batch` under "args".
    """
    events: list[dict[str, Any]] = []
    for process, (name, timeline) in enumerate(timelines.items()):
        events.append({"ph": "M", "name": "process_name", "pid": process, "tid": 0, "args": {"name": name}})
        for rank, spans in enumerate(timeline.ranks):
            told = {"name": f"rank {rank}"}
            events.append({"ph": "M", "name": "thread_name", "pid": process, "tid": rank, "args": told})
            for span in spans:
                action = span.action
                events.append(
                    {
                        "ph": "X",
                        "name": str(action),
                        "cat": _CATEGORIES[action.kind.value],
                        "pid": process,
                        "tid": rank,
                        "ts": _MICROSECONDS * span.start_s,
                        "dur": _MICROSECONDS * (span.end_s - span.start_s),
                        "args": {"stage": action.stage, "micro_batch": action.micro_batch},
                    }
                )
    return {"traceEvents": events, "displayTimeUnit": "ms"}
