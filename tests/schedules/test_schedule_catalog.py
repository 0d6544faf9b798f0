"""Every schedule of the catalogue is found and right; bubbles and activations match the formulas of the papers."""

from pathlib import Path

import pytest

from autopart.errors import PlanningError, UnknownNameError
from autopart.ir.action import Kind
from autopart.schedules import catalog
from autopart.schedules.find import find_schedule, schedule_names
from autopart.schedules.grid import grid
from autopart.schedules.homes import homes
from autopart.schedules.in_flight import peak_in_flight
from autopart.schedules.simulate import simulate
from autopart.schedules.timeline import Timeline
from autopart.schedules.validate import validate
from tests.schedules.sizes import sizes

SNAPSHOTS = Path(__file__).parent / "snapshots"
TIMES = [(1.0, 1.0, 1.0), (1.0, 2.0, 1.0), (3.0, 1.0, 0.5), (1.0, 1.25, 0.75)]


def run_equal(name: str, ranks: int, micro_batches: int, virtual: int, f: float, b: float, w: float) -> Timeline:
    """Equal stages; searched schedules know their times."""
    schedule = find_schedule(name)
    stages = ranks * virtual
    actions = schedule(ranks, micro_batches, virtual, f, b, w)
    backward = b if schedule.splits_backward else b + w
    return simulate(actions, [f] * stages, [backward] * stages, [0.0] * (stages - 1), weight_s=[w] * stages)


def longest_idle_s(timeline: Timeline) -> float:
    """The bubble as Qi et al. 2023 count it: of the rank that idles longest between its first and last action."""
    return max(timeline.idle_s(rank) for rank in range(len(timeline.ranks)))


def test_every_file_of_the_catalogue_is_one_schedule() -> None:
    files = [path for path in Path(catalog.__path__[0]).glob("*.py") if path.name != "__init__.py"]
    assert len(schedule_names()) == len(files)
    assert schedule_names() == (
        *("1f1b", "forward-only", "gpipe", "interleaved-1f1b"),
        *("zb-1p", "zb-2p", "zb-h1", "zb-h2", "zb-v"),
    )


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UnknownNameError) as error:
        find_schedule("zigzag")
    known = ", ".join(schedule_names())
    assert str(error.value) == f"no pipeline schedule is called 'zigzag'; known schedules: {known}"


@pytest.mark.parametrize("name", schedule_names())
def test_every_schedule_is_valid_at_every_size(name: str) -> None:
    schedule = find_schedule(name)
    for ranks, micro_batches, virtual in sizes(schedule):
        actions = schedule(ranks, micro_batches, virtual)
        assert len(actions) == ranks
        validate(actions, ranks * virtual, micro_batches, kinds=schedule.kinds)


@pytest.mark.parametrize("name", [name for name in schedule_names() if find_schedule(name).splits_backward])
@pytest.mark.parametrize("times", TIMES)
def test_schedules_are_valid_for_all_times(name: str, times: tuple[float, float, float]) -> None:
    schedule = find_schedule(name)
    for ranks, micro_batches, virtual in sizes(schedule, ranks=5, micro_batches=12):
        validate(schedule(ranks, micro_batches, virtual, *times), ranks * virtual, micro_batches, kinds=schedule.kinds)


@pytest.mark.parametrize("name", schedule_names())
def test_stages_are_where_they_should_be(name: str) -> None:
    schedule = find_schedule(name)
    for ranks, micro_batches, virtual in sizes(schedule, 4, 4):
        down = list(range(ranks))
        v_shape = [*down, *reversed(down)]
        expected = v_shape if name == "zb-v" else down * virtual
        assert list(homes(schedule(ranks, micro_batches, virtual))) == expected


