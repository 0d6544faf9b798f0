"""find_schedule: from a schedule's name to the function that builds it, by listing `catalog/`."""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from autopart.errors import UnknownNameError
from autopart.ir.action import Schedule
from autopart.schedules import catalog


def schedule_names() -> tuple[str, ...]:
    """The names of the schedules in `catalog/`, sorted."""
    return tuple(sorted(_modules()))


def find_schedule(name: str) -> Callable[[int, int], Schedule]:
    """The function (stages, micro_batches) -> Schedule called `name`.

    Raises UnknownNameError, which lists the known names, if there is none.
    """
    modules = _modules()
    if name not in modules:
        raise UnknownNameError(
            f"no pipeline schedule is called {name!r}; known schedules: {', '.join(sorted(modules))}"
        )
    actions: Callable[[int, int], Schedule] = modules[name].actions
    return actions


def _modules() -> dict[str, ModuleType]:
    found = (import_module(f"{catalog.__name__}.{file.name}") for file in iter_modules(catalog.__path__))
    return {str(module.NAME): module for module in found}
