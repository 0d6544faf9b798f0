"""Saved plans, read back; and files that are none."""

import json
from pathlib import Path

import pytest

from autopart.errors import PlanFileError
from autopart.report.load import load_plan
from autopart.report.printed_plan import Plan
from tests.example_plans import image_plan, token_plan


@pytest.mark.parametrize("plan", [token_plan(), image_plan()])
def test_round_trip(plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    again = load_plan(path)
    assert type(again) is Plan
    assert again == plan
    assert str(again) == str(plan)


def test_save_where_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(
        PlanFileError, match=r"cannot be saved as .*none.plan.json: No such file or directory. Save it in a folder"
    ):
        token_plan().save(tmp_path / "none" / "plan.json")


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(PlanFileError, match=r"there is no plan file '.*none.json': make one with plan.save"):
        load_plan(path)


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(PlanFileError, match="cannot be read: Is a directory"):
        load_plan(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b'{"autopart_plan": 1,', "is not JSON: .* at line 1"),
        (b"\xff\xfe\x00", "is not text in UTF-8: .* at byte 0"),
        (b"[" * 200_000, "holds JSON that no plan has|is not JSON"),
        (b'{"autopart_plan": ' + b"1" * 5000 + b"}", "holds JSON that no plan has"),
        (b"[]", "is not an autopart plan"),
        (b'{"model": "x"}', "is not an autopart plan: it has no 'autopart_plan' entry"),
        (b'{"autopart_plan": 99}', "has plan format 99, and this autopart reads format 5"),
        (b'{"autopart_plan": 5}', "is damaged: entry 'model' is missing. Plan again"),
    ],
)
def test_what_is_no_plan(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(PlanFileError, match=message) as caught:
        load_plan(path)
    assert str(path) in str(caught.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    plan = token_plan()
    path = tmp_path / "plan.json"
    plan.save(path)
    data = json.loads(path.read_text())
    data["model"] = "__import__('os').abort()"
    path.write_text(json.dumps(data))
    assert load_plan(path).model == "__import__('os').abort()"
