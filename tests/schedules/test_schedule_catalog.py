"""Every schedule in the catalogue is found and right; GPipe and 1F1B match the formulas of their papers."""

from pathlib import Path

import pytest

from autopart.errors import PlanningError, UnknownNameError
from autopart.ir.action import Schedule
from autopart.schedules import catalog
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.grid import grid
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.schedules.validate import validate

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = [(stages, micro_batches) for stages in range(1, 9) for micro_batches in range(1, 21)]


def run_equal(schedule: Schedule, forward_s: float = 1.0, backward_s: float = 1.0) -> Timeline:
    stages = len(schedule)
    return simulate(schedule, [forward_s] * stages, [backward_s] * stages, [0.0] * (stages - 1))


def test_every_file_of_the_catalogue_is_one_schedule() -> None:
    files = [path for path in Path(catalog.__path__[0]).glob("*.py") if path.name != "__init__.py"]
    assert len(schedule_names()) == len(files)
    assert {"1f1b", "gpipe"} <= set(schedule_names())


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as error:
        find_schedule("zigzag")
    known = ", ".join(schedule_names())
    assert str(error.value) == f"no pipeline schedule is called 'zigzag'; known schedules: {known}"


@pytest.mark.parametrize("name", schedule_names())
def test_every_schedule_is_valid_at_every_size(name: str) -> None:
    for stages, micro_batches in SIZES:
        validate(find_schedule(name)(stages, micro_batches), stages, micro_batches)


@pytest.mark.parametrize("name", schedule_names())
@pytest.mark.parametrize(("stages", "micro_batches"), [(0, 4), (4, 0), (-1, 1)])
def test_every_schedule_refuses_empty_pipelines(name: str, stages: int, micro_batches: int) -> None:
    with pytest.raises(PlanningError, match=f"{stages} stages and {micro_batches} micro-batches"):
        find_schedule(name)(stages, micro_batches)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("forward_s", "backward_s"), [(1.0, 1.0), (1.0, 2.0), (3.0, 1.0)])
def test_bubble_is_that_of_the_papers(name: str, forward_s: float, backward_s: float) -> None:
    for stages, micro_batches in SIZES:
        timeline = run_equal(find_schedule(name)(stages, micro_batches), forward_s, backward_s)
        slots = micro_batches + stages - 1
        assert timeline.step_s == pytest.approx(slots * (forward_s + backward_s))
        assert timeline.bubble_fraction == pytest.approx((stages - 1) / slots)


def test_in_flight_is_that_of_the_papers() -> None:
    for stages, micro_batches in SIZES:
        gpipe = run_equal(find_schedule("gpipe")(stages, micro_batches))
        one_f_one_b = run_equal(find_schedule("1f1b")(stages, micro_batches))
        for stage in range(stages):
            assert gpipe.in_flight(stage) == micro_batches
            assert one_f_one_b.in_flight(stage) == min(stages - stage, micro_batches)


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize(("stages", "micro_batches"), [(4, 6)])
def test_grid_is_the_one_on_file(name: str, stages: int, micro_batches: int) -> None:
    expected = (SNAPSHOTS / f"{name}_{stages}x{micro_batches}.txt").read_text()
    assert grid(find_schedule(name)(stages, micro_batches)) == expected
