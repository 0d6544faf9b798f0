"""Read a saved plan. Nothing in the file is executed."""

import json
from pathlib import Path

from autopart.errors import PlanFileError
from autopart.ir.plan_json import plan_from_json
from autopart.report.printed_plan import Plan


def load_plan(path: str | Path) -> Plan:
    """The plan that `plan.save(path)` wrote.

    Raises:
        PlanFileError: there is no such file, or it is no plan, or damaged, or of another version.
    """
    where = str(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise PlanFileError(
            f"there is no plan file {where!r}: make one with plan.save({where!r}), or autopart plan ... --save {where}"
        ) from error
    except OSError as error:
        raise PlanFileError(
            f"{where} cannot be read: {error.strerror or error}. Name a file that plan.save() wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise PlanFileError(
            f"{where} is not text in UTF-8: {error.reason} at byte {error.start}. Plan again and save it"
        ) from error
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise PlanFileError(
            f"{where} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. Plan again and save it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PlanFileError(f"{where} holds JSON that no plan has: {error}. Plan again and save it") from error
    return Plan(**plan_from_json(data, where))