@pytest.mark.parametrize("name", schedule_names())
@pytest.mark.parametrize("counts", [(0, 4, 1), (4, 0, 1), (-1, 1, 1), (1, 1, 0)])
def test_every_schedule_refuses_empty_pipelines(name: str, counts: tuple[int, int, int]) -> None:
    shown = f"not {counts[0]} ranks, {counts[1]} micro-batches and {counts[2]} stages a rank"
    with pytest.raises(PlanningError, match=shown):
        find_schedule(name)(*counts)


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        ("1f1b", (4, 8, 2), r"'1f1b' takes 1 virtual stages a rank, not 2: .*forward-only, interleaved-1f1b, zb-v,"),
        ("zb-v", (4, 8, 1), r"'zb-v' takes 2 virtual stages a rank, not 1: set virtual_stages=2"),
        ("zb-v", (4, 8, 3), r"'zb-v' takes 2 virtual stages a rank, not 3: set virtual_stages=2"),
        ("interleaved-1f1b", (4, 8, 1), r"takes at least 2 virtual stages a rank, not 1: set virtual_stages=2"),
        ("interleaved-1f1b", (4, 6, 2), r"multiple of 4 micro-batches on 4 ranks, not 6: .* there are 4 or 8"),
        ("interleaved-1f1b", (4, 3, 2), r"multiple of 4 micro-batches on 4 ranks, not 3: .* there are 4, or"),
    ],
)
def test_sizes_that_a_schedule_cannot_take_are_refused(name: str, counts: tuple[int, int, int], message: str) -> None:
    with pytest.raises(PlanningError, match=message):
        find_schedule(name)(*counts)
    with pytest.raises(PlanningError, match=message):
        find_schedule(name).check(*counts)


@pytest.mark.parametrize("times", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_times_that_are_none_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(PlanningError, match="must be above 0"):
        find_schedule("zb-1p")(2, 2, 1, *times)


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved-1f1b", "forward-only"])
@pytest.mark.parametrize(("f", "b", "w"), TIMES)
def test_bubble_of_whole_backward_passes(name: str, f: float, b: float, w: float) -> None:
    """Narayanan et al. 2021, section 2.2: (p - 1) (F + B) / v beside m (F + B), F and B being those of a whole rank."""
    for ranks, micro_batches, virtual in sizes(find_schedule(name)):
        if name == "forward-only" and virtual > 1 and micro_batches % ranks:
            continue
        timeline = run_equal(name, ranks, micro_batches, virtual, f, b, w)
        both = f if name == "forward-only" else f + b + w
        slots = virtual * micro_batches + ranks - 1
        assert timeline.step_s == pytest.approx(slots * both)
        assert timeline.bubble_fraction == pytest.approx((ranks - 1) / slots)


@pytest.mark.parametrize(("f", "b", "w"), [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0)])
def test_bubble_of_zero_bubble_schedules(f: float, b: float, w: float) -> None:
    """Qi et al. 2023: (p - 1) (F + B - W) for ZB-H1 and (p - 1) (F + B - 2 W) for ZB-H2 (table 1), 0 for ZB-V."""
    for ranks, micro_batches, _ in sizes(find_schedule("zb-h1")):
        for name, enough, bubble, virtual in (
            ("zb-h1", ranks, (ranks - 1) * (f + b - w), 1),
            ("zb-1p", ranks, (ranks - 1) * (f + b - w), 1),
            ("zb-h2", 2 * ranks - 1, (ranks - 1) * (f + b - 2 * w), 1),
            ("zb-2p", 2 * ranks - 1, (ranks - 1) * (f + b - 2 * w), 1),
            ("zb-v", 2 * ranks - 1, 0.0, 2),
        ):
            if micro_batches >= enough:
                timeline = run_equal(name, ranks, micro_batches, virtual, f, b, w)
                assert longest_idle_s(timeline) == pytest.approx(bubble)
                # Ranks start one after another; only ZB-H1's bubble is long enough to make them end together.
                assert timeline.step_s == pytest.approx(virtual * micro_batches * (f + b + w) + (ranks - 1) * f)


