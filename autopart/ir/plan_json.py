"""A plan as JSON values, and back: texts and numbers, of which nothing is executed."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, get_args, get_origin

from autopart.errors import PlanFileError
from autopart.ir.placement import Layout, parse_layout
from autopart.ir.plan import RECOMPUTE, PlanData

FORMAT = 5


def plan_to_json(plan: PlanData) -> dict[str, Any]:
    """The plan as JSON values."""
    data: dict[str, Any] = {"autopart_plan": FORMAT}
    data.update({item.name: _dump(getattr(plan, item.name)) for item in dataclasses.fields(PlanData)})
    return data


def write_plan(plan: PlanData, path: str | Path) -> None:
    """Write the plan as JSON.

    Raises:
        PlanFileError: the file cannot be written.
    """
    try:
        Path(path).write_text(json.dumps(plan_to_json(plan), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise PlanFileError(f"the plan cannot be saved as {path}: {reason}. Save it in a folder that exists") from error


def plan_from_json(data: object, where: str) -> dict[str, Any]:
    """The fields of a plan from JSON values; nothing in them is executed.

    Raises:
        PlanFileError: another format, or an entry that is missing, unknown, of the wrong kind or at odds with the
            others; `where` names the file.
    """
    if not isinstance(data, dict) or "autopart_plan" not in data:
        raise PlanFileError(
            f"{where} is not an autopart plan: it has no 'autopart_plan' entry. Name a file that plan.save() wrote"
        )
    if data["autopart_plan"] != FORMAT:
        raise PlanFileError(
            f"{where} has plan format {data['autopart_plan']!r}, and this autopart reads format {FORMAT}. "
            "Plan again with this version, or use the version that wrote it"
        )
    try:
        fields = _load_fields(PlanData, {name: value for name, value in data.items() if name != "autopart_plan"}, "")
        _check_sums(fields)
    except (ValueError, OverflowError) as error:
        raise PlanFileError(f"{where} is damaged: {error}. Plan again and save it") from error
    return fields


def _check_sums(fields: dict[str, Any]) -> None:
    """Raise ValueError where the counts in `fields` contradict each other."""
    for name in (
        "world",
        "tp",
        "pp",
        "dp",
        "cp",
        "global_batch",
        "micro_batch",
        "virtual_stages",
        "devices_per_node",
    ):
        if fields[name] < 1:
            raise ValueError(f"entry {name!r} is {fields[name]}, below 1")
    tp, pp, dp, cp, world = (fields[name] for name in ("tp", "pp", "dp", "cp", "world"))
    if tp * pp * dp * cp != world:
        shown = f"tp {tp} x pp {pp} x dp {dp}" + (f" x cp {cp}" if cp > 1 else "")
        raise ValueError(f"{shown} is {tp * pp * dp * cp}, and 'world' is {world}")
    devices = sum(group.devices for group in fields["groups"])
    if devices not in (0, world):
        raise ValueError(f"'groups' have {devices} devices, and 'world' is {world}")
    batch, step = fields["global_batch"], dp * fields["micro_batch"]
    if batch % step:
        raise ValueError(f"'global_batch' is {batch}, not a multiple of dp x micro_batch = {step}")
    every = pp * fields["virtual_stages"]
    lengths = {"stages": every, "cuts": every - 1}
    counts = {name: len(fields[name]) for name in lengths} | {
        "predicted.peak_memory_bytes": len(fields["predicted"].peak_memory_bytes)
    }
    for name, count in counts.items():
        if count != lengths.get(name, pp):
            raise ValueError(f"entry {name!r} has {count} items where pp {pp} needs {lengths.get(name, pp)}")
    stages, cuts = fields["stages"], fields["cuts"]
    if tuple(stage.start for stage in stages) != (0, *cuts) or any(
        stage.start >= stage.stop or stage.stop != after
        for stage, after in zip(stages, (*cuts, stages[-1].stop), strict=True)
    ):
        shown = ", ".join(f"{stage.start} to {stage.stop}" for stage in stages)
        raise ValueError(f"'cuts' is {list(cuts)}, and 'stages' are of units {shown}")
    for number, stage in enumerate(stages):
        if sum(layers for _, layers in stage.recompute) != stage.layers or any(n < 1 for _, n in stage.recompute):
            raise ValueError(f"stage {number} has {stage.layers} layers, and its 'recompute' is of {stage.recompute}")
        if unknown := [kind for kind, _ in stage.recompute if kind not in RECOMPUTE]:
            raise ValueError(f"stage {number} recomputes {unknown[0]!r}: known are {', '.join(RECOMPUTE)}")


def _dump(value: Any) -> Any:
    if isinstance(value, Layout):
        return str(value)
    if isinstance(value, tuple):
        return [_dump(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _dump(getattr(value, item.name)) for item in dataclasses.fields(value)}
    return value


def _load_fields(kind: type, value: object, path: str) -> dict[str, Any]:
    """The fields of the dataclass `kind` from a JSON object; `path` is where it stands, for ValueErrors."""
    if not isinstance(value, dict):
        raise ValueError(f"entry {path!r} is {_short(value)}, not an object")
    prefix = f"{path}." if path else ""
    known = {item.name: item.type for item in dataclasses.fields(kind)}
    for name in known:
        if name not in value:
            raise ValueError(f"entry {prefix + name!r} is missing")
    for name in value:
        if name not in known:
            raise ValueError(f"entry {prefix + name!r} is unknown")
    return {name: _load(inner, value[name], prefix + name) for name, inner in known.items()}


def _load(kind: Any, value: Any, path: str) -> Any:
    """The value of type `kind` from a JSON value."""
    if kind is Layout:
        if not isinstance(value, str):
            raise ValueError(f"entry {path!r} is {_short(value)}, not a layout")
        try:
            return parse_layout(value)
        except ValueError as error:
            raise ValueError(f"entry {path!r}: {error}") from error
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**_load_fields(kind, value, path))
    if get_origin(kind) is tuple:
        return _load_tuple(get_args(kind), value, path)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = (str, type(None)) if kind == (str | None) else (kind,)
    if type(value) not in wanted or (kind is float and not math.isfinite(value)):
        name = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")
        raise ValueError(f"entry {path!r} is {_short(value)}, not {name}")
    return value


def _load_tuple(arguments: tuple[Any, ...], value: object, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"entry {path!r} is {_short(value)}, not a list")
    inner = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(inner) != len(value):
        raise ValueError(f"entry {path!r} has {len(value)} items, not {len(inner)}")
    return tuple(
        _load(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(inner, value, strict=True))
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
