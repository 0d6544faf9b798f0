"""What a sweep says."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autopart.errors import UnsupportedError
from autopart.report.sweep import Budget, SweepPoint, sweep_table
from autopart.report.sweep_plot import sweep_plot
from tests.example_plans import image_plan, token_plan


def points() -> list[SweepPoint]:
    plan = token_plan()
    twice = replace(plan, world=128, dp=4, predicted=replace(plan.predicted, tokens_per_s=150_000.0, mfu=0.55))
    return [
        SweepPoint("dgx-h100", 8, None, "stage 0 needs 95.2 GiB at the least,\nh100-sxm-80gb has 79.2: try world=16"),
        SweepPoint("dgx-h100", 64, plan),
        SweepPoint("dgx-h100", 128, twice),
    ]


def test_snapshot(check_snapshot: Callable[[str, str], None]) -> None:
    check_snapshot("sweep.txt", sweep_table(points(), Budget(1e12, 2.5)) + "\n")


def test_hours_and_cost() -> None:
    plan = token_plan()
    plan = replace(plan, world=64, predicted=replace(plan.predicted, tokens_per_s=1e6))
    budget = Budget(3.6e12, 2.0)
    assert budget.device_hours(plan) == pytest.approx(1000 * 64)
    row = sweep_table([SweepPoint("dgx-h100", 64, plan)], budget).splitlines()[-1]
    assert row.endswith("64.0 k  41.7  128 k")


def test_columns_that_were_not_asked_for_are_left_out() -> None:
    assert "GPU-hours" not in sweep_table(points(), Budget())
    assert "cost" not in sweep_table(points(), Budget(1e12))
    assert Budget(1e12).device_hours(image_plan()) is None, "a model without tokens"


def test_why_there_is_no_plan_is_one_line() -> None:
    text = sweep_table(points()[:1], Budget())
    assert text.splitlines()[0] == "no plan fits"
    assert text.splitlines()[-1].startswith("dgx-h100, 8 devices: stage 0 needs 95.2 GiB at the least, h100")


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_a_plot_is_drawn(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"sweep.{kind}"
    sweep_plot(points(), path, Budget())
    assert path.read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_a_plot_that_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnsupportedError, match=r"end its name in \.png, \.svg"):
        sweep_plot(points(), tmp_path / "sweep.txt", Budget())
    with pytest.raises(UnsupportedError, match="cannot be saved as"):
        sweep_plot(points(), tmp_path / "none" / "sweep.png", Budget())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'autopart\[plot\]'"):
        sweep_plot(points(), tmp_path / "sweep.png", Budget())