@pytest.mark.parametrize("times", TIMES)
def test_splitting_never_takes_longer(times: tuple[float, float, float]) -> None:
    for ranks, micro_batches, _ in sizes(find_schedule("zb-1p")):
        whole = run_equal("1f1b", ranks, micro_batches, 1, *times).step_s
        h1, one, two = (run_equal(name, ranks, micro_batches, 1, *times).step_s for name in ("zb-h1", "zb-1p", "zb-2p"))
        assert two <= one + 1e-9 and one <= h1 + 1e-9 and h1 <= whole + 1e-9


def test_in_flight_is_that_of_the_papers() -> None:
    for p, m, _ in sizes(find_schedule("1f1b")):
        peaks = {name: peak_in_flight(find_schedule(name)(p, m)) for name in ("gpipe", "1f1b", "zb-h1", "zb-h2")}
        assert peaks["gpipe"] == (m,) * p
        assert peaks["1f1b"] == tuple(min(p - r, m) for r in range(p))
        # Qi et al. 2023, table 1: p - i + 1 micro-batches before B and i - 1 between B and W on the ith of p workers,
        # 2p - 2i + 1 and 2i - 2 for ZB-H2.
        assert peaks["zb-h1"] == (min(p, m),) * p
        assert peaks["zb-h2"] == (min(2 * p - 1, m),) * p
        assert max(peak_in_flight(find_schedule("zb-1p")(p, m))) <= p
        assert max(peak_in_flight(find_schedule("zb-2p")(p, m))) <= 2 * p
        assert max(peak_in_flight(find_schedule("zb-v")(p, m, 2))) == 2 * min(p, m)
        assert peak_in_flight(find_schedule("forward-only")(p, m)) == (1,) * p


def test_in_flight_of_interleaved_is_that_of_the_paper() -> None:
    """Korthikanti et al. 2022: on the first rank 1 + (p - 1) / (p v) times what 1F1B holds."""
    for p, m, v in sizes(find_schedule("interleaved-1f1b")):
        peaks = peak_in_flight(find_schedule("interleaved-1f1b")(p, m, v))
        assert peaks == tuple(min(2 * (p - 1 - r) + (v - 1) * p + 1, v * m) for r in range(p))
        if m >= 2 * p:
            assert peaks[0] / v == pytest.approx(p * (1 + (p - 1) / (p * v)))


def test_what_a_rank_holds_is_weighed_by_its_stages() -> None:
    schedule = find_schedule("zb-v")(2, 8, 2)
    assert peak_in_flight(schedule) == (4, 4)
    assert peak_in_flight(schedule, [1.0, 0.0, 0.0, 0.0]) == (4, 0)
    assert peak_in_flight(schedule, [0.0, 0.0, 0.0, 1.0]) == (1, 0)
    assert peak_in_flight(schedule, [2.0, 0.0, 0.0, 1.0]) == (8, 0)  # not 9: its stages' peaks are at different times


@pytest.mark.parametrize(
    ("name", "ranks", "micro_batches", "virtual"),
    [
        *[(name, 4, 6, 1) for name in schedule_names() if find_schedule(name).takes(1)],
        *[(name, 2, 4, 2) for name in schedule_names() if find_schedule(name).takes(2)],
    ],
)
def test_grid_is_the_one_on_file(name: str, ranks: int, micro_batches: int, virtual: int) -> None:
    file = SNAPSHOTS / f"{name}_{ranks}x{micro_batches}{f'x{virtual}' if virtual > 1 else ''}.txt"
    assert grid(find_schedule(name)(ranks, micro_batches, virtual)) == file.read_text()


def test_a_split_schedule_has_its_kinds() -> None:
    for name in schedule_names():
        schedule = find_schedule(name)
        found = {action.kind for actions in schedule(2, 2, schedule.virtual_stages[0]) for action in actions}
        assert found == set(schedule.kinds)
        assert schedule.splits_backward == (Kind.WEIGHT in found)
