"""FoundPlaces: collects the places that stand in the way of capture, and writes the report about them."""

import re
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from traceback import FrameSummary

from autopart.errors import CaptureError, Place


@dataclass
class FoundPlaces:
    """Places by line and construct; layers of a kind share theirs.

    Attributes:
        stopped: where the search could not go on.
    """

    stopped: FrameSummary | None = None
    _modules: dict[Place, dict[str, None]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many were found."""
        return len(self._modules)

    def add(self, frame: FrameSummary | None, module: str, construct: str, advice: str) -> str:
        """Note a place, and return its location."""
        location, source = (f"{frame.filename}:{frame.lineno}", frame.line or "") if frame is not None else ("", "")
        place = Place(location, source, "", construct, advice)
        self._modules.setdefault(place, {})[module] = None
        return location

    def places(self) -> tuple[Place, ...]:
        """All of them, in the order of discovery, each with the modules that it ran in."""
        return tuple(
            replace(place, module=pattern(list(modules)), modules=tuple(modules))
            for place, modules in self._modules.items()
        )

    def error(self, model: str) -> CaptureError:
        """The report: every place, what to write instead, and which modules to keep whole for the time being."""
        places = self.places()
        count = "one place" if len(places) == 1 else f"{len(places)} places"
        lines = [f"{model} cannot be captured because of {count} in its code:"]
        for number, place in enumerate(places, 1):
            inside = f", in module {place.module}" if place.module else ""
            own = f'{place.location}: "{place.source}"{inside}'
            lines += [
                f"{number}. {own if place.location else f'in code of torch{inside}, called by no line of the model'}",
                f"   {place.construct}",
                f"   {place.advice}",
            ]
        if self.stopped is not None:
            lines.append(f"What runs after {self.stopped.filename}:{self.stopped.lineno} has not been looked at.")
        modules = smallest([place.module for place in places])
        if modules:
            whole = ", ".join(f'"{module}"' for module in modules)
            lines.append(
                f"Change these lines, or keep these modules whole: keep_whole=[{whole}]. Each is then called as it is, "
                'by every tensor-parallel rank. keep_whole="auto" keeps what has to be'
            )
        return CaptureError("\n".join(lines), places)


def pattern(modules: list[str]) -> str:
    """One name for `modules`: with `*` where only the numbers of layers differ; else the module that holds them all."""
    if len(modules) == 1:
        return modules[0]
    paths = [module.split(".") for module in modules]
    if len({len(path) for path in paths}) == 1:
        columns = [set(column) for column in zip(*paths, strict=True)]
        if all(len(column) == 1 or all(re.fullmatch(r"\d+", name) for name in column) for column in columns):
            return ".".join(next(iter(column)) if len(column) == 1 else "*" for column in columns)
    common = []
    for column in zip(*paths, strict=False):
        if len(set(column)) > 1:
            break
        common.append(column[0])
    return ".".join(common)


def smallest(modules: list[str]) -> list[str]:
    """The fewest of `modules` that hold all; none if one is the model itself, which cannot be kept whole."""
    unique = list(dict.fromkeys(modules))
    if "" in unique:
        return []
    return [name for name in unique if not any(other != name and holds(other, name) for other in unique)]


def holds(pattern: str, path: str) -> bool:
    """Whether the module that `pattern` names, `*` standing for one name, is the one at `path` or has it inside."""
    own, other = pattern.split("."), path.split(".")
    return len(own) <= len(other) and all(fnmatchcase(b, a) for a, b in zip(own, other, strict=False))


def matches(pattern: str, path: str) -> bool:
    """Whether the module that `pattern` names is the one at `path`."""
    return pattern.count(".") == path.count(".") and holds(pattern, path)
