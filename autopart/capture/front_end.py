"""find_front_end: from a front end's name to its `capture`, by listing this folder."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from autopart.capture.captured import Captured
from autopart.errors import UnknownNameError

DEFAULT_FRONT_END = "torch_export"

Capture = Callable[..., Captured]


def front_end_names() -> tuple[str, ...]:
    """The names of the front ends, sorted: the files of this folder that have a `capture` of their own."""
    return tuple(sorted(_captures()))


def find_front_end(name: str | None = None) -> Capture:
    """The function (model, batch, loss) -> Captured of the front end `name`; left out, of `torch_export`.

    Raises:
        UnknownNameError: there is none; the message lists those that there are.
    """
    captures = _captures()
    if name is None:
        name = DEFAULT_FRONT_END
    if name not in captures:
        raise UnknownNameError(f"no front end is called {name!r}; known front ends: {', '.join(sorted(captures))}")
    return captures[name]


def _captures() -> dict[str, Capture]:
    folder = str(Path(__file__).parent)
    modules = [import_module(f"{__package__}.{file.name}") for file in iter_modules([folder])]
    found = [(module.__name__, getattr(module, "capture", None)) for module in modules]
    return {name.rpartition(".")[2]: item for name, item in found if item and item.__module__ == name}
