"""ZB-1p: a searched zero-bubble schedule in the memory of 1F1B.

Source: Qi et al., "Zero Bubble Pipeline Parallelism", 2023, sections 3.1 and 4.
"""

from autopart.ir.action import Kind, Schedule
from autopart.schedules.pipeline import Pipeline
from autopart.schedules.search_order import search_order

NAME = "zb-1p"
KINDS = (Kind.FORWARD, Kind.BACKWARD, Kind.WEIGHT)
VIRTUAL_STAGES = (1, 1)
WHOLE_ROUNDS = False


def actions(pipeline: Pipeline) -> Schedule:
    """The ZB-1p schedule, stage s on pipeline rank s: no rank holds more micro-batches than there are ranks.

    Where F, B and W take the same time it idles as long as ZB-H1; unlike ZB-H1 it follows the times of the pipeline.
    """
    return search_order(pipeline, limit=pipeline.ranks)


def fill_s(forward_s: float, backward_s: float, weight_s: float, virtual_stages: int) -> float:
    """Seconds by which each further rank makes the step longer: section 2.3; never less than it waits for its input."""
    return max(forward_s, forward_s + backward_s - weight_s)
